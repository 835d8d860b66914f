"""Trials of engines, in processes of their own."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from conversion import read_metadata
from pipeline.engines.candidates import Wish
from pipeline.errors import EngineError
from pipeline.maps.recipe import Precision
from pipeline.scoring import engine_trials, machine, reference
from pipeline.scoring.engine_choice import AGREEMENT
from pipeline.scoring.engine_trial import try_engine
from pipeline.scoring.engine_trials import Trial, trials_of, try_engines
from pipeline.settings import EngineName

ONNXRUNTIME, OPENVINO = EngineName.ONNXRUNTIME, EngineName.OPENVINO


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, for the processes too."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wish(model: Path) -> Wish:
    return Wish(str(model), read_metadata(model), Precision.FLOAT32, "cpu")


@pytest.fixture
def older(small_model: Path, tmp_path: Path) -> Path:
    """The model as an older version has made it: without the reference's map."""
    model = Path(shutil.copytree(small_model, tmp_path / "model"))
    (model / "reference.npz").unlink()
    content = json.loads((model / "densecast.json").read_text())
    del content["files"]["reference.npz"]
    (model / "densecast.json").write_text(json.dumps(content))
    return model


def test_engines_are_compared_with_the_reference_of_the_model(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reference, "compute_reference", None)  # it is not computed
    numbers = try_engine(ONNXRUNTIME, str(small_model), Precision.FLOAT32, ["once", "twice"])
    error, *milliseconds = numbers
    assert 0 < error < AGREEMENT
    assert len(milliseconds) == 2
    assert min(milliseconds) > 0


def test_an_engine_that_fails_is_reported_and_the_others_are_tried(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    wanted = wish(small_model)
    # OpenVINO does not compute in it; asked for by `choose_engine`, which knows, it would not be tried.
    wanted = Wish(wanted.model, wanted.metadata, Precision.FLOAT16, "cpu")
    with caplog.at_level(logging.WARNING):
        trials = try_engines([OPENVINO, ONNXRUNTIME], wanted)
    assert trials.keys() == {ONNXRUNTIME}
    assert trials[ONNXRUNTIME].milliseconds > 0
    assert 0 < trials[ONNXRUNTIME].error < 2e-2
    [line] = [record.getMessage() for record in caplog.records]
    assert line.startswith("the engine openvino cannot be tried: ")
    assert "does not compute in float16" in line


def test_the_reference_of_an_older_model_is_computed_once(older: Path, monkeypatch: pytest.MonkeyPatch):
    metadata = read_metadata(older)
    assert reference.known_reference(str(older), metadata) is None
    computed = reference.reference_of(str(older), metadata)
    monkeypatch.setattr(reference, "compute_reference", None)
    kept = reference.reference_of(str(older), metadata)
    np.testing.assert_array_equal(kept.images, computed.images)
    np.testing.assert_array_equal(kept.probabilities, computed.probabilities)


class Process:
    """In place of a process: says what happens when."""

    log: ClassVar[list[str]] = []

    def __init__(self, engine: EngineName, _: Wish) -> None:
        self.engine = engine
        self.log.append(f"start {engine}")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"end {self.engine}")

    def compare(self) -> bool:
        self.log.append(f"compare {self.engine}")
        return True

    def run(self) -> None:
        self.log.append(f"run {self.engine}")

    def trial(self) -> Trial:
        return Trial(1.0, 0.0)


@pytest.mark.parametrize("known", [True, False])
def test_engines_are_opened_together_and_timed_in_turns(
    small_model: Path, older: Path, monkeypatch: pytest.MonkeyPatch, known: bool
):
    monkeypatch.setattr(engine_trials, "_Process", Process)
    monkeypatch.setattr(Process, "log", [])
    assert try_engines([ONNXRUNTIME, OPENVINO], wish(small_model if known else older)).keys() == {ONNXRUNTIME, OPENVINO}
    both = ["onnxruntime", "openvino"]
    starts = [f"start {name}" for name in both]
    # Without the reference's map the first one computes it before the other asks for it.
    starts = starts if known else [starts[0], "compare onnxruntime", starts[1]]
    runs = [f"run {name}" for name in both]
    assert Process.log == [
        *starts,
        *(f"compare {name}" for name in both),
        *(3 * runs),
        "end openvino",
        "end onnxruntime",
    ]


def test_trials_are_remembered_together(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    tried = []

    def fake(engines: list[EngineName], _: Wish) -> dict[EngineName, Trial]:
        tried.append(list(engines))
        return {name: Trial(1.0, 0.0) for name in engines}

    monkeypatch.setattr(engine_trials, "try_engines", fake)
    wanted = wish(small_model)
    assert trials_of([ONNXRUNTIME], wanted) == trials_of([ONNXRUNTIME], wanted)
    assert tried == [[ONNXRUNTIME]]
    trials_of([ONNXRUNTIME, OPENVINO], wanted)  # one is new: both are timed
    trials_of([ONNXRUNTIME, OPENVINO], wanted)
    assert tried == [[ONNXRUNTIME], [ONNXRUNTIME, OPENVINO]]


@pytest.mark.parametrize(
    ("name", "value", "again"),
    [
        *(("OMP_NUM_THREADS", "1", True), ("GOMP_SPINCOUNT", "0", True), ("KMP_BLOCKTIME", "0", True)),
        *(("ONEDNN_MAX_CPU_ISA", "SSE41", True), ("TF_ENABLE_ONEDNN_OPTS", "0", True), ("ORT_CPU", "x", True)),
        *(("OPENVINO_X", "1", True), ("OV_CPU_X", "1", True), ("TBB_X", "1", True), ("LD_PRELOAD", "", True)),
        *(("TF_CPP_MIN_LOG_LEVEL", "1", False), ("ORT_DISABLE_TELEMETRY", "0", False), ("DNNL_VERBOSE", "0", False)),
        *(("HOME", "/nowhere", False), ("LD_PRELOADED", "x", False), ("PYTHONPATH", "x", False)),
    ],
)
def test_what_changes_speed_or_bits_is_tried_again(name: str, value: str, again: bool, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv(name, raising=False)
    before = machine.machine_facts()
    monkeypatch.setenv(name, value)
    assert (machine.machine_facts() != before) is again


def test_another_number_of_cores_is_tried_again(monkeypatch: pytest.MonkeyPatch):
    before = machine.machine_facts()
    monkeypatch.setattr(machine, "usable_cores", lambda: 1000)
    assert machine.machine_facts() != before


def test_an_engine_without_probabilities_is_an_error(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    class Mute:
        def score(self, images: np.ndarray) -> list[object]:
            return [type("Cells", (), {"probabilities": None})() for _ in images]

    monkeypatch.setattr("pipeline.scoring.engine_trial.EngineFactory", lambda *_: Mute)
    with pytest.raises(EngineError, match="no probabilities"):
        next(try_engine(ONNXRUNTIME, str(small_model), Precision.FLOAT32, []))


def test_a_process_that_cannot_be_started_is_an_error(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    with pytest.raises(EngineError, match="the engine onnxruntime cannot be tried") as caught:
        try_engines([ONNXRUNTIME], wish(small_model))
    assert "--engine" in caught.value.remedy
