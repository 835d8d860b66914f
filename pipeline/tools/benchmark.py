"""`densecast bench`: the speed of a model here, also as a share of the speed of a matrix product on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table

from conversion import load_model_network
from pipeline.engines import Engine
from pipeline.errors import JobError
from pipeline.scoring.engine_choice import open_model
from pipeline.settings import ExecutionSettings

_PEAK_SIZE = 2048
PRODUCT_OPERATIONS = 2 * _PEAK_SIZE**3


class Timing(BaseModel):
    """The speed at one input size and batch size.

    Attributes:
        size: [height, width] in pixels.
        batch: Images a batch.
        map_size: [height, width] in cells.
        milliseconds: The median time of a batch.
        images_per_second: The rate that follows from the median.
        gflops: 1e9 operations a second; a multiply-add is two operations.
        share_of_peak: `gflops` as a share of the matrix-multiply peak measured in the same run, 0 to 1.
    """

    size: list[int]
    batch: int
    map_size: list[int]
    milliseconds: float
    images_per_second: float
    gflops: float
    share_of_peak: float


class DenseClaim(BaseModel):
    """The time of a map and of its crops, measured in turns in one run.

    Attributes:
        map_size: [height, width] of the map: 8 x 8 cells.
        map_ms: The median time of the map, in milliseconds.
        window_ms: The median time of one window classified by itself.
        crops_ms: The median time of as many windows as the map has cells, in batches of `crops_batch`.
        crops_batch: The batch size at which crops are fastest.
    """

    map_size: list[int]
    map_ms: float
    window_ms: float
    crops_ms: float
    crops_batch: int


class BenchReport(BaseModel):
    """What `bench` measured.

    Attributes:
        model: The model's name.
        engine: What was measured: the library, its version, the device and the settings.
        peak_gflops: The matrix-multiply peak, in 1e9 operations a second.
        repeats: How many timed runs each median is of.
        timings: One for each size and batch.
        claim: The map compared with its crops.
    """

    model: str
    engine: str
    peak_gflops: float
    repeats: int
    timings: list[Timing]
    claim: DenseClaim


@dataclass(frozen=True)
class _Stopwatch:
    """Measures times.

    Attributes:
        repeats: How many timed runs each median is of.
        clock: Seconds, monotonic.
    """

    repeats: int
    clock: Callable[[], float]

    def medians(self, actions: Sequence[Callable[[], object]]) -> list[float]:
        """Returns the median seconds of each action; they run in turns, so that a slow moment affects all alike."""
        seconds: list[list[float]] = [[] for _ in actions]
        for round_ in range(self.repeats + 1):
            for index, action in enumerate(actions):
                start = self.clock()
                action()
                if round_:  # the first round warms up
                    seconds[index].append(self.clock() - start)
        return [statistics.median(times) for times in seconds]

    def peak(self) -> float:
        """Returns the best speed of NumPy's single-precision matrix product here, in 1e9 operations a second."""
        multiply = matrix_product()
        best = float("inf")
        for _ in range(5):
            start = self.clock()
            multiply()
            best = min(best, self.clock() - start)
        return PRODUCT_OPERATIONS / best / 1e9


