"""End to end against the engine alone: CaffeNet on JPEG files of 451 pixels, on the pinned local runner.

Each round, in one process and in turns: the engine on batches that were decoded before, then the whole job (list,
read, decode, score, write, publish) on a small and on a large collection. The fixed cost of a job is the same in both,
so their difference is what the images more have cost: that is compared with the engine's time for as many. The medians
of the rounds' ratios are given, of wall time and of CPU time (this process and the ones that decode).
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
from apache_beam.options.pipeline_options import PipelineOptions
from rich.console import Console

from pipeline.engines import Engine
from pipeline.images.decode import DecodeLimits, decode
from pipeline.runners.registry import open_runner
from pipeline.scoring.batching import batch_size
from pipeline.scoring.scorer import Limits
from pipeline.settings import LOCAL
from pipeline.transforms.list_images import ListImages
from pipeline.transforms.score_images import ScoreImages
from tests.benchmarks.caffenet import caffenet
from tests.benchmarks.engines import open_engine
from tests.benchmarks.files import DISTINCT, photographs
from tests.benchmarks.one_run import cpu_seconds

SMALL, LARGE, ROUNDS, SIDE = 40, 168, 5, 451


class Cost(NamedTuple):
    """Seconds: on the clock, and of all CPUs."""

    wall: float
    cpu: float


class Ratio(NamedTuple):
    """Engine's share of the end-to-end time of the same images, 0 to 1, by wall and by CPU; milliseconds an image."""

    wall: float
    cpu: float
    engine: Cost
    whole: Cost
    fixed_s: float


_held: dict[str, Engine] = {}


def _engine() -> Engine:
    """The one of this process: loading is not part of what is compared."""
    return _held["engine"]


def compare(folder: Path, limits: Limits, rounds: int = ROUNDS) -> Ratio:
    """Measures under one set of limits; files are made in `folder`."""
    model = caffenet(folder)
    engine = _held.setdefault("engine", open_engine(model))
    collections = [photographs(folder, count, SIDE) for count in (SMALL, LARGE)]
    size = batch_size((SIDE, SIDE), limits.budget)
    files = sorted(collections[1].rglob("*.jpg"))[:DISTINCT]
    images = [decode(file.read_bytes(), DecodeLimits()).pixels for file in files]
    more = LARGE - SMALL
    batches = [np.stack([images[(at + i) % DISTINCT] for i in range(size)]) for at in range(0, more, size)]
    engine.score(batches[0])
    taken = []
    for _ in range(rounds):
        alone = timed(lambda: [engine.score(batch) for batch in batches])
        small, large = (timed(partial(_job, model, c, limits)) for c in collections)
        taken.append((alone, Cost(large.wall - small.wall, large.cpu - small.cpu), small))

    def median(of: Callable[[Any], float]) -> float:
        return statistics.median(of(round_) for round_ in taken)

    return Ratio(
        median(lambda r: r[0].wall / r[1].wall),
        median(lambda r: r[0].cpu / r[1].cpu),
        Cost(median(lambda r: r[0].wall / more * 1e3), median(lambda r: r[0].cpu / more * 1e3)),
        Cost(median(lambda r: r[1].wall / more * 1e3), median(lambda r: r[1].cpu / more * 1e3)),
        median(lambda r: r[2].wall - SMALL * r[1].wall / more),
    )


def _job(model: Path, images: Path, limits: Limits) -> None:
    with tempfile.TemporaryDirectory() as output:
        pipeline = beam.Pipeline(runner=open_runner(LOCAL), options=PipelineOptions([]))
        _ = pipeline | ListImages([str(images)]) | ScoreImages(model, output, limits=limits, open_engine=_engine)
        pipeline.run().wait_until_finish()


def timed(action: Callable[[], object]) -> Cost:
    """What an action takes."""
    before, start = sum(cpu_seconds()), time.perf_counter()
    action()
    return Cost(time.perf_counter() - start, sum(cpu_seconds()) - before)


def report(folder: Path, console: Console) -> None:
    found = compare(folder, Limits())
    console.print(
        f"CaffeNet, {SIDE} x {SIDE} JPEG, {LARGE - SMALL} images a round, median of {ROUNDS} rounds in turns:\n"
        f"  engine alone {found.engine.wall:.1f} ms an image (CPU {found.engine.cpu:.1f}); "
        f"end to end {found.whole.wall:.1f} ms (CPU {found.whole.cpu:.1f}); "
        f"end to end at {found.wall:.1%} of the engine's speed (by CPU {found.cpu:.1%}); "
        f"besides {found.fixed_s:.1f} s a job, whatever its size"
    )
