"""Ctrl-C, SIGTERM and SIGHUP: each stops a command in the same way, at once, and with the same clean-up."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

# systemd and Kubernetes send SIGTERM; a terminal or a connection that closes sends SIGHUP.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Makes each of the signals raise KeyboardInterrupt in the main thread, after one line on standard error.

    So a lease is released, temporary folders are removed, and a job on a cluster is cancelled, whatever the signal. A
    signal that the process ignores, as under `nohup`, stays ignored. Further SIGTERM and SIGHUP do not disturb the
    clean-up; a further Ctrl-C ends it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        nonlocal interrupted
        if interrupted and number != signal.SIGINT:
            return
        if not interrupted:
            interrupted = True
            name = signal.Signals(number).name
            # Not through Python's streams: the signal may have come while they are written to.
            with contextlib.suppress(OSError):
                os.write(2, f"densecast: interrupted by {name}, stopping\n".encode())
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number in _SIGNALS if before[number] not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
