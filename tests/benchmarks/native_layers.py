"""Each layer of CaffeNet in the native engine, and the whole against plain ONNX Runtime, in turns.

    python -m tests.benchmarks.native_layers [--folder FOLDER] [SIDExBATCH ...]

The net's weights are seeded. FOLDER keeps what is made for the next time.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from rich.console import Console
from rich.table import Table

from pipeline.engines.native.engine import NativeEngine
from tests.benchmarks.ruler.nets import Cell, NetFiles, job
from tests.benchmarks.ruler.serve import Job

SIZES = ("227x1", "227x10", "451x1", "451x8", "1024x1")
_NET = "caffenet"
_ROUNDS = 9
_PAUSE = 0.1  # seconds


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.native_layers", description=__doc__)
    parser.add_argument("sizes", nargs="*", default=SIZES, metavar="SIDExBATCH", help=f"{', '.join(SIZES)}")
    parser.add_argument("--folder", type=Path, default=Path("build/bench"), help="where the net is made and kept")
    given = parser.parse_args()
    console = Console(file=sys.stdout, width=120)
    files = NetFiles(_NET, given.folder)
    files.make()
    engine = NativeEngine(str(files.model))
    for size in given.sizes:
        side, batch = map(int, size.split("x"))
        with tempfile.TemporaryDirectory() as scratch:
            known = job(files, Cell(_NET, batch, side), Path(scratch))
            console.print(report(engine, known, size))


def report(engine: NativeEngine, known: Job, size: str) -> Table:
    """Returns the layers' milliseconds and the whole's."""
    pixels = np.load(known["pixels"])
    table = Table("operation", "form", "top", "ms", title=f"CaffeNet, {size}")
    layers = by_layer(engine, pixels)
    for name, form, top, milliseconds in layers:
        table.add_row(name, form, top, f"{milliseconds:.2f}")
    table.add_row("their sum", "", "", f"{sum(layer[-1] for layer in layers):.2f}")
    native, plain = in_turns(lambda: engine.score(pixels), onnx_runtime(known))
    table.add_row("native, whole", "", "", f"{native:.2f}")
    table.add_row("ONNX Runtime, plain", "", "", f"{plain:.2f}")
    table.add_row("native / ONNX Runtime", "", "", f"{native / plain:.3f}")
    return table


def by_layer(engine: NativeEngine, pixels: np.ndarray) -> list[tuple[str, str, str, float]]:
    """Returns what each operation is, and the median of its milliseconds between the others."""
    plan = engine._planner.plan(tuple(image.shape[:2] for image in pixels), engine._filters)
    program = importlib.import_module("densecast_native").Program
    parts = [program(engine._pool, [operation], [], plan.arena) for operation in plan.operations]
    times: list[list[float]] = [[] for _ in parts]
    for _ in range(_ROUNDS):
        for operation, part, taken in zip(plan.operations, parts, times, strict=True):
            images = list(pixels) if type(operation).__name__ == "Prepare" else []
            started = time.perf_counter()
            part.run(images, [])
            taken.append((time.perf_counter() - started) * 1e3)
    return [
        (*described(operation), statistics.median(taken))
        for operation, taken in zip(plan.operations, times, strict=True)
    ]


def in_turns(*actions: Callable[[], object]) -> list[float]:
    """Returns the median milliseconds of each.

    After a run, the threads of ONNX Runtime look for work for a while: each waits until they sleep.
    """
    times: list[list[float]] = [[] for _ in actions]
    for _ in range(_ROUNDS):
        for action, taken in zip(actions, times, strict=True):
            time.sleep(_PAUSE)
            action()
            started = time.perf_counter()
            action()
            taken.append((time.perf_counter() - started) * 1e3)
    return [statistics.median(taken) for taken in times]


def described(operation: Any) -> tuple[str, str, str]:
    """Returns an operation's name, form and top."""
    top = f"{operation.top.heights[0]} x {operation.top.widths[0]} x {operation.top.channels}"
    kernel: Sequence[int] = getattr(operation, "kernel", ())
    name = f"{type(operation).__name__} {' x '.join(map(str, kernel))}"
    tile = getattr(operation, "tile", None)
    form = f"tiles of {len(tile.vertical.outputs)}" if tile else "direct" if hasattr(operation, "filters") else ""
    return name, form, top


def onnx_runtime(known: Job) -> Callable[[], object]:
    """Returns the net in ONNX Runtime, as it comes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(known["onnx"], options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: np.load(known["blob"])}
    return lambda: session.run(known["outputs"][:1], inputs)


if __name__ == "__main__":
    main()
