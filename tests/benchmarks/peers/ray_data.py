"""Ray Data: tasks decode, one actor scores batches and saves the maps. It runs in an environment of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np

from tests.benchmarks.peers.dense import INPUT, OUTPUT, open_session, save

CPUS, BATCH = 2, 8
STORE_BYTES = 2**31


class Scorer:
    """The actor."""

    def __init__(self, graph: str, output: str) -> None:
        self._session, self._output = open_session(graph), output

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for path, pixels in zip(batch["path"], batch["image"], strict=True):
            [probabilities] = self._session.run([OUTPUT], {INPUT: pixels[None]})
            save(self._output, path, probabilities[0])
        return {"path": batch["path"]}


def main(graph: str, images: str, output: str) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # before Ray is imported: it would report the use
    import ray

    ray.init(
        address="local",
        num_cpus=CPUS,
        object_store_memory=STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        _node_ip_address="127.0.0.1",
    )
    paths = sorted(map(str, Path(images).rglob("*.jpg")))
    ray.data.read_images(paths, include_paths=True, mode="RGB").map_batches(
        Scorer,
        fn_constructor_args=(graph, output),
        batch_size=BATCH,
        compute=ray.data.ActorPoolStrategy(size=1),
        num_cpus=1,
    ).materialize()


if __name__ == "__main__":
    main(*sys.argv[1:])
