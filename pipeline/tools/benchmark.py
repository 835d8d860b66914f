"""`densecast bench`: how fast a model is here, as a share of what this machine's matrix multiplication can do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel
from rich.console import Group, RenderableType
from rich.table import Table

from conversion import NETWORK_FILE, load_network
from pipeline.engines import Engine, TensorFlowEngine
from pipeline.engines.devices import open_devices

_PEAK_SIZE = 2048


class Timing(BaseModel):
    """One input size and batch.

    Attributes:
        size: [height, width] in pixels.
        batch: Images a batch.
        map_size: [height, width] in cells.
        milliseconds: Median time of a batch.
        images_per_second: From the median.
        gflops: Arithmetic a second, 1e9; a multiply-add is two operations.
        share_of_peak: Of the matrix-multiply peak measured in the same run, 0 to 1.
    """

    size: list[int]
    batch: int
    map_size: list[int]
    milliseconds: float
    images_per_second: float
    gflops: float
    share_of_peak: float


class DenseClaim(BaseModel):
    """The map against crops, measured in turns in one run.

    Attributes:
        map_size: [height, width] of the map: 8 x 8.
        map_ms: Median time of the map.
        window_ms: Median time of one window classified by itself.
        crops_ms: Median time of as many windows as the map has cells, in batches of `crops_batch`.
        crops_batch: The batch, of those tried, at which crops are fastest.
    """

    map_size: list[int]
    map_ms: float
    window_ms: float
    crops_ms: float
    crops_batch: int


class BenchReport(BaseModel):
    """What `bench` measured."""

    model: str
    device: str
    peak_gflops: float
    repeats: int
    timings: list[Timing]
    claim: DenseClaim


def bench(
    model: str,
    sizes: Sequence[int] = (),
    batches: Sequence[int] = (1, 8),
    repeats: int = 7,
    clock: Callable[[], float] = time.perf_counter,
    device: str = "auto",
) -> BenchReport:
    """Times a model.

    Args:
        model: A model directory.
        sizes: Sides of square images, in pixels; by default one window, the size of an 8 x 8 map, and twice that.
        batches: Images a batch.
        repeats: Timed runs of each; the median counts.
        clock: Seconds, monotonic.
        device: `auto`, `cpu`, `gpu` or `gpu:1`; the first of several.

    Raises:
        ModelError: The directory is no model.
        EngineError: There is no such device.
    """
    opened = open_devices(device)[0]
    engine = TensorFlowEngine(model, device=opened)
    network = load_network(f"{model}/{NETWORK_FILE}")
    (blob,) = network.inputs
    channels = network.inputs[blob][1]
    y, x = engine.metadata.geometry.y, engine.metadata.geometry.x
    window = (int(y.window), int(x.window))
    eight = (int(y.window + 7 * y.stride), int(x.window + 7 * x.stride))
    shapes = [(s, s) for s in sizes] or [window, eight, (2 * eight[0], 2 * eight[1])]
    peak = _peak(clock)
    timings = []
    for height, width in shapes:
        operations = 2 * network.multiply_adds({blob: (1, channels, height, width)})
        for batch in batches:
            images = _images(batch, height, width)
            maps = engine.score(images)
            seconds = _median([lambda images=images: engine.score(images)], repeats, clock)[0]  # type: ignore[misc]
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
    claim = _claim(engine, window, eight, batches, repeats, clock)
    return BenchReport(
        model=engine.metadata.name, device=opened.label, peak_gflops=peak, repeats=repeats, timings=timings, claim=claim
    )


def _claim(
    engine: Engine,
    window: tuple[int, int],
    eight: tuple[int, int],
    batches: Sequence[int],
    repeats: int,
    clock: Callable[[], float],
) -> DenseClaim:
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
    map_s, window_s, *crops_s = _median(
        [lambda: engine.score(large), lambda: engine.score(single), *candidates], max(3, repeats // 2), clock
    )
    best = min(range(len(crops_s)), key=crops_s.__getitem__)
    return DenseClaim(
        map_size=list(cells),
        map_ms=map_s * 1e3,
        window_ms=window_s * 1e3,
        crops_ms=crops_s[best] * 1e3,
        crops_batch=batches[best],
    )


def _median(actions: Sequence[Callable[[], Any]], repeats: int, clock: Callable[[], float]) -> list[float]:
    """Median seconds of each action, run in turns so that a slow moment of the machine touches all alike."""
    taken: list[list[float]] = [[] for _ in actions]
    for round_ in range(repeats + 1):
        for index, action in enumerate(actions):
            start = clock()
            action()
            if round_:  # the first round warms up
                taken[index].append(clock() - start)
    return [statistics.median(times) for times in taken]


def _peak(clock: Callable[[], float]) -> float:
    """The best single-precision matrix product NumPy does here, in 1e9 operations a second."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((_PEAK_SIZE, _PEAK_SIZE), dtype=np.float32) for _ in range(2))
    best = float("inf")
    for _ in range(5):
        start = clock()
        np.matmul(a, b)
        best = min(best, clock() - start)
    return float(2 * _PEAK_SIZE**3 / best / 1e9)


def _images(batch: int, height: int, width: int) -> Any:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def render(report: BenchReport) -> RenderableType:
    """The report for a terminal."""
    table = Table(
        title=f"{report.model} on {report.device}: median of {report.repeats}; "
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
