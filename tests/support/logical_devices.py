"""Run by test_sharing.py in a process of its own: the CPU (or a GPU) cut into two, threads that share engines."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from conversion.layers.layout import import_tensorflow
from pipeline.engines import SharedEngine, TensorFlowEngine
from pipeline.engines.devices import Place, open_places
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Precision


def main(model: str, kind: str) -> None:
    tf = import_tensorflow()
    device = tf.config.list_physical_devices(kind)[0]
    part = tf.config.LogicalDeviceConfiguration(memory_limit=None if kind == "CPU" else 2048)
    tf.config.set_logical_device_configuration(device, [part] * 2)
    places = open_places("cpu" if kind == "CPU" else "gpu:0")
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

    def open_engine(place: Place) -> TensorFlowEngine:
        engine = Watched(model, k=40, place=place)
        engines.append(engine)
        return engine

    shared = SharedEngine(open_engine, places)
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
    identical = all(
        np.array_equal(cells.scores, first.scores) and np.array_equal(cells.classes, first.classes)
        for maps in results
        for cells, first in zip(maps, results[0], strict=True)
    )
    print(  # noqa: T201
        json.dumps(
            {
                "devices": [place.label for place in places],
                "engines": len(engines),
                "places": sorted(f"/device:{name}" for name in ran_on),
                "identical": identical,
                "calls": len(results),
                "by_device": counts,
                "narrow": _alike(model, places, images, precision=Precision.FLOAT16),
                "compiled": _alike(model, places, images, compiled=[images.shape[:3]]),
            }
        )
    )


def _alike(model: str, places: tuple[Place, ...], images: np.ndarray, **options: object) -> int:
    """On how many devices the maps are those of the first, to the last bit."""
    maps = [TensorFlowEngine(model, k=40, place=place, **options).score(images) for place in places]  # type: ignore[arg-type]
    return sum(all(np.array_equal(a.scores, b.scores) for a, b in zip(found, maps[0], strict=True)) for found in maps)


if __name__ == "__main__":
    main(*sys.argv[1:])
