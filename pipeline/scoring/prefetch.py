"""Loading ahead: threads read and decode the next images while the caller processes the current one."""

import collections
import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, Self, TypeVar, cast

from pipeline.byte_budget import awaited
from pipeline.rejection import Rejected

T = TypeVar("T")
R = TypeVar("R")


@dataclasses.dataclass(frozen=True)
class LookAhead:
    """How far ahead to load.

    Attributes:
        threads: The most loads at a time.
        max_pending: The most items that were put and whose results were not fetched yet, loaded or not.
        max_bytes: No load is started while results of this many bytes wait to be fetched. Loads in progress at that
            time come on top: at most `threads` results.

    Raises:
        ValueError: An attribute is less than 1.
    """

    threads: int = 2
    max_pending: int = 32
    max_bytes: int = 2**26

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < 1:
                raise ValueError(f"{field.name} is {getattr(self, field.name)}; it must be at least 1")


@dataclasses.dataclass(eq=False)
class _Slot(Generic[T, R]):
    item: T
    future: Future[R | Rejected] | None = None
    weight: int = 0
    dropped: bool = False
    awaited: bool = False


class Prefetcher(Generic[T, R]):
    """Loads items in threads and yields their results in the order of the items.

    Once `max_pending` items are pending, `put` yields one result for every new item. So the threads always have work,
    and the caller waits only if the oldest item is not loaded yet. `drain` yields the rest.

    Only one of the caller's threads may use it at a time. It can be used again after `drain`, after `discard` and after
    an error. Its threads start when they are needed, and end with `close` or with garbage collection.

    Args:
        open_loader: Makes a context manager that yields the function which loads an item. Each thread enters its own
            at its first item, and `close` exits them all.
        weigh: Returns the bytes of memory that a result takes.
        look_ahead: How far ahead to load.
    """

    def __init__(
        self,
        open_loader: Callable[[], contextlib.AbstractContextManager[Callable[[T], R]]],
        weigh: Callable[[R], int],
        look_ahead: LookAhead,
    ) -> None:
        self._open_loader, self._weigh, self._look_ahead = open_loader, weigh, look_ahead
        self._threads = ThreadPoolExecutor(look_ahead.threads, "densecast-prefetch")
        self._local = threading.local()
        self._opened = contextlib.ExitStack()
        self._closed = False
        self._changed = threading.Condition()
        # All items whose results were not fetched, oldest first; and those of them that are not being loaded.
        self._pending: collections.deque[_Slot[T, R]] = collections.deque()
        self._unstarted: collections.deque[_Slot[T, R]] = collections.deque()
        self._claimed: collections.deque[_Slot[T, R]] = collections.deque()  # by a thread that starts
        self._loading = 0
        self._waiting_bytes = 0

    @property
    def pending(self) -> int:
        """Number of items whose results were not fetched yet."""
        return len(self._pending)

    @property
    def waiting_bytes(self) -> int:
        """Bytes of the results that wait to be fetched."""
        return self._waiting_bytes

    def put(self, item: T) -> Iterator[tuple[T, R | Rejected]]:
        """Takes an item immediately, and returns the results that are due.

        Returns:
            An iterator that yields nothing while few items are pending, and otherwise the oldest item and its result
            (several, if earlier iterators were not exhausted). If a load raised Rejected, that is its result. A result
            is fetched when the iterator is advanced.

        Raises:
            RuntimeError: The prefetcher was closed.
            BaseException: From the iterator: any other exception of a load. The item is dropped.
        """
        if self._closed:
            raise RuntimeError("the prefetcher is closed")
        slot: _Slot[T, R] = _Slot(item)
        with self._changed:
            self._pending.append(slot)
            self._unstarted.append(slot)
            self._start()
        return self._fetch(down_to=self._look_ahead.max_pending - 1)

    def drain(self) -> Iterator[tuple[T, R | Rejected]]:
        """Returns an iterator over all pending items and their results; see `put`."""
        return self._fetch(down_to=0)

    def discard(self) -> None:
        """Drops all pending items; does not wait for loads in progress."""
        with self._changed:
            self._unstarted.clear()
            while self._pending:
                self._drop(self._pending[0])

    def close(self) -> None:
        """Drops all pending items, waits for loads in progress, ends the threads and closes their loaders."""
        self._closed = True
        self.discard()
        self._threads.shutdown()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _fetch(self, down_to: int) -> Iterator[tuple[T, R | Rejected]]:
        while len(self._pending) > down_to:
            yield self._oldest()  # not kept in a variable, so that the caller has the only reference

    def _oldest(self) -> tuple[T, R | Rejected]:
        slot = self._pending[0]
        slot.awaited = True  # the budget of bytes lets it go ahead
        try:
            with self._changed:
                while slot.future is None:  # all threads are still loading discarded items
                    self._changed.wait()
            return slot.item, slot.future.result()
        finally:
            with self._changed:
                self._drop(slot)
                self._start()

    def _drop(self, slot: _Slot[T, R]) -> None:
        """Removes the oldest slot, loaded or not."""
        self._pending.popleft()
        slot.dropped = True
        self._waiting_bytes -= slot.weight

    def _start(self) -> None:
        """Starts as many loads as the limits allow.

        Loads are started in the order of the items: while any result waits, the oldest item is loaded or in progress.
        So the caller's wait for the oldest item ends, however small `max_bytes` is.
        """
        while self._may_start():
            self._claimed.append(self._next())
            self._threads.submit(self._work)

    def _may_start(self) -> bool:
        return (
            bool(self._unstarted)
            and self._loading < self._look_ahead.threads
            and self._waiting_bytes < self._look_ahead.max_bytes
        )

    def _next(self) -> _Slot[T, R]:
        """Removes and returns the item to load next."""
        slot = self._unstarted.popleft()
        slot.future = Future()
        self._loading += 1
        self._changed.notify()
        return slot

    def _work(self) -> None:
        """Loads an item and those after it, while the limits allow: to wake a thread for each item takes longer."""
        with self._changed:
            slot: _Slot[T, R] | None = self._claimed.popleft()
        while slot is not None:
            slot = self._run(slot)

    def _run(self, slot: _Slot[T, R]) -> _Slot[T, R] | None:
        """Loads an item; returns the next one, if this thread is to load it."""
        result: R | Rejected | None = None
        failed: BaseException | None = None
        weight = 0
        try:
            with awaited(lambda: slot.awaited or slot.dropped):
                loaded = self._load(slot.item)
            result, weight = loaded, self._weigh(loaded)
            del loaded
        except Rejected as rejected:
            # A new exception: the traceback of this one refers to all objects of the load.
            result = Rejected(rejected.reason, rejected.detail)
        except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
            failed = error
        with self._changed:
            self._loading -= 1
            if not slot.dropped:
                slot.weight = weight
                self._waiting_bytes += weight
            following = self._next() if self._may_start() else None
            self._start()
        future = slot.future
        if future is not None:
            if failed is not None:
                future.set_exception(failed)
            else:
                future.set_result(cast("R | Rejected", result))
        return following

    def _load(self, item: T) -> R:
        if not hasattr(self._local, "load"):
            opened = self._open_loader()
            self._local.load = opened.__enter__()
            with self._changed:
                self._opened.push(opened)
        load: Callable[[T], R] = self._local.load
        return load(item)
