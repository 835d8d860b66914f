"""`python -m pipeline.scoring.engine_trial ENGINE MODEL PRECISION`: tries an engine on an image; prints JSON.

The two numbers are the median milliseconds from pixels to probabilities, and the largest difference of a probability
from the NumPy reference.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from dataclasses import replace

import numpy as np

from conversion import load_stored, model_weights, read_metadata, verification_examples
from pipeline.engines.devices import CPU
from pipeline.engines.factory import EngineFactory
from pipeline.errors import EngineError
from pipeline.maps.recipe import Form, Precision, Recipe
from pipeline.settings import EngineName

_ROUNDS = 3


def try_engine(engine: EngineName, model: str, precision: Precision) -> tuple[float, float]:
    """Returns milliseconds and error of an engine on the CPU, on a seeded image of 2 x 2 cells.

    Raises:
        DensecastError: The model cannot be read, or the engine cannot run it.
    """
    metadata = read_metadata(model)
    recipe = replace(Recipe().for_model(metadata), form=Form.FLOAT32, precision=precision)
    stride = metadata.geometry.y.stride, metadata.geometry.x.stride
    height, width = (int(side + step) for side, step in zip(metadata.minimum_size, stride, strict=True))
    network = load_stored(model, model_weights(model))
    (example,) = verification_examples(network, metadata.preprocessing, [(1, height, width)])
    expected = dict(example.blobs())[metadata.output_blob].transpose(0, 2, 3, 1)
    del network
    opened = EngineFactory(model, recipe, engine, CPU)()
    (cells,) = opened.score(example.images)
    seconds = []
    for _ in range(_ROUNDS):
        started = time.perf_counter()
        opened.score(example.images)
        seconds.append(time.perf_counter() - started)
    if cells.probabilities is None:
        raise EngineError("the engine gives no probabilities", remedy="open it with Form.FLOAT32")
    error = float(np.abs(cells.probabilities - expected[0]).max())
    return statistics.median(seconds) * 1e3, error


if __name__ == "__main__":
    name, directory, kind = sys.argv[1:]
    print(json.dumps(try_engine(EngineName(name), directory, Precision(kind))))  # noqa: T201 - read by the caller
