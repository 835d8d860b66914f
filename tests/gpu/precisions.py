"""`python -m tests.gpu.precisions`: what precisions and XLA are worth to TensorFlow on the device that is there.

CaffeNet by size and batch, in turns.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from rich.console import Console

from pipeline.engines.devices import open_devices
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.maps.recipe import Form, Precision
from pipeline.scoring.calibration.parity import measure_parity
from tests.benchmarks.caffenet import caffenet
from tests.benchmarks.engine import in_turns

SHAPES = ((1, 227, 227), (1, 451, 451), (4, 451, 451))
THREADS = 2


def report(folder: Path, console: Console) -> None:
    model, place = caffenet(folder), open_devices()[0]
    rng = np.random.default_rng(0)
    batches = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in SHAPES]
    exact = TensorFlowEngine(model, form=Form.FLOAT32, device=place)
    together, apart = in_turns(lambda: _at_once(exact, batches[1], THREADS), lambda: _at_once(exact, batches[1], 1))
    console.print(f"{place.label}: {THREADS} threads at once take {together / apart:.2f} times as long as one")
    for precision, xla in itertools.product(Precision, (False, True)):
        if precision is Precision.FLOAT32 and not xla:
            continue
        started = time.perf_counter()
        shapes = SHAPES if xla else ()
        engine = TensorFlowEngine(model, form=Form.FLOAT32, device=place, precision=precision, compiled=shapes)
        opened = time.perf_counter() - started
        name = f"{place.label}, {precision}{', XLA' * xla}"
        for shape, batch in zip(SHAPES, batches, strict=True):
            plain, ours = in_turns(_call(exact, batch), _call(engine, batch))
            size = "x".join(map(str, shape))
            console.print(
                f"{name}, {size}: {ours:.1f} ms against {plain:.1f} in float32: {plain / ours:.2f} times as fast"
            )
        parity = measure_parity(exact, engine, [batch[0] for batch in batches], precision)
        console.print(
            f"{name}: opened in {opened:.1f} s; off by {parity.largest:.2g}, {parity.mean:.2g} on average; "
            f"{parity.flips:.1%} of the cells have another best class"
        )


def _call(engine: TensorFlowEngine, batch: np.ndarray) -> Callable[[], object]:
    return lambda: engine.score(batch)


def _at_once(engine: TensorFlowEngine, batch: np.ndarray, count: int) -> None:
    """The same number of calls, by so many threads."""
    with ThreadPoolExecutor(count) as threads:
        list(threads.map(engine.score, [batch] * 2 * THREADS))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        report(Path(scratch), Console(soft_wrap=True))
