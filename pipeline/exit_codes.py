"""The exit codes of `densecast`. They are stable, because schedulers and scripts depend on them."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Why the command ended.

    Attributes:
        DONE: The command succeeded; also if there was nothing to do.
        FAILED: An error ended the command.
        USAGE: The command line or the job file is wrong; the same call fails again.
        REJECTED: The run has committed its rows, and more images than allowed have no map.
        DAMAGED: The table is damaged.
        BUSY: Another run holds the lease on the table; nothing was done.
        DRIFTED: Maps or features differ from earlier ones by more than a threshold; a run has committed its rows.
        INTERRUPTED: The command was stopped by SIGINT (Ctrl-C), SIGTERM or SIGHUP.
    """

    DONE = 0
    FAILED = 1
    USAGE = 2
    REJECTED = 3
    DAMAGED = 4
    BUSY = 5
    DRIFTED = 6
    INTERRUPTED = 130