def matrix_product() -> Callable[[], NDArray[np.float32]]:
    """Returns what multiplies two single-precision matrices by NumPy, in `PRODUCT_OPERATIONS` operations."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_PEAK_SIZE, _PEAK_SIZE), dtype=np.float32) for _ in range(2))
    return lambda: np.matmul(a, b)


def bench(
    model: str,
    sizes: Sequence[int] = (),
    batches: Sequence[int] = (1, 8),
    *,
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
    device: str = ExecutionSettings.device,
    engine: str = ExecutionSettings.engine,
) -> BenchReport:
    """Times a model.

    Args:
        model: A model directory.
        sizes: Sides of square images, in pixels; by default one window, the size of an 8 x 8 map, and twice that.
        batches: Images a batch.
        repeats: How many timed runs; the median counts.
        clock: Seconds, monotonic.
        device: `auto`, `cpu`, `gpu` or `gpu:1`; the first of several devices.
        engine: What runs the net.

    Raises:
        ModelError: The directory is not a model.
        EngineError: There is no such device, or the engine cannot run the model.
        JobError: A batch, a size or the number of repeats is below 1, or no batch is named.
    """
    if not batches or min(*batches, *sizes, repeats) < 1:
        raise JobError(
            f"batches {list(batches)}, sizes {list(sizes)}, repeats {repeats}",
            why="each is a count, from 1; name a batch",
        )
    stopwatch = _Stopwatch(repeats, clock)
    opened = open_model(model, engine=engine, device=device)
    network = load_model_network(model)
    (blob,) = network.inputs
    channels = network.inputs[blob][1]
    y, x = opened.metadata.geometry.y, opened.metadata.geometry.x
    window = (int(y.window), int(x.window))
    eight = (int(y.window + 7 * y.stride), int(x.window + 7 * x.stride))
    shapes = [(s, s) for s in sizes] or [window, eight, (2 * eight[0], 2 * eight[1])]
    peak = stopwatch.peak()
    timings = []
    for height, width in shapes:
        operations = 2 * network.multiply_adds({blob: (1, channels, height, width)})
        for batch in batches:
            images = _images(batch, height, width)
            maps = opened.score(images)
            (seconds,) = stopwatch.medians([partial(opened.score, images)])
            gflops = operations * batch / seconds / 1e9
            timings.append(
                Timing(
                    size=[height, width],
                    batch=batch,
                    map_size=list(maps[0].residual.shape),
                    milliseconds=seconds * 1e3,
                    images_per_second=batch / seconds,
                    gflops=gflops,
                    share_of_peak=gflops / peak,
                )
            )
    claim = _claim(opened, window, eight, batches, stopwatch=stopwatch)
    return BenchReport(
        model=opened.metadata.name,
        engine=opened.identity,
        peak_gflops=peak,
        repeats=repeats,
        timings=timings,
        claim=claim,
    )


def _claim(
    engine: Engine, window: tuple[int, int], eight: tuple[int, int], batches: Sequence[int], *, stopwatch: _Stopwatch
) -> DenseClaim:
    """Compares an 8 x 8 map with its crops; `window` and `eight` are (height, width) of the images of both."""
    cells = engine.score(_images(1, *eight))[0].residual.shape
    count = cells[0] * cells[1]

    def crops(batch: int) -> Callable[[], None]:
        images = _images(batch, *window)

        def run() -> None:
            for _ in range(-(-count // batch)):
                engine.score(images)

        return run

    large, single = _images(1, *eight), _images(1, *window)
    candidates = [crops(batch) for batch in batches]
    shorter = replace(stopwatch, repeats=max(3, stopwatch.repeats // 2))
    map_s, window_s, *crops_s = shorter.medians(
        [partial(engine.score, large), partial(engine.score, single), *candidates]
    )
    best = min(range(len(crops_s)), key=crops_s.__getitem__)
    return DenseClaim(
        map_size=list(cells),
        map_ms=map_s * 1e3,
        window_ms=window_s * 1e3,
        crops_ms=crops_s[best] * 1e3,
        crops_batch=batches[best],
    )


def _images(batch: int, height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def render(report: BenchReport) -> RenderableType:
    """Returns the report for a terminal."""
    table = Table(
        title=f"{report.model}, {report.engine}: median of {report.repeats}; "
        f"peak {report.peak_gflops:.0f} GFLOP/s (NumPy sgemm)"
    )
    for column in ("pixels", "batch", "map", "ms a batch", "images/s", "GFLOP/s", "of peak"):
        table.add_column(column, justify="right")
    for t in report.timings:
        table.add_row(
            "x".join(map(str, t.size)),
            str(t.batch),
            "x".join(map(str, t.map_size)),
            f"{t.milliseconds:.1f}",
            f"{t.images_per_second:.1f}",
            f"{t.gflops:.0f}",
            f"{t.share_of_peak:.0%}",
        )
    c = report.claim
    cells = c.map_size[0] * c.map_size[1]
    return Group(
        table,
        f"{'x'.join(map(str, c.map_size))} map: {c.map_ms:.1f} ms = {c.map_ms / c.window_ms:.1f} times one window "
        f"({c.window_ms:.1f} ms) for {cells} times the output",
        f"{cells} crops in batches of {c.crops_batch}: {c.crops_ms:.0f} ms = {c.crops_ms / c.map_ms:.1f} times the map",
    )
