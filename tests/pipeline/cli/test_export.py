"""The command `export` for models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from conversion import convert
from conversion.errors import ConversionError
from models import entry
from pipeline import ScoreImages
from pipeline.cli.commands.export import export
from pipeline.cli.commands.model import inspect
from pipeline.cli.commands.table import score
from pipeline.errors import EngineError
from pipeline.tools.benchmark import bench

DIGITS = entry("digits")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "digits"
    convert(DIGITS.definition, DIGITS.shipped_weights, path, mean=DIGITS.mean, scale=DIGITS.scale, form="onnx")
    return path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(export, arguments)


def test_it_says_what_it_wrote(model: Path, tmp_path: Path):
    result = run(str(model), str(tmp_path / "m.onnx"), "--format=onnx")
    assert result.exit_code == 0, result.output
    size = (tmp_path / "m.onnx").stat().st_size
    wrote, given, *outputs, verified = result.stdout.splitlines()
    assert wrote == f"wrote {tmp_path / 'm.onnx'}: {size:,} bytes"
    assert given == "input images: uint8 [batch, height, width, 3]"
    assert outputs[0].startswith("output probabilities: float32 [batch, ")
    assert verified.startswith("verified: 11 blobs at 3 sizes, worst ")


def test_every_option_is_passed_on(model: Path, tmp_path: Path):
    flags = ["--classifier", "--fp16", "--raw-input", "--input-size=32x32", "--json", "--format", "onnx"]
    result = run(str(model), str(tmp_path / "m.onnx"), *flags)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["inputs"] == {"data": "float32 [1, 3, 32, 32]"}
    assert report["outputs"]["probabilities"] == "float32 [1, 11]"
    assert report["verification"]["tolerance"] == 0.02
    again = run(str(model), str(tmp_path / "m.onnx"), *flags)
    assert isinstance(again.exception, ConversionError)
    assert run(str(model), str(tmp_path / "m.onnx"), *flags, "--overwrite").stdout == result.stdout


def test_wrong_usage(model: Path, tmp_path: Path):
    for arguments, message in (
        ([str(tmp_path), "m.onnx", "--format=onnx"], "is not a model"),
        ([str(model), "m.bin"], "--format"),
        ([str(model), "m.onnx", "--format=caffe"], "caffe"),
        ([str(model), "m.onnx", "--format=onnx", "--input-size=1"], ""),
    ):
        result = run(*arguments)
        assert result.exit_code
        assert message in result.output


def test_inspect_shows_the_verification_of_the_onnx_form(model: Path):
    output = CliRunner().invoke(inspect, [str(model)]).output
    assert "onnx: 11 blobs at 3 sizes" in output


def test_a_model_without_a_savedmodel_is_run_but_by_tensorflow(model: Path, tmp_path: Path):
    report = bench(str(model), sizes=[40], batches=[1], repeats=1, engine="onnxruntime")
    assert report.engine.startswith("ONNX Runtime")
    with pytest.raises(EngineError, match="--engine tensorflow cannot run this job"):
        bench(str(model), batches=[1], engine="tensorflow")
    with pytest.raises(EngineError, match="--engine tensorflow cannot run this job"):
        ScoreImages(str(model), str(tmp_path / "maps"), engine="tensorflow")
    arguments = [str(model), str(tmp_path), f"--output={tmp_path / 'maps'}", "--engine=tensorflow"]
    result = CliRunner().invoke(score, arguments)
    assert isinstance(result.exception, EngineError)
    assert "has no SavedModel" in result.exception.why
    assert "--format both" in result.exception.remedy
    assert not (tmp_path / "maps").exists()
