"""The exit codes of `densecast`: stable, since schedulers and scripts decide by them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the command says to whoever started it.

    Attributes:
        DONE: All went well; also where there was nothing to do.
        FAILED: An error ended the command.
        USAGE: The command line is wrong.
        REJECTED: The run has published, and more images than allowed have no map.
        DAMAGED: The table is damaged.
        BUSY: Another run holds the lease on the table; nothing was done.
        DRIFTED: The run has published, and its maps differ from earlier ones by more than a threshold.
        INTERRUPTED: The command was stopped by SIGINT or SIGTERM.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    DAMAGED = 4
    BUSY = 5
    DRIFTED = 6
    INTERRUPTED = 130
