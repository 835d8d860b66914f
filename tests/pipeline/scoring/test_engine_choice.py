"""Which engine a run takes, and why."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from conversion import read_metadata
from pipeline.engines import candidates
from pipeline.errors import EngineError, SettingError
from pipeline.maps.recipe import Precision, Recipe
from pipeline.scoring import engine_trials
from pipeline.scoring.engine_choice import AGREEMENT, EngineChoice, choose_engine, engine_named
from pipeline.scoring.engine_trials import Trial
from pipeline.settings import EngineName
from tests.support.fakes import write_model

AUTO, NATIVE, ONNXRUNTIME, OPENVINO, TENSORFLOW = EngineName


@pytest.fixture(autouse=True)
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is built, `auto` would take it; tests of it have it installed, or say so."""
    monkeypatch.setitem(candidates._NEEDS, NATIVE, ("no_such_module",))


def choose(
    model: Path, wanted: EngineName = AUTO, precision: Precision = Precision.FLOAT32, **options: Any
) -> EngineChoice:
    metadata = read_metadata(model)
    recipe = Recipe(precision=precision).for_model(metadata)
    return choose_engine(wanted, str(model), metadata, recipe, **{"device": "cpu", **options})


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[EngineName, Trial | None]:
    """What each engine does in its trial, instead of a trial; and a cache of its own."""
    results: dict[EngineName, Trial | None] = {ONNXRUNTIME: Trial(20, 1e-6), OPENVINO: Trial(10, 2e-6)}

    def tried(engines: Sequence[EngineName], _: object) -> dict[EngineName, Trial]:
        return {name: trial for name in engines if (trial := results[name]) is not None}

    monkeypatch.setattr(engine_trials, "try_engines", tried)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / name))
    return results


@pytest.mark.parametrize(
    ("changed", "best"),
    [
        ({}, OPENVINO),
        ({OPENVINO: Trial(30, 2e-6)}, ONNXRUNTIME),
        ({OPENVINO: Trial(10, 2 * AGREEMENT)}, ONNXRUNTIME),
        ({OPENVINO: None}, ONNXRUNTIME),
        ({OPENVINO: None, ONNXRUNTIME: Trial(1, 1.0)}, TENSORFLOW),
        ({OPENVINO: None, ONNXRUNTIME: None}, TENSORFLOW),
    ],
)
def test_auto_takes_the_fastest_that_agrees(
    small_model: Path,
    trials: dict[EngineName, Trial | None],
    changed: Mapping[EngineName, Trial | None],
    best: EngineName,
):
    trials.update(changed)
    choice = choose(small_model)
    assert choice.engine is best
    for name, trial in trials.items():
        assert (trial is None) == (f"{name} " not in choice.reason)


def test_a_machine_tries_a_model_once(small_model: Path, trials: dict[EngineName, Trial | None]):
    first = choose(small_model)
    trials.clear()
    assert choose(small_model) == first


