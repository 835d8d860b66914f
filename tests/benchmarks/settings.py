"""Whether other defaults would be faster: of batches, and of how far ahead images are loaded.

Batches: CaffeNet alone, by images a batch. Loading: how fast images come where the engine takes no time, so that
loading is all there is to wait for; while a slow engine computes, any of these is fast enough.
"""

from __future__ import annotations

import dataclasses
import shutil
import statistics
from functools import partial
from pathlib import Path

import numpy as np
from rich.console import Console

from pipeline.scoring.prefetch import LookAhead
from tests.benchmarks.caffenet import caffenet
from tests.benchmarks.engines import idle_model, open_engine
from tests.benchmarks.files import photographs
from tests.benchmarks.one_run import measure
from tests.benchmarks.throughput import SIDE, timed

BATCHES, ROUNDS = (1, 2, 4, 8), 5
IMAGES = 1000
AHEAD = (LookAhead(1), LookAhead(2), LookAhead(3), LookAhead(4), LookAhead(2, 8), LookAhead(2, 128, 2**28))


def report(folder: Path, console: Console) -> None:
    engine = open_engine(caffenet(folder))
    images = np.random.default_rng(0).integers(0, 256, (max(BATCHES), SIDE, SIDE, 3), dtype=np.uint8)
    taken = {batch: [timed(partial(engine.score, images[:batch])) for _ in range(ROUNDS)] for batch in BATCHES}
    for batch, costs in taken.items():
        wall, cpu = (statistics.median(cost[i] for cost in costs[1:]) / batch * 1e3 for i in (0, 1))
        console.print(f"CaffeNet, {SIDE} pixels, batches of {batch}: {wall:.1f} ms an image (CPU {cpu:.1f})")
    runs = {ahead: [_rate(folder, ahead) for _ in range(2)] for ahead in AHEAD}
    for ahead, rates in runs.items():
        console.print(f"{ahead}: {max(rates):.0f} images a second")


def _rate(folder: Path, ahead: LookAhead) -> float:
    output = folder / "settings"
    shutil.rmtree(output, ignore_errors=True)
    found = measure(
        photographs(folder, IMAGES), output, idle_model(folder / "idle"), idle="idle", **dataclasses.asdict(ahead)
    )
    return found.images / found.wall_s
