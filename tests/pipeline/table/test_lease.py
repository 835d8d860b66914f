"""The lease: one holder at a time, whatever dies, and nothing that waits for the dead."""

from __future__ import annotations

import contextlib
import json
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from pipeline.errors import JobError
from pipeline.storage.errors import StorageError
from pipeline.storage.local import LocalStore
from pipeline.storage.object_store import ObjectStore
from pipeline.storage.store import Stored
from pipeline.table.lease import Holder, Lease, LeaseHeldError, is_dead, look, parse, process_space, process_start
from pipeline.table.lease_store import LeaseFile, LeaseStore, open_lease

LONG = 600.0


class Memory:
    """A store with a clock that a test moves, and that fails when it is told to."""

    def __init__(self) -> None:
        self.state: Stored | None = None
        self.time = 1000.0
        self.failures = 0.0
        self._lock = threading.Lock()

    def read(self) -> Stored | None:
        return self.state

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        if self.failures > 0:
            self.failures -= 1
            raise StorageError("is gone")
        with self._lock:
            if (self.state and self.state.data) != (expected and expected.data):
                return None
            self.state = Stored(data, self.time)
            return self.state

    def now(self) -> float:
        return self.time


@pytest.fixture(params=["memory", "local", "object"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> LeaseStore:
    if request.param == "object":
        memory = MemoryStore()
        return LeaseFile(ObjectStore(bucket_store=lambda *_: memory), "s3://bucket/maps/lease.json")
    return Memory() if request.param == "memory" else LeaseFile(LocalStore(), str(tmp_path / "maps" / "lease.json"))


def stranger(run_id: str = "theirs", **changes: object) -> Holder:
    """A holder on another machine."""
    now = datetime.now(UTC)
    about = {"token": "t", "run_id": run_id, "host": "elsewhere", "space": "", "pid": 7, "started": "1"}
    return Holder.model_validate({**about, "acquired_at": now, "renewed_at": now, "seconds": LONG, **changes})


def written(holder: Holder) -> bytes:
    return holder.model_dump_json().encode()


def eventually(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.01)


class TestStores:
    """What every store has to do."""

    def test_a_file_is_written_only_over_what_was_seen(self, store: LeaseStore):
        assert store.read() is None
        first = store.swap(b"1", None)
        assert first is not None
        assert store.swap(b"2", None) is None, "there is one now"
        second = store.swap(b"2", first)
        assert second is not None
        assert store.swap(b"3", first) is None, "it is another now"
        found = store.read()
        assert found is not None
        assert (found.data, found.version) == (b"2", second.version)
        assert store.swap(b"3", found) is not None

    def test_of_many_writers_one_wins(self, store: LeaseStore):
        barrier, wins = threading.Barrier(8), []

        def contend(number: int) -> None:
            barrier.wait()
            wins.append(store.swap(b"%d" % number, None))

        threads = [threading.Thread(target=contend, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len([win for win in wins if win is not None]) == 1

    def test_the_clock_is_the_one_that_writes_are_told_by(self, store: LeaseStore):
        assert store.swap(b"1", None) is not None
        found = store.read()
        assert found is not None
        assert 0 <= store.now() - found.modified < 60

    def test_nothing_is_left_beside_the_lease_but_its_lock(self, tmp_path: Path):
        local = LeaseFile(LocalStore(), str(tmp_path / "lease.json"))
        assert local.swap(b"1", None) is not None
        assert local.now() > 0
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lease.json.lock", "lease.json"]


def test_a_scheme_without_conditional_writes_is_refused():
    with pytest.raises(StorageError, match=r"hdfs(.|\n)*lease-minutes = 0"):
        open_lease("hdfs://host/maps").read()


def test_a_second_run_is_told_who_works_and_until_when(store: LeaseStore):
    with Lease("maps", "ours", LONG, store), pytest.raises(LeaseHeldError, match="run ours") as caught:
        Lease("maps", "theirs", LONG, store).__enter__()
    assert caught.value.holder is not None
    assert caught.value.holder.run_id == "ours"
    assert caught.value.until is not None
    assert timedelta() < caught.value.until - datetime.now(UTC) <= timedelta(seconds=LONG)
    with Lease("maps", "theirs", LONG, store):
        assert "theirs" in (store.read() or Stored(b"", 0)).data.decode()


def test_a_lease_is_given_back_when_its_run_fails(store: LeaseStore):
    with pytest.raises(ZeroDivisionError), Lease("maps", "ours", LONG, store):
        raise ZeroDivisionError
    found = store.read()
    assert found is not None
    assert (parse(found.data) or stranger()).released


def test_a_lease_lapses_by_the_storages_clock_and_its_holders_term():
    memory = Memory()
    memory.swap(written(stranger(seconds=100)), None)
    memory.time += 99
    with pytest.raises(LeaseHeldError):
        Lease("maps", "ours", 1.0, memory).__enter__()
    memory.time += 2
    with Lease("maps", "ours", LONG, memory) as lease:
        assert not lease.lost


def test_clocks_of_machines_do_not_count():
    memory = Memory()
    years = timedelta(days=4000)
    memory.swap(written(stranger(renewed_at=datetime.now(UTC) - years, acquired_at=datetime.now(UTC) - years)), None)
    with pytest.raises(LeaseHeldError):
        Lease("maps", "ours", LONG, memory).__enter__()


def test_a_lease_from_the_future_lapses():
    """The clock was set back: up to a term ahead the lease counts as new, and further ahead as expired."""
    memory = Memory()
    memory.swap(written(stranger(seconds=100)), None)
    memory.time -= 99
    with pytest.raises(LeaseHeldError) as caught:
        Lease("maps", "ours", LONG, memory).__enter__()
    assert caught.value.until is not None
    assert caught.value.until - datetime.now(UTC) < timedelta(seconds=200)
    memory.time -= 2
    with Lease("maps", "ours", LONG, memory) as lease:
        assert not lease.lost


def test_a_file_from_the_future_lapses_on_a_disk(tmp_path: Path):
    with Lease(str(tmp_path), "theirs", 100):
        path = tmp_path / "_densecast" / "lease.json"
        held = parse(path.read_bytes())
        assert held is not None
        path.write_bytes(written(held.model_copy(update={"space": "elsewhere"})))
        os.utime(path, (time.time() + 10**6, time.time() + 10**6))
        with Lease(str(tmp_path), "ours", 100) as lease:
            assert not lease.lost


def test_a_holder_with_a_clock_ahead_is_not_shown_for_ever(tmp_path: Path):
    path = tmp_path / "_densecast" / "lease.json"
    path.parent.mkdir()
    ahead = datetime.now(UTC) + timedelta(days=400)
    path.write_bytes(written(stranger(acquired_at=ahead, renewed_at=ahead)))
    assert look(str(tmp_path)) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("seconds", value) for value in ("1e300", "Infinity", "NaN", "-1", "0", "604801", '"long"')),
        ("pid", "99999999999999999999"),
        ("renewed_at", '"2026-11-03T02:03:04"'),
        ("renewed_at", '"0001-01-01T00:00:00+14:00"'),
        ("renewed_at", '"9999-12-31T23:59:59-14:00"'),
    ],
)
def test_a_lease_with_impossible_values_lapses_by_its_age(tmp_path: Path, name: str, value: str):
    path = tmp_path / "_densecast" / "lease.json"
    path.parent.mkdir()
    facts = {**json.loads(written(stranger())), "space": process_space()}
    facts.pop("space" if name == "renewed_at" else "none", None)
    text = json.dumps({"space": "", **facts, name: None}).replace(f'"{name}": null', f'"{name}": {value}')
    path.write_text(text)
    look(str(tmp_path))
    with pytest.raises(LeaseHeldError):
        Lease(str(tmp_path), "ours", 100).__enter__()
    os.utime(path, (time.time() - LONG - 1, time.time() - LONG - 1))
    with Lease(str(tmp_path), "ours", 100):
        pass


@pytest.mark.parametrize("seconds", [0, -1, math.nan, math.inf, 1e300, 7 * 86400 + 1])
def test_a_term_out_of_range_is_refused(tmp_path: Path, seconds: float):
    with pytest.raises(JobError, match="a lease cannot last"):
        Lease(str(tmp_path), "ours", seconds)


def test_a_damaged_lease_lapses_by_its_age():
    memory = Memory()
    memory.swap(b"{ half", None)
    with pytest.raises(LeaseHeldError, match="another run"):
        Lease("maps", "ours", 100, memory).__enter__()
    memory.time += 101
    with Lease("maps", "ours", 100, memory):
        pass


def test_a_lease_is_renewed_while_its_run_works():
    memory = Memory()
    with Lease("maps", "ours", 0.1, memory) as lease:
        first = memory.state
        eventually(lambda: memory.state != first)
        assert not lease.lost
    assert b'"released": true' in (memory.state or Stored(b"", 0)).data


def test_who_slept_too_long_notices_and_leaves_the_lease_to_its_new_holder():
    memory = Memory()
    taken = written(stranger())
    with Lease("maps", "ours", 0.1, memory) as lease:
        with memory._lock:
            memory.state = Stored(taken, memory.time)
        eventually(lambda: lease.lost)
        assert "acquired it" in lease.lost
    assert memory.state is not None
    assert memory.state.data == taken


def test_a_lease_that_cannot_be_renewed_is_lost_in_time():
    memory = Memory()
    with Lease("maps", "ours", 0.1, memory) as lease:
        memory.failures = math.inf
        eventually(lambda: lease.lost)
        assert "is gone" in lease.lost


def test_a_short_failure_of_the_storage_costs_no_lease():
    memory = Memory()
    with Lease("maps", "ours", 0.1, memory, clock=lambda: 0.0) as lease:
        memory.failures = 1
        first = memory.state
        eventually(lambda: memory.state != first)
        assert memory.failures == 0
        assert not lease.lost


def test_a_lease_that_cannot_be_released_fails_no_run(caplog: pytest.LogCaptureFixture):
    memory = Memory()
    with Lease("maps", "ours", LONG, memory):
        memory.failures = math.inf
    assert "not released" in caplog.text


@given(readers=st.lists(st.integers(0, 5), min_size=1, max_size=6))
def test_of_breakers_that_saw_the_same_stale_lease_one_wins(readers: list[int]):
    """Whatever each of them saw: only who saw the present state can replace it."""
    memory = Memory()
    states: list[Stored | None] = [None]
    for number in range(5):
        states.append(memory.swap(b"%d" % number, states[-1]))
    won = [memory.swap(b"breaker %d" % number, states[reader]) for number, reader in enumerate(readers)]
    expected = [readers.index(5)] if 5 in readers else []
    assert [number for number, win in enumerate(won) if win is not None] == expected


class TestDeadProcesses:
    """On one machine nobody waits for the dead."""

    def test_one_that_was_killed_is_dead_at_once(self, tmp_path: Path):
        held = (
            "import sys, time; from pipeline.table.lease import Lease\n"
            f"with Lease({str(tmp_path)!r}, 'victim', 600): print('held', flush=True); time.sleep(600)"
        )
        with subprocess.Popen([sys.executable, "-c", held], stdout=subprocess.PIPE, text=True) as victim:
            assert victim.stdout is not None
            assert victim.stdout.readline() == "held\n"
            with pytest.raises(LeaseHeldError, match=f"process {victim.pid} on"):
                Lease(str(tmp_path), "ours", LONG).__enter__()
            seen = look(str(tmp_path))
            assert seen is not None
            assert seen.run_id == "victim"
            victim.kill()
            victim.wait()
        assert look(str(tmp_path)) is None
        with Lease(str(tmp_path), "ours", LONG) as lease:
            assert not lease.lost
        assert look(str(tmp_path)) is None

    def test_a_process_is_itself_only_with_its_number_its_start_and_its_namespace(self):
        me: dict[str, Any] = {"space": process_space(), "pid": os.getpid(), "started": process_start(os.getpid())}
        assert me["space"], "Linux tells"
        assert not is_dead(stranger(**me))
        assert is_dead(stranger(**{**me, "started": "1"})), "its number was given to another"
        assert not is_dead(stranger(**{**me, "started": "1", "space": "another machine"})), "who knows"
        assert not is_dead(stranger(**{**me, "started": "1", "space": ""}))

    def test_a_zombie_is_dead(self):
        with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
            holder = stranger(space=process_space(), pid=child.pid, started=process_start(child.pid))
            assert not is_dead(holder)
            child.kill()
            eventually(lambda: is_dead(holder))


# Takes the lease again and again and notes when it is inside; odd ones die while they are.
_TAKER = """
import os, sys, time
from pipeline.table.lease import Lease, LeaseHeldError

root, number, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]
print("ready", flush=True)
input()
visits = 0
while visits < 25:
    lease = Lease(root, f"run{number}", 600)
    try:
        lease.__enter__()
    except LeaseHeldError:
        time.sleep(0.002)
        continue
    with open(log, "a", buffering=1) as file:
        file.write(f"in {number}\\n")
        time.sleep(0.001)
        file.write(f"out {number}\\n")
    visits += 1
    if number % 2 and visits > 12:
        os._exit(9)
    lease.__exit__(None, None, None)
"""


def _visits(log: Path) -> Iterator[tuple[str, str]]:
    lines = log.read_text().splitlines()
    assert len(lines) % 2 == 0
    yield from zip(lines[::2], lines[1::2], strict=True)


def test_at_most_one_process_is_inside_though_some_die_holding_it(tmp_path: Path):
    log = tmp_path / "log"
    log.touch()
    with contextlib.ExitStack() as stack:
        takers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _TAKER, str(tmp_path / "maps"), str(number), str(log)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(3)
        ]
        for taker in takers:
            assert taker.stdout is not None
            assert taker.stdout.readline() == "ready\n"
        for taker in takers:
            assert taker.stdin is not None
            taker.stdin.write("go\n")
            taker.stdin.flush()
        codes = [taker.wait(200) for taker in takers]
    assert codes == [0, 9, 0], "one died inside, and the others went on"
    visits = list(_visits(log))
    assert len(visits) == 25 + 13 + 25
    for entered, left in visits:
        assert entered.replace("in", "out") == left, "two were inside at once"
