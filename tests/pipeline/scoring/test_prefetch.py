"""Loading ahead keeps the order, loses nothing, holds no more than it may, and leaves nothing behind."""

import contextlib
import gc
import threading
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.rejection import Reason, Rejected
from pipeline.scoring.prefetch import LookAhead, Prefetcher


class Loader:
    """Counts what is loaded, and by how many at a time."""

    def __init__(self, load=lambda item: item):
        self.load, self.started, self.running, self.most, self.opened, self.closed = load, [], 0, 0, 0, 0
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self):
        with self.lock:
            self.opened += 1
        yield self.count
        with self.lock:
            self.closed += 1

    def count(self, item):
        with self.lock:
            self.started.append(item)
            self.running += 1
            self.most = max(self.most, self.running)
        try:
            return self.load(item)
        finally:
            with self.lock:
                self.running -= 1


def prefetcher(loader, threads=2, max_pending=4, max_bytes=10**9, weigh=lambda result: 1):
    return Prefetcher(loader, weigh, LookAhead(threads, max_pending, max_bytes))


def our_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("densecast-prefetch")]


class BugError(Exception):
    """Not a rejection."""


ITEMS = st.lists(
    st.tuples(
        st.sampled_from(["load", "load", "load", "reject", "fail"]),
        st.integers(0, 2),  # delay, ms
        st.integers(0, 50),  # bytes
    ),
    max_size=25,
)


@given(
    items=ITEMS,
    threads=st.integers(1, 4),
    max_pending=st.integers(1, 8),
    max_bytes=st.sampled_from([1, 40, 100, 10**6]),
    pause=st.integers(0, 1),
)
def test_order_each_once_and_within_bounds(items, threads, max_pending, max_bytes, pause):
    started_at = []

    def load(numbered):
        number, (fate, delay, size) = numbered
        started_at.append(ahead.waiting_bytes)
        time.sleep(delay / 1000)
        if fate == "reject":
            raise Rejected(Reason.CORRUPT, str(number))
        if fate == "fail":
            raise BugError(number)
        return number, size

    found, pending = [], []

    def take(outcomes):
        while True:
            try:
                item, result = next(outcomes)
            except StopIteration:
                return
            except BugError as error:
                found.append((error.args[0], "fail"))
                outcomes = ahead.drain() if draining else iter(())
            else:
                rejected = isinstance(result, Rejected)
                found.append((item[0], "reject" if rejected else "load"))
                assert (result.detail if rejected else str(result[0])) == str(item[0])
            time.sleep(pause / 1000)

    loader = Loader(load)
    with prefetcher(loader, threads, max_pending, max_bytes, lambda result: result[1]) as ahead:
        draining = False
        for numbered in enumerate(items):
            outcomes = ahead.put(numbered)
            pending.append(ahead.pending)
            take(outcomes)
        draining = True
        take(ahead.drain())
        assert (ahead.pending, ahead.waiting_bytes) == (0, 0)
    assert found == [(i, fate) for i, (fate, _, _) in enumerate(items)]
    assert loader.started == list(enumerate(items)) or threads > 1
    assert sorted(loader.started) == list(enumerate(items))
    assert max(pending, default=0) <= max_pending
    assert loader.most <= threads
    assert loader.opened == loader.closed <= threads
    # Beyond the budget is what the other threads were loading when the last of them was started.
    assert max(started_at, default=0) < max_bytes + (threads - 1) * 50


def test_nothing_is_given_until_the_look_ahead_is_full_then_one_for_one():
    loader = Loader()
    with prefetcher(loader, max_pending=4) as ahead:
        given = [[item for item, _ in ahead.put(i)] for i in range(10)]
        assert given == [[], [], [], [0], [1], [2], [3], [4], [5], [6]]
        assert [item for item, _ in ahead.drain()] == [7, 8, 9]
        assert [item for item, _ in ahead.drain()] == []


def test_a_full_look_ahead_waits_for_the_oldest():
    gate = threading.Event()

    def load(item):
        if item == 0:
            gate.wait()
        return item

    with prefetcher(Loader(load), max_pending=3) as ahead:
        assert not list(ahead.put(0))
        assert not list(ahead.put(1))
        outcomes = ahead.put(2)
        threading.Timer(0.05, gate.set).start()
        assert list(outcomes) == [(0, 0)]
        assert gate.is_set()


def test_an_iterator_that_is_not_used_up_loses_nothing():
    with prefetcher(Loader(), max_pending=2) as ahead:
        for i in range(5):
            ahead.put(i)
        assert ahead.pending == 5
        assert [item for item, _ in ahead.put(5)] == [0, 1, 2, 3, 4]
        assert list(ahead.drain()) == [(5, 5)]


def wait_until(condition):
    for _ in range(30_000):
        if condition():
            return
        time.sleep(0.001)
    raise AssertionError("waited in vain")


def test_no_load_is_started_while_too_many_bytes_wait():
    loader = Loader()
    with prefetcher(loader, threads=1, max_pending=100, max_bytes=25, weigh=lambda result: 10) as ahead:
        for i in range(20):
            assert not list(ahead.put(i))
        wait_until(lambda: ahead.waiting_bytes == 30)
        time.sleep(0.02)
        assert loader.started == [0, 1, 2]
        outcomes = ahead.drain()
        next(outcomes)
        wait_until(lambda: ahead.waiting_bytes == 30)
        assert loader.started == [0, 1, 2, 3]
        assert len(list(outcomes)) == 19


