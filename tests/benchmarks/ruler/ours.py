"""Our engines, and the matrix product that all are measured by: `python -m tests.benchmarks.ruler.ours NAME JOB`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version

import numpy as np

from conversion.errors import MissingExtraError
from pipeline.engines import Engine
from pipeline.engines.native.engine import NativeEngine
from pipeline.engines.onnxruntime import OnnxRuntimeEngine
from pipeline.engines.openvino import OpenVinoEngine
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.tools.benchmark import matrix_product
from tests.benchmarks.ruler.serve import Job, MissingError, Opened, Run, serve

OURS: dict[str, Callable[[str, Sequence[str]], Engine]] = {
    "native": lambda model, features: NativeEngine(model, features=features),
    "onnxruntime": lambda model, features: OnnxRuntimeEngine(model, features=features),
    "openvino": lambda model, features: OpenVinoEngine(model, features=features),
    "tensorflow": lambda model, features: TensorFlowEngine(model, features=features),
}
"""(model directory, features) -> engine; an engine that is not installed raises MissingExtraError."""

PRODUCT = "sgemm"


def _open(name: str, job: Job, features: Sequence[str] = ()) -> Engine:
    try:
        return OURS[name](job["model"], features)
    except MissingExtraError as error:
        raise MissingError(error.what) from error


def _engine(name: str, job: Job) -> Opened:
    engine = _open(name, job)
    pixels = np.load(job["pixels"])
    return Opened(f"densecast {version('densecast')}, {engine.identity.split(',')[0]}", lambda: engine.score(pixels))


def _scores(name: str, job: Job) -> Run:
    engine = _open(name, job, [job["feature"]])
    pixels = np.load(job["pixels"])

    def run() -> np.ndarray:
        return np.stack([cells.features[0].values.transpose(2, 0, 1) for cells in engine.score(pixels)])

    return run


def main(name: str, job: Job) -> None:
    if name == PRODUCT:
        multiply = matrix_product()
        serve(lambda: Opened(f"NumPy {np.__version__}", multiply), lambda: multiply)
    else:
        serve(lambda: _engine(name, job), lambda: _scores(name, job))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
