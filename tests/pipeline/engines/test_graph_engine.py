"""What the engines of ONNX graphs refuse, and how their libraries' errors come out."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.engines import EngineOutOfMemoryError
from pipeline.engines.graph_engine import GraphEngine
from pipeline.engines.onnxruntime import OnnxRuntimeEngine, Weights
from pipeline.engines.openvino import OpenVinoEngine
from pipeline.errors import EngineError
from pipeline.maps.recipe import Precision

ENGINES = [OnnxRuntimeEngine, OpenVinoEngine]
IMAGES = np.zeros((2, 227, 240, 3), np.uint8)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (RuntimeError("bad allocation"), EngineOutOfMemoryError, "2 images of 227 x 240 does not fit in memory"),
        (RuntimeError("Failed to allocate memory for requested buffer of size 9"), EngineOutOfMemoryError, "not fit"),
        (MemoryError(), EngineOutOfMemoryError, "does not fit"),
        (RuntimeError("no kernel"), EngineError, "failed on 2 images of 227 x 240: no kernel"),
    ],
)
def test_errors_of_a_library_say_whether_a_smaller_batch_may_fit(
    small_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    engine: type[GraphEngine],
    error: Exception,
    kind: type[EngineError],
    text: str,
):
    opened = engine(small_model)

    def failing(_: object) -> dict[str, np.ndarray]:
        raise error

    monkeypatch.setattr(opened, "_compute", failing)
    with pytest.raises(EngineError, match=text) as caught:
        opened.score(IMAGES)
    assert type(caught.value) is kind


@pytest.mark.parametrize("engine", ENGINES)
def test_an_unknown_precision_is_refused_before_the_model_is_read(small_model: Path, engine: type[GraphEngine]):
    with pytest.raises(EngineError, match="does not compute in bfloat16") as caught:
        engine(small_model, precision=Precision.BFLOAT16)
    assert "--engine tensorflow" in caught.value.remedy


@pytest.mark.parametrize("refers", [False, True])
def test_weights_that_a_session_refers_to_stay(small_model: Path, monkeypatch: pytest.MonkeyPatch, *, refers: bool):
    """It refers to them if a map changes when they are overwritten; they then have their values again."""
    monkeypatch.setattr("conversion.export.cellwise._LEAST_WEIGHTS", 1)
    given: list[Weights] = []
    new_session = OnnxRuntimeEngine._new_session

    def remembered(engine: OnnxRuntimeEngine, graph: bytes, weights: Weights) -> Any:
        given.append({name: array.copy() for name, array in weights.items()})
        return new_session(engine, graph, weights)

    monkeypatch.setattr(OnnxRuntimeEngine, "_new_session", remembered)
    if refers:
        counted = itertools.count()
        monkeypatch.setattr(OnnxRuntimeEngine, "_compute", lambda *_: {"map": np.array(next(counted))})
    kept = OnnxRuntimeEngine(small_model)._kept
    assert len(given[0]) == 49
    assert kept.keys() == (given[0].keys() if refers else set())
    for name, array in kept.items():
        np.testing.assert_array_equal(array, given[0][name])