def test_a_slow_oldest_item_is_not_locked_out_by_the_results_behind_it():
    """Its result comes when the budget is spent already."""
    gate = threading.Event()

    def load(item):
        if item == 0:
            gate.wait()
        return item

    with prefetcher(Loader(load), threads=2, max_pending=50, max_bytes=1, weigh=lambda result: 100) as ahead:
        for i in range(10):
            assert not list(ahead.put(i))
        wait_until(lambda: ahead.waiting_bytes == 100)
        gate.set()
        assert [item for item, _ in ahead.drain()] == list(range(10))


def test_rejections_carry_nothing_of_what_the_load_held():
    class Bytes(bytearray):
        """May be referred to weakly."""

    held = []

    def load(item):
        data = Bytes(10)
        held.append(weakref.ref(data))
        try:
            data.decode("utf-7").index("x")
        except ValueError as error:
            raise Rejected(Reason.CORRUPT, "no x") from error

    with prefetcher(Loader(load), max_pending=1) as ahead:
        [(_, rejected)] = ahead.put(0)
        gc.collect()
        assert (type(rejected), rejected.reason, rejected.detail) == (Rejected, Reason.CORRUPT, "no x")
        assert held[0]() is None


def test_a_result_is_the_callers_alone():
    class Result:
        pass

    with prefetcher(Loader(lambda item: Result()), max_pending=1) as ahead:
        outcomes = ahead.put(0)
        _, result = next(outcomes)
        watched = weakref.ref(result)
        del result, _
        wait_until(lambda: watched() is None)


def test_discarding_forgets_and_the_next_bundle_begins_anew():
    gate = threading.Event()

    def load(item):
        if item == "blocked":
            gate.wait()
        return item

    loader = Loader(load)
    with prefetcher(loader, threads=1, max_pending=3, max_bytes=6, weigh=lambda result: 5) as ahead:
        for item in ["done", "blocked"]:
            list(ahead.put(item))
        wait_until(lambda: ahead.waiting_bytes == 5)
        [first] = [item for item, _ in ahead.put("never")]
        assert first == "done"
        wait_until(lambda: "blocked" in loader.started)
        ahead.discard()
        assert ahead.pending == ahead.waiting_bytes == 0
        list(ahead.put("new"))
        threading.Timer(0.05, gate.set).start()
        assert list(ahead.drain()) == [("new", "new")]  # waits for the thread, not for what it was loading
        assert ahead.waiting_bytes == 0
    assert loader.started == ["done", "blocked", "new"]


def test_after_an_error_the_rest_can_be_had():
    def load(item):
        if item == 1:
            raise BugError("a bug")
        return item

    with prefetcher(Loader(load), max_pending=10) as ahead:
        for i in range(4):
            list(ahead.put(i))
        outcomes = ahead.drain()
        assert next(outcomes) == (0, 0)
        with pytest.raises(BugError, match="a bug"):
            next(outcomes)
        assert [item for item, _ in ahead.drain()] == [2, 3]


def test_a_loader_that_does_not_open_is_tried_again():
    tries = []

    @contextlib.contextmanager
    def opening():
        tries.append(1)
        if len(tries) == 1:
            raise BugError("not now")
        yield lambda item: item

    with prefetcher(opening, threads=1, max_pending=1) as ahead:
        with pytest.raises(BugError, match="not now"):
            list(ahead.put(0))
        assert list(ahead.put(1)) == [(1, 1)]


def test_closing_in_the_middle_ends_threads_and_loaders():
    loader = Loader(lambda item: wait_until(lambda: ahead._closed))
    before = our_threads()
    ahead = prefetcher(loader, threads=3, max_pending=50)
    for i in range(40):
        list(ahead.put(i))
    wait_until(lambda: loader.running == 3)
    ahead.close()
    ahead.close()
    assert our_threads() == before
    assert loader.opened == loader.closed == 3
    assert len(loader.started) < 40
    with pytest.raises(RuntimeError, match="closed"):
        ahead.put(0)


def test_garbage_takes_the_threads_along():
    loader = Loader()
    before = set(our_threads())
    ahead = prefetcher(loader, max_pending=50)
    for i in range(10):
        list(ahead.put(i))
    wait_until(lambda: len(loader.started) == 10)
    started = set(our_threads()) - before
    assert started
    del ahead
    gc.collect()
    for thread in started:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("name", ["threads", "max_pending", "max_bytes"])
def test_look_ahead_is_at_least_one(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        LookAhead(**{name: 0})


def test_a_thread_that_has_loaded_goes_on_with_the_next_item(monkeypatch):
    go = threading.Event()
    with prefetcher(Loader(lambda item: (go.wait(), item)[1]), max_pending=20) as ahead:
        submitted = []
        submit = ahead._threads.submit
        monkeypatch.setattr(ahead._threads, "submit", lambda call: (submitted.append(call), submit(call)))
        for item in range(10):
            assert not list(ahead.put(item))
        go.set()
        assert [item for item, _ in ahead.drain()] == list(range(10))
    assert len(submitted) == 2
