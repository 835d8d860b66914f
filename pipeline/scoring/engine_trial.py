"""`python -m pipeline.scoring.engine_trial ENGINE MODEL PRECISION`: tries an engine; prints a number in each line.

The first is the largest difference of a probability from the NumPy reference on 2 x 2 cells. Then each line that it
reads makes it compute the map of an image of `TIMED_SIDE` pixels square, or of 2 x 2 cells if that is larger; it prints
the milliseconds from pixels to probabilities.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from conversion import read_metadata
from conversion.errors import DensecastError
from pipeline.engines.devices import CPU
from pipeline.engines.factory import EngineFactory
from pipeline.errors import EngineError
from pipeline.maps.recipe import Form, Precision, Recipe
from pipeline.scoring.reference import reference_of
from pipeline.settings import EngineName

TIMED_SIDE = 451
"""Pixels: what a scoring job has in a batch."""


def try_engine(engine: EngineName, model: str, precision: Precision, asked: Iterable[object]) -> Iterator[float]:
    """Yields the error of an engine on the CPU, and then, each time that it is asked, milliseconds.

    Raises:
        DensecastError: The model cannot be read, or the engine cannot run it.
    """
    metadata = read_metadata(model)
    recipe = replace(Recipe().for_model(metadata), form=Form.FLOAT32, precision=precision)
    reference = reference_of(model, metadata)
    # On the CPU: a run that uses a GPU takes its engine without a trial.
    opened = EngineFactory(model, recipe, engine, CPU)()
    (cells,) = opened.score(reference.images)
    if cells.probabilities is None:
        raise EngineError("the engine gives no probabilities", remedy="open it with Form.FLOAT32")
    yield float(np.abs(cells.probabilities - reference.probabilities[0]).max())
    size = np.maximum(metadata.size_of_four_cells, TIMED_SIDE)
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    for _ in asked:
        started = time.perf_counter()
        opened.score(images)
        yield (time.perf_counter() - started) * 1e3


def _main(name: str, model: str, precision: str) -> None:
    with contextlib.suppress(OSError):  # where memory is short, this process ends, and not the one that asks
        Path("/proc/self/oom_score_adj").write_text("1000")
    # What a library prints goes to the error stream.
    with os.fdopen(os.dup(1), "w") as answers:
        os.dup2(2, 1)
        for number in try_engine(EngineName(name), model, Precision(precision), iter(sys.stdin.readline, "")):
            print(number, file=answers, flush=True)


if __name__ == "__main__":
    try:
        _main(*sys.argv[1:])
    except DensecastError as problem:
        sys.exit(" ".join(str(problem).split()))
