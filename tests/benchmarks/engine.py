"""The full-size CaffeNet (seeded weights) in the engine that `auto` takes, by size, and against its own crops."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from pipeline.tools.benchmark import bench, render
from tests.benchmarks.caffenet import caffenet

ROUNDS = 7


def report(folder: Path, console: Console) -> None:
    started = time.perf_counter()
    model = caffenet(folder)
    console.print(f"convert, verification included: {time.perf_counter() - started:.1f} s (0: it was there)")
    console.print(render(bench(str(model))))


def in_turns(*actions: Callable[[], object]) -> list[float]:
    """Median milliseconds of each action, after one round to warm up."""
    times: list[list[float]] = [[] for _ in actions]
    for round_ in range(ROUNDS + 1):
        for action, taken in zip(actions, times, strict=True):
            start = time.perf_counter()
            action()
            if round_:
                taken.append((time.perf_counter() - start) * 1e3)
    return [statistics.median(taken) for taken in times]
