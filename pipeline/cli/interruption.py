"""Ctrl-C, SIGTERM and SIGHUP: each stops a command in the same way, at once, and with the same clean-up."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from conversion import remove_temporary_folders
from pipeline.exit_codes import ExitCode

# systemd and Kubernetes send SIGTERM; a terminal or a connection that closes sends SIGHUP.
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE_S = 1.5
_NUDGE_S = 0.1


@dataclasses.dataclass
class Interruption:
    """Whether a signal has come.

    Attributes:
        came: Whether one has.
    """

    came: bool = False


@contextlib.contextmanager
def interruptible() -> Iterator[Interruption]:
    """Makes each of the signals raise KeyboardInterrupt in the main thread, after one line on standard error.

    So a lease is released, temporary folders are removed, and a job on a cluster is cancelled, whatever the signal. A
    signal that the process ignores, as under `nohup`, stays ignored. Further SIGTERM and SIGHUP do not disturb the
    clean-up; a further Ctrl-C ends it.

    Python raises nothing while the main thread computes outside of Python, which may take long. Then a thread prints
    the line, waits a little, removes temporary folders and ends the process. A signal that comes just before the main
    thread begins to wait for a lock does not end that wait, so the thread sends it further ones meanwhile.

    Yields:
        Whether a signal has come so far.
    """
    if threading.current_thread() is not threading.main_thread():
        yield Interruption()
        return
    interruption, raised = Interruption(), threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if raised.is_set() and number != signal.SIGINT:
            return
        interruption.came = True
        raised.set()
        raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number in _SIGNALS if before[number] not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, interrupt)
    try:
        with _woken(set(taken), raised):
            yield interruption
    finally:  # after the thread, whose signals the former handlers must not get
        for number in taken:
            signal.signal(number, before[number])


@contextlib.contextmanager
def _woken(numbers: set[signal.Signals], raised: threading.Event) -> Iterator[None]:
    """Announces the first signal from a thread, which the system wakes at once whatever the main thread does."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    outer = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    main_thread = threading.get_ident()

    def announce() -> None:
        while (byte := os.read(reading, 1)) and byte[0] not in numbers:
            pass
        if not byte:  # the command has ended
            return
        # Not through Python's streams: the signal may have come while they are written to.
        with contextlib.suppress(OSError):
            os.write(2, f"densecast: interrupted by {signal.Signals(byte[0]).name}, stopping\n".encode())
        for _ in range(round(_PATIENCE_S / _NUDGE_S)):
            if raised.wait(_NUDGE_S):
                return
            if signal.SIGTERM in numbers:  # ignored once the exception is raised, as a further SIGINT is not
                signal.pthread_kill(main_thread, signal.SIGTERM)
        remove_temporary_folders()
        os._exit(ExitCode.INTERRUPTED)

    thread = threading.Thread(target=announce, name="densecast-signals", daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(outer)
        os.close(writing)
        try:
            thread.join()
        finally:
            os.close(reading)
