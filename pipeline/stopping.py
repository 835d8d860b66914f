"""Runs of this process that were interrupted: their threads end at the next image, and publish nothing.

The local runner works in threads of this process, which nothing can end from outside.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TypeVar

from pipeline.errors import InterruptedRunError

T = TypeVar("T")


class _Run:
    """A run that works in this process."""

    def __init__(self) -> None:
        self.publishing = threading.Lock()
        self.stopped = False
        self.thread: threading.Thread | None = None


_runs: dict[str, _Run] = {}


def check_not_stopped(run_id: str) -> None:
    """Raises InterruptedRunError if the run was stopped in this process."""
    if (run := _runs.get(run_id)) is not None and run.stopped:
        raise InterruptedRunError(f"run {run_id} was interrupted")


@contextlib.contextmanager
def publishing(run_id: str) -> Iterator[None]:
    """Holds off `run_stoppable`'s stop while a run publishes.

    Raises:
        InterruptedRunError: On entry: the run was stopped.
    """
    run = _runs.get(run_id)
    with run.publishing if run is not None else contextlib.nullcontext():
        check_not_stopped(run_id)
        yield


def run_stoppable(run_id: str, work: Callable[[], T]) -> T:
    """Calls a function that runs a pipeline in this process; an interruption does not wait for its end.

    The function works in a thread. When KeyboardInterrupt comes, the run is stopped: what it writes from then on is not
    published. If it publishes at that moment, that is waited for.

    Args:
        run_id: The run.
        work: The function.

    Returns:
        What it returns.

    Raises:
        KeyboardInterrupt: The run was stopped.
    """
    before = _runs.get(run_id)
    if before is not None and before.thread is not None:  # the same run again, after an interruption
        before.thread.join()
    run = _runs[run_id] = _Run()
    ended: Future[T] = Future()

    def call() -> None:
        try:
            ended.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            ended.set_exception(error)

    # A daemon: a process that was interrupted does not wait for it.
    run.thread = threading.Thread(target=call, name="densecast-run", daemon=True)
    try:
        run.thread.start()
        result = ended.result()
    except KeyboardInterrupt:
        with run.publishing:
            run.stopped = True
        raise
    del _runs[run_id]
    return result
