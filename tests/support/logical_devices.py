"""Run by test_device_pool.py in a separate process: the CPU (or a GPU) is cut into two for several threads."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from conversion.layers.layout import import_tensorflow
from pipeline.engines import DevicePool
from pipeline.engines.devices import Device, open_devices
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Form, Precision
from pipeline.table.rounding import TOLERANCE
from tests.support.map_distance import ROUNDING, distance


def main(model: str, kind: str) -> None:
    tf = import_tensorflow()
    device = tf.config.list_physical_devices(kind)[0]
    part = tf.config.LogicalDeviceConfiguration(memory_limit=None if kind == "CPU" else 2048)
    tf.config.set_logical_device_configuration(device, [part] * 2)
    devices = open_devices("cpu" if kind == "CPU" else "gpu:0")
    engines: list[TensorFlowEngine] = []
    ran_on: set[str] = set()
    both = threading.Barrier(2)

    class Watched(TensorFlowEngine):
        """Waits in its first call until the other device has one, and notes where its results lie."""

        met = False

        def score(self, images: np.ndarray) -> list[CellScores]:
            if not self.met:
                self.met = True
                both.wait(timeout=120)
            return super().score(images)

        def _run(self, images: object) -> dict[str, object]:
            out = super()._run(images)
            ran_on.update(value.device.partition("/device:")[2] for value in out.values())
            return out

    def open_engine(device: Device) -> TensorFlowEngine:
        engine = Watched(model, k=3, form=Form.FLOAT32, device=device)
        engines.append(engine)
        return engine

    shared = DevicePool(open_engine, devices)
    images = np.random.default_rng(0).integers(0, 256, (2, 240, 260, 3), dtype=np.uint8)
    counts: Counter[str] = Counter()

    def work(_: int) -> list[CellScores]:
        maps = shared.score(images)
        with lock:
            counts.update({name: int(count) for name, count in shared.take_counts().items()})
        return maps

    lock = threading.Lock()
    with ThreadPoolExecutor(6) as threads:
        results = list(threads.map(work, range(24)))
    same = all(distance(maps, results[0]) <= TOLERANCE for maps in results)
    print(  # noqa: T201
        json.dumps(
            {
                "devices": [device.label for device in devices],
                "engines": len(engines),
                "ran_on": sorted(f"/device:{name}" for name in ran_on),
                "same": same,
                "calls": len(results),
                "by_device": counts,
                "narrow": _alike(model, devices, images, precision=Precision.FLOAT16),
                "compiled": _alike(model, devices, images, compiled=[images.shape[:3]]),
            }
        )
    )


def _alike(
    model: str,
    devices: tuple[Device, ...],
    images: np.ndarray,
    precision: Precision = Precision.FLOAT32,
    compiled: Sequence[tuple[int, ...]] = (),
) -> int:
    """On how many devices the maps are those of the first."""
    options: dict[str, Any] = {"k": 3, "form": Form.FLOAT32, "precision": precision, "compiled": compiled}
    maps = [TensorFlowEngine(model, device=device, **options).score(images) for device in devices]
    return sum(distance(found, maps[0], classes=False) <= ROUNDING[precision] for found in maps)


if __name__ == "__main__":
    main(*sys.argv[1:])
