"""What the engines of ONNX graphs refuse, and how their libraries' errors come out."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
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
    assert len(given[0]) == 7
    assert kept.keys() == (given[0].keys() if refers else set())
    for name, array in kept.items():
        np.testing.assert_array_equal(array, given[0][name])


def test_threads_wait_awake_for_the_next_operation_but_not_for_the_next_batch(small_model: Path):
    options = OnnxRuntimeEngine(small_model)._session_options({})
    assert int(options.get_session_config_entry("session.intra_op.spin_duration_us")) <= 100
    with pytest.raises(RuntimeError, match="allow_spinning"):  # not set: they may
        options.get_session_config_entry("session.intra_op.allow_spinning")


def test_the_files_of_a_model_may_be_links(small_model: Path, tmp_path: Path):
    """As tools that keep data apart make them. ONNX Runtime itself refuses such weights."""
    linked = tmp_path / "model"
    for file in (path for path in small_model.rglob("*") if path.is_file()):
        place = linked / file.relative_to(small_model)
        place.parent.mkdir(parents=True, exist_ok=True)
        store = tmp_path / f"stored-{file.name}"
        store.write_bytes(file.read_bytes())
        place.symlink_to(store)
    [one], [other] = (OnnxRuntimeEngine(model).score(IMAGES[:1]) for model in (small_model, linked))
    np.testing.assert_array_equal(one.scores, other.scores)


def test_onnx_runtime_writes_nothing_about_its_user(tmp_path: Path):
    """Its own import writes an identifier of the machine, and a queue of events."""
    code = "from conversion import import_onnxruntime; import_onnxruntime().SessionOptions()"
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
