"""What the engines of ONNX graphs refuse, and how their libraries' errors come out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.engines import EngineOutOfMemoryError
from pipeline.engines.graph_engine import GraphEngine
from pipeline.engines.onnxruntime import OnnxRuntimeEngine
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


def test_weights_that_a_session_refers_to_stay(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    """Where ONNX Runtime packs nothing, it reads the arrays themselves at every call."""
    monkeypatch.setattr("conversion.export.cellwise._LEAST_WEIGHTS", 1)
    packed = OnnxRuntimeEngine(small_model)
    runtime = packed._runtime
    plain = runtime.SessionOptions

    def without_packing() -> object:
        options = plain()
        options.add_session_config_entry("session.disable_prepacking", "1")
        return options

    monkeypatch.setattr(runtime, "SessionOptions", without_packing)
    referring = OnnxRuntimeEngine(small_model)
    assert (len(packed._kept), len(referring._kept) > 0) == (0, True)
    one, other = packed.score(IMAGES)[0], referring.score(IMAGES)[0]
    np.testing.assert_allclose(one.scores, other.scores, rtol=0, atol=1e-5)
