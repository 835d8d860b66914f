"""One budget of bytes for all that a process reads, inflates and decodes at a time.

A load takes what it needs before it allocates it, waits where that is not left, and gives it back when its result is no
longer used. What is loaded and waits to be used is part of the budget too.

A load that needs more than the whole budget is not refused: it runs alone. More exactly, a load whose result somebody
waits for goes ahead as soon as no other load works. So no order of loads and results can block a process, and it holds
at most the budget, and the largest load besides.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Self

from pipeline.settings import LimitSettings

_EVERY_S = 0.05  # how often a load that waits looks whether it is awaited by now


def _always() -> bool:
    return True


_awaited: ContextVar[Callable[[], bool]] = ContextVar("_awaited", default=_always)


@contextlib.contextmanager
def awaited(condition: Callable[[], bool]) -> Iterator[None]:
    """Makes `condition` tell, within the block, whether somebody waits for the result of what this thread loads.

    Without such a block somebody does.
    """
    token = _awaited.set(condition)
    try:
        yield
    finally:
        _awaited.reset(token)


class Lease:
    """Bytes that were taken from a budget; made by `ByteBudget.take`.

    It is given back with `release`, at the end of a `with` block, or with garbage collection.
    """

    def __init__(self, budget: ByteBudget) -> None:
        self._budget = budget
        self.size = 0
        """The bytes taken."""
        self.thread: int | None = threading.get_ident()
        """The thread that loads; None when it has finished, and the bytes are those of its result."""

    def resize(self, size: int) -> None:
        """Takes or gives back bytes, so that `size` are taken; waits as `ByteBudget.take` does."""
        self._budget.resize(self, size)

    def rest(self, size: int) -> None:
        """Ends the load: its result takes `size` bytes, which are there, so nothing is waited for."""
        self._budget.rest(self, size)

    def release(self) -> None:
        """Gives all bytes back; may be called repeatedly."""
        self.rest(0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __del__(self) -> None:
        if self.size:
            self.release()


class ByteBudget:
    """A number of bytes that the threads of a process share.

    Args:
        total: The bytes.

    Attributes:
        total: The bytes. It may be changed at any time.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        # Reentrant: garbage collection may release a lease in a thread that holds the lock.
        self._changed = threading.Condition(threading.RLock())
        self._held = 0
        self._working: dict[Lease, None] = {}
        self._waiting: deque[tuple[int, object]] = deque()  # thread and turn, longest wait first

    @property
    def held(self) -> int:
        """The bytes that are taken."""
        return self._held

    def take(self, size: int) -> Lease:
        """Takes `size` bytes for a load by this thread. Waits until they are left, or until the load may run alone."""
        lease = Lease(self)
        self.resize(lease, size)
        return lease

    def resize(self, lease: Lease, size: int) -> None:
        """See `Lease.resize`."""
        with self._changed:
            more = size - lease.size
            if more > 0:
                self._wait(more)
            self._held += more
            lease.size = size
            self._working[lease] = None
            self._changed.notify_all()

    def rest(self, lease: Lease, size: int) -> None:
        """See `Lease.rest`."""
        with self._changed:
            self._held += size - lease.size
            lease.size, lease.thread = size, None
            self._working.pop(lease, None)
            self._changed.notify_all()

    def _wait(self, more: int) -> None:
        """Waits, in the order of the requests, until `more` bytes may be taken."""
        turn, is_awaited = (threading.get_ident(), object()), _awaited.get()
        self._waiting.append(turn)
        try:
            while not self._may_take(more, turn, is_awaited):
                self._changed.wait(_EVERY_S)
        finally:
            self._waiting.remove(turn)

    def _may_take(self, more: int, turn: tuple[int, object], is_awaited: Callable[[], bool]) -> bool:
        if self._held + more <= self.total and self._waiting[0] == turn:
            return True
        if not is_awaited():
            return False
        # A thread that waits does not work; one that nobody waits for stays behind those that somebody waits for.
        waiting = {thread for thread, _ in self._waiting}
        return all(lease.thread in waiting for lease in self._working)


PROCESS = ByteBudget(LimitSettings.load_bytes)
"""The budget of this process; the setting `load_bytes` of the job sets its total."""
