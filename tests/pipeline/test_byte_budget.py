"""The budget of bytes: loads wait for one another, a load larger than all of it runs alone, and nothing blocks."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from random import Random

from pipeline.byte_budget import ByteBudget, Lease, awaited
from pipeline.scoring.prefetch import LookAhead, Prefetcher

GUARD_S = 60.0


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + GUARD_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def test_what_fits_is_taken_and_given_back():
    budget = ByteBudget(10)
    with budget.take(4) as first, budget.take(6):
        assert budget.held == 10
        first.resize(1)
        assert budget.held == 7
        first.rest(3)
        assert budget.held == 9
    assert budget.held == 0
    lease: Lease | None = budget.take(5)
    assert lease is not None
    lease.rest(5)
    lease = None
    gc.collect()
    assert budget.held == 0, "a result that nobody has any more holds nothing"


def test_a_load_waits_for_the_bytes_of_others():
    budget, done = ByteBudget(10), threading.Event()
    first = budget.take(6)

    def second() -> None:
        with budget.take(6):
            done.set()

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(second)
        until(lambda: len(budget._waiting) == 1)
        assert not done.is_set()
        first.release()
        future.result(GUARD_S)
    assert budget.held == 0


def test_a_load_larger_than_the_budget_runs_alone():
    budget, working, most = ByteBudget(10), 0, 0
    lock = threading.Lock()

    def load(_: int) -> None:
        nonlocal working, most
        with budget.take(25):
            with lock:
                working += 1
                most = max(most, working)
            time.sleep(0.001)
            with lock:
                working -= 1

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(load, range(12), timeout=GUARD_S))
    assert most == 1
    assert budget.held == 0


def test_a_result_that_waits_does_not_block_the_load_that_somebody_waits_for():
    budget = ByteBudget(10)
    result = budget.take(8)
    result.rest(8)
    with budget.take(9):
        assert budget.held == 17
    result.release()
    waits = threading.Event()
    blocker = budget.take(8)
    blocker.rest(8)

    def load() -> None:
        with awaited(waits.is_set), budget.take(9):
            pass

    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(load)
        until(lambda: len(budget._waiting) == 1)
        assert not future.done(), "nobody waits for it, so it leaves the memory to the results"
        waits.set()
        future.result(GUARD_S)
    blocker.release()


def test_prefetchers_that_share_a_budget_do_not_block_one_another():
    budget = ByteBudget(100)

    class Result:
        def __init__(self, lease: Lease) -> None:
            self.lease = lease

    def load(size: int) -> Result:
        lease = budget.take(size // 2)
        lease.resize(size)
        lease.rest(size // 3)
        return Result(lease)

    def work(seed: int) -> int:
        random, count = Random(seed), 0
        with Prefetcher(lambda: nullcontext(load), lambda _: 1, LookAhead(3, 8)) as ahead:
            for _ in range(60):
                for _, result in ahead.put(random.choice([1, 30, 90, 250])):
                    count += 1
                    result.lease.release()  # type: ignore[union-attr] # nothing is rejected here
            for _, result in ahead.drain():
                count += 1
                result.lease.release()  # type: ignore[union-attr] # nothing is rejected here
        return count

    with ThreadPoolExecutor(3) as threads:
        assert [future.result(GUARD_S) for future in [threads.submit(work, seed) for seed in range(3)]] == [60] * 3
    assert budget.held == 0
