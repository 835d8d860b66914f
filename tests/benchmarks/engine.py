"""The full-size CaffeNet (seeded weights): how fast, against its own crops and against OpenCV on the same files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rich.console import Console

from conversion import cast, load_network, save
from models import entry
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.tools.benchmark import bench, render
from tests.benchmarks.caffenet import NETWORK, WEIGHTS, caffenet

ROUNDS = 7


def report(folder: Path, console: Console) -> None:
    mean = entry("caffenet").mean
    started = time.perf_counter()
    model = caffenet(folder)
    console.print(f"convert, verification included: {time.perf_counter() - started:.1f} s (0: it was there)")
    console.print(render(bench(str(model))))
    save(cast(load_network(folder / NETWORK, folder / WEIGHTS)), folder / "dense.prototxt", folder / "dense.caffemodel")
    for size in (227, 451, 1024):
        for peer, times in against_peers(folder, model, size, mean).items():
            console.print(f"{size}x{size}, batch 1: {peer}: {times[0]:.1f} ms, densecast {times[1]:.1f} ms")


def against_peers(folder: Path, model: Path, size: int, mean: tuple[float, ...]) -> dict[str, tuple[float, float]]:
    """Median milliseconds of each peer and of ours, uint8 image to probabilities, in turns."""
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    engine = TensorFlowEngine(model)
    result = {}
    for name, peer in peers(folder, mean).items():
        theirs, ours = in_turns(lambda: peer(image), lambda: engine.score(image[None]))  # noqa: B023
        result[name] = (theirs, ours)
    return result


def peers(folder: Path, mean: tuple[float, ...]) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """What a user would pick instead; those that are not installed are left out, and said so."""
    try:
        import cv2
    except ImportError:
        print("OpenCV is not installed (extra `bench`): not compared")  # noqa: T201
        return {}
    net = cv2.dnn.readNetFromCaffe(str(folder / "dense.prototxt"), str(folder / "dense.caffemodel"))

    def opencv(image: np.ndarray) -> np.ndarray:
        net.setInput(cv2.dnn.blobFromImage(image, 1.0, mean=mean[::-1], swapRB=True))
        return net.forward()

    return {f"OpenCV {cv2.__version__}": opencv}


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
