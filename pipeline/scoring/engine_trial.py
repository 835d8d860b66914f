"""`python -m pipeline.scoring.engine_trial ENGINE MODEL PRECISION`: tries an engine on an image; prints JSON.

The two numbers are the least milliseconds from pixels to probabilities for an image of `TIMED_SIDE` pixels square, or
of 2 x 2 cells if that is larger, and the largest difference of a probability from the NumPy reference on 2 x 2 cells.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace

import numpy as np

from conversion import load_stored, model_weights, read_metadata, verification_examples
from conversion.errors import DensecastError
from pipeline.engines.devices import CPU
from pipeline.engines.factory import EngineFactory
from pipeline.engines.graph_engine import size_of_four_cells
from pipeline.errors import EngineError
from pipeline.maps.recipe import Form, Precision, Recipe
from pipeline.settings import EngineName

TIMED_SIDE = 451
"""Pixels: what a scoring job has in a batch."""
_ROUNDS = 4  # the first warms up
_ENOUGH_S = 3.0


def try_engine(engine: EngineName, model: str, precision: Precision) -> tuple[float, float]:
    """Returns milliseconds and error of an engine on the CPU, on a seeded image of 2 x 2 cells.

    Raises:
        DensecastError: The model cannot be read, or the engine cannot run it.
    """
    metadata = read_metadata(model)
    recipe = replace(Recipe().for_model(metadata), form=Form.FLOAT32, precision=precision)
    height, width = size_of_four_cells(metadata)
    network = load_stored(model, model_weights(model))
    (example,) = verification_examples(network, metadata.preprocessing, [(1, height, width)])
    expected = dict(example.blobs())[metadata.output_blob].transpose(0, 2, 3, 1)
    del network
    # On the CPU: a run that uses a GPU takes its engine without a trial.
    opened = EngineFactory(model, recipe, engine, CPU)()
    (cells,) = opened.score(example.images)
    if cells.probabilities is None:
        raise EngineError("the engine gives no probabilities", remedy="open it with Form.FLOAT32")
    error = float(np.abs(cells.probabilities - expected[0]).max())
    size = max(height, TIMED_SIDE), max(width, TIMED_SIDE)
    images = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    seconds: list[float] = []
    while len(seconds) < _ROUNDS and sum(seconds) < _ENOUGH_S:
        started = time.perf_counter()
        opened.score(images)
        seconds.append(time.perf_counter() - started)
    return min(seconds) * 1e3, error


if __name__ == "__main__":
    name, directory, kind = sys.argv[1:]
    try:
        result = try_engine(EngineName(name), directory, Precision(kind))
    except DensecastError as problem:
        sys.exit(" ".join(str(problem).split()))
    print(json.dumps(result))  # noqa: T201 - read by the caller