def test_no_engine_that_agrees_is_an_error(
    small_model: Path, trials: dict[EngineName, Trial | None], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(candidates._NEEDS, TENSORFLOW, ("no_such_module",))
    trials.update({ONNXRUNTIME: Trial(1, 1.0), OPENVINO: None})
    with pytest.raises(EngineError, match="no engine agrees") as caught:
        choose(small_model)
    assert "onnxruntime 1 ms, off by 1.0e+00" in caught.value.why


@pytest.mark.parametrize(
    ("wanted", "options", "why"),
    [
        (ONNXRUNTIME, {"precision": Precision.BFLOAT16}, "does not compute in bfloat16"),
        (OPENVINO, {"precision": Precision.FLOAT16}, "does not compute in float16"),
        (ONNXRUNTIME, {"xla": True}, "XLA compiles nets of TensorFlow only"),
    ],
)
def test_an_engine_that_cannot_is_never_replaced(
    small_model: Path, wanted: EngineName, options: dict[str, Any], why: str
):
    with pytest.raises(EngineError, match=f"--engine {wanted} cannot run this job") as caught:
        choose(small_model, wanted, **options)
    assert why in caught.value.why
    assert caught.value.remedy
    choice = choose(small_model, AUTO, **options)
    assert choice.engine is TENSORFLOW or options.get("precision") is Precision.FLOAT16


def test_a_model_without_an_onnx_graph_is_run_by_tensorflow(tmp_path: Path):
    model = write_model(tmp_path / "model")
    choice = choose(model)
    assert choice.engine is TENSORFLOW
    assert "has no ONNX graph" in choice.reason
    with pytest.raises(EngineError, match="--engine onnxruntime cannot"):
        choose(model, ONNXRUNTIME)


def test_what_is_not_installed_is_named_with_its_extra(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (ONNXRUNTIME, OPENVINO, TENSORFLOW):
        monkeypatch.setitem(candidates._NEEDS, name, ("no_such_module",))
    with pytest.raises(EngineError, match="no engine can run this job") as caught:
        choose(small_model)
    assert "openvino: no_such_module is not installed" in caught.value.why
    with pytest.raises(EngineError) as caught:
        choose(small_model, OPENVINO)
    assert "'.[openvino]'" in caught.value.remedy


def test_a_launcher_of_distant_workers_needs_no_engine(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    for name in (ONNXRUNTIME, OPENVINO, TENSORFLOW):
        monkeypatch.setitem(candidates._NEEDS, name, ("no_such_module",))
    assert choose(small_model, here=False, device="gpu").engine is ONNXRUNTIME
    assert choose(small_model, OPENVINO, here=False).engine is OPENVINO
    with pytest.raises(EngineError, match="--engine openvino cannot"):
        choose(small_model, OPENVINO, here=False, precision=Precision.FLOAT16)


def test_auto_takes_densecasts_own_without_a_trial(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(candidates._NEEDS, NATIVE, ("numpy",))
    monkeypatch.setattr(engine_trials, "try_engines", lambda *_: pytest.fail("a trial"))
    assert choose(small_model).engine is NATIVE
    assert choose(small_model, device="gpu", here=False).engine is ONNXRUNTIME
    with pytest.raises(EngineError, match="--engine native cannot") as caught:
        choose(small_model, NATIVE, precision=Precision.FLOAT16)
    assert "does not compute in float16" in caught.value.why


def test_without_densecasts_own_the_reason_is_said(
    small_model: Path, trials: dict[EngineName, Trial | None], monkeypatch: pytest.MonkeyPatch
):
    assert choose(small_model).reason.endswith("not native: no_such_module is not installed")
    with pytest.raises(EngineError) as caught:
        choose(small_model, NATIVE)
    assert "pip install ./pipeline/engines/native/extension" in caught.value.remedy
    monkeypatch.setitem(candidates._NEEDS, NATIVE, ("numpy",))
    monkeypatch.setattr(candidates, "unplain_layer", lambda *_: "layer 'mvn' (MVN): no plain operations compute MVN")
    choice = choose(small_model)
    assert choice.engine is OPENVINO
    assert "not native: layer 'mvn' (MVN)" in choice.reason


def test_one_engine_besides_tensorflow_needs_no_trial(
    small_model: Path, trials: dict[EngineName, Trial | None], monkeypatch: pytest.MonkeyPatch
):
    trials.clear()
    monkeypatch.setitem(candidates._NEEDS, OPENVINO, ("no_such_module",))
    assert choose(small_model).engine is ONNXRUNTIME


def test_names_are_checked():
    assert engine_named("openvino") is OPENVINO
    with pytest.raises(SettingError, match="'caffe' is not an engine") as caught:
        engine_named("caffe")
    assert "native, onnxruntime" in caught.value.remedy


SCORE = """
import sys
from pipeline.cli.main import main
try:
    main()
finally:
    print("modules:", *sorted({"tensorflow", "onnxruntime"} & sys.modules.keys()))
"""


def test_a_run_with_onnx_runtime_loads_no_tensorflow(small_model: Path, tmp_path: Path):
    photos, output = tmp_path / "photos", tmp_path / "maps"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (240, 260, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(photos / "one.png")
    arguments = ["score", str(small_model), str(photos), "--output", str(output), "--engine", "onnxruntime"]
    done = subprocess.run([sys.executable, "-c", SCORE, *arguments], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "modules: onnxruntime"
    [summary] = (output / "_densecast" / "runs").glob("*.json")
    engine = json.loads(summary.read_text())["engine"]
    assert engine["name"] == "onnxruntime"
    assert engine["versions"].keys() == {"onnxruntime"}
