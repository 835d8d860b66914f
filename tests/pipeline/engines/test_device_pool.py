"""One engine a device for all threads of a process."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from pipeline.engines import DevicePool
from pipeline.engines.devices import Device
from pipeline.errors import EngineError, JobError
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits
from pipeline.transforms.reports import StageCounts
from pipeline.transforms.score_fn import ScoreFn
from pipeline.transforms.shuffle import pack
from tests.pipeline.scoring.test_scorer import noise, save
from tests.support.fakes import METADATA, FakeEngine

DEVICES = [Device(f"/device:GPU:{n}", f"GPU:{n}") for n in range(3)]
IMAGE = noise(0)[None]


class Meeting(FakeEngine):
    """Holds each call until as many are in engines as `barrier` has parties; tells if two are in one engine."""

    def __init__(self, barrier: threading.Barrier) -> None:
        super().__init__()
        self.barrier, self.busy = barrier, threading.Lock()

    def score(self, images: np.ndarray) -> list[CellScores]:
        assert self.busy.acquire(blocking=False), "two calls at once on one device"
        try:
            self.barrier.wait(timeout=60)
            return super().score(images)
        finally:
            self.busy.release()


def test_threads_spread_over_the_devices_with_one_engine_each():
    opened: list[Device] = []
    barrier = threading.Barrier(len(DEVICES))

    def open_engine(device: Device) -> Meeting:
        opened.append(device)
        return Meeting(barrier)

    shared = DevicePool(open_engine, DEVICES, first=1)
    with ThreadPoolExecutor(6) as threads:  # twice as many threads as devices: each call meets two others
        maps = list(threads.map(lambda _: shared.score(IMAGE), range(12)))
    assert sorted(opened) == DEVICES
    assert opened[0] == DEVICES[1]
    for [cells] in maps:
        np.testing.assert_array_equal(cells.scores, maps[0][0].scores)


def test_a_single_thread_uses_a_single_device():
    opened: list[Device] = []

    def open_engine(device: Device) -> FakeEngine:
        opened.append(device)
        return FakeEngine()

    shared = DevicePool(open_engine, DEVICES)
    for _ in range(5):
        shared.score(IMAGE)
    assert opened == DEVICES[:1]


def test_a_device_is_free_again_after_a_failure():
    shared = DevicePool(lambda device: FakeEngine(broken=int(IMAGE[0, 0, 0, 0])), DEVICES[:1])
    for _ in range(3):
        with pytest.raises(EngineError, match="cannot do it"):
            shared.score(IMAGE)


def test_a_second_device_that_cannot_be_opened_is_no_fault_of_the_images():
    """An EngineError would have the images rejected, one by one."""
    barrier = threading.Barrier(2)
    failing = True

    def open_engine(device: Device) -> FakeEngine:
        if device == DEVICES[1] and failing:
            raise EngineError("no memory left", remedy="free some")
        return Meeting(barrier)

    shared = DevicePool(open_engine, DEVICES[:2])
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(shared.score, IMAGE)  # takes the only open device, and waits for a second call
        while shared._idle:
            assert not first.done()
        with pytest.raises(JobError, match="no engine on GPU:1: no memory left"):
            shared.score(IMAGE)
        failing = False
        assert len(shared.score(IMAGE)) == len(first.result()) == 1


def test_each_thread_tells_what_was_done_for_it():
    shared = DevicePool(lambda device: FakeEngine(), DEVICES[:1])

    def work(calls: int) -> dict[str, float]:
        for _ in range(calls):
            shared.score(np.repeat(IMAGE, 2, axis=0))
        return shared.take_counts()

    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        found = [one.submit(work, 3), other.submit(work, 1), one.submit(work, 2)]
        assert [future.result() for future in found] == [{"devices.GPU:0": count} for count in (6, 2, 4)]
    assert shared.take_counts() == {}


def test_devices_are_in_the_counts_of_a_bundle(tmp_path: Path):
    references = [save(tmp_path / f"i{n}.png", noise(n)) for n in range(3)]
    fn = ScoreFn(
        lambda: DevicePool(lambda device: FakeEngine(), DEVICES[:1]),
        str(tmp_path / "table"),
        "run",
        Recipe(METADATA.digest, k=2),
        limits=Limits(),
    )
    fn.setup()
    for _ in range(2):
        fn.start_bundle()
        list(fn.process(pack(references)))
        [counts] = [windowed.value for windowed in fn.finish_bundle() if isinstance(windowed.value, StageCounts)]
        assert counts.counts["devices.GPU:0"] == 32, "padded to its shape's batch"
    fn.teardown()


@pytest.mark.large
def test_logical_devices(small_model: Path):
    """Two logical devices on the CPU, in a separate process: TensorFlow takes the configuration only when it starts."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.logical_devices", small_model, "CPU"],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["devices"] == ["CPU:0", "CPU:1"]
    assert found["engines"] == 2
    assert found["ran_on"] == ["/device:CPU:0", "/device:CPU:1"], "where the results lie"
    assert found["same"] is True
    assert found["calls"] == 24
    assert min(found["by_device"].values()) > 0
    assert found["narrow"] == found["compiled"] == 2, "devices on which float16 and XLA gave the same as on the first"
