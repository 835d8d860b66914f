"""What the commands about models say before they work: outputs that exist, pictures, counts, missing means."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from conversion import read_metadata
from conversion.errors import ConversionError, ReadingError
from models import entry
from pipeline.cli.commands import model as commands
from pipeline.cli.commands.models import models
from pipeline.errors import JobError
from pipeline.tools.benchmark import bench

DIGITS = entry("digits")
FILES = (str(DIGITS.definition), str(DIGITS.shipped_weights))


def run(command: click.Command, *arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that takes long is begun."""
    for module, name in (("conversion.export.convert", "load_dense"), ("models.fetch", "fetch")):
        monkeypatch.setattr(importlib.import_module(module), name, lambda *_, **__: pytest.fail("it was begun"))
    monkeypatch.setattr(commands, "need_tensorflow", lambda: pytest.fail("TensorFlow was loaded"))


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize(
    "arguments",
    [["convert", *FILES, "--mean=0"], ["models", "random", "digits"], ["models", "fetch", "digits"]],
    ids=lambda arguments: " ".join(arguments[:2]),
)
def test_an_output_that_exists_is_found_first(arguments: list[str], tmp_path: Path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "file").write_text("")
    command: click.Command = {"convert": commands.convert, "models": models}[arguments[0]]
    result = run(command, *arguments[1:], f"--output={tmp_path / 'model'}")
    assert isinstance(result.exception, ConversionError)
    assert "the output exists" in str(result.exception)
    assert "--overwrite" in result.exception.remedy
    (tmp_path / "file").write_text("")
    result = run(command, *arguments[1:], f"--output={tmp_path / 'file' / 'model'}")
    assert isinstance(result.exception, ConversionError)
    assert "is not a folder" in result.exception.why


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("place", [0, 1], ids=["definition", "weights"])
def test_a_picture_is_called_a_picture(place: int, tmp_path: Path):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(b"\xff\xd8\xff\xe0\x00\x10JFIF")
    files = list(FILES)
    files[place] = str(photo)
    result = run(commands.convert, *files, f"--output={tmp_path / 'model'}")
    assert isinstance(result.exception, ReadingError)
    assert "picture (JPEG)" in result.exception.what
    assert "densecast score" in result.exception.remedy


@pytest.mark.parametrize("batches", ["0", "-1", "1,0", "x", "99999999999999999999"])
def test_counts_below_one_are_wrong_usage(batches: str):
    result = run(commands.bench, "model", f"--batches={batches}")
    assert result.exit_code == 2
    assert "whole numbers from 1" in result.output


def test_counts_below_one_in_python():
    for values in ({"batches": [0]}, {"batches": []}, {"batches": [1], "sizes": [-1]}, {"batches": [1], "repeats": 0}):
        with pytest.raises(JobError, match="batches"):
            bench("model", **values)


def test_a_known_net_gets_the_mean_and_scale_of_the_catalog(tmp_path: Path):
    (tmp_path / "model").mkdir()  # an empty folder is taken
    result = run(commands.convert, *FILES, f"--output={tmp_path / 'model'}", "--json")
    assert result.exit_code == 0, result.output
    preprocessing = json.loads(result.stdout)["preprocessing"]
    assert (preprocessing["mean"], preprocessing["scale"]) == (list(DIGITS.mean), DIGITS.scale)
    assert "--mean 208.0,224.0,231.0 and --scale 0.015625" in result.stderr


def test_an_unknown_net_without_a_mean_is_said_before_and_in_the_model(tmp_path: Path):
    definition = tmp_path / "mine.prototxt"
    definition.write_text(DIGITS.definition.read_text().replace("dim: 32", "dim: 36"))
    arguments = (str(definition), FILES[1], f"--output={tmp_path / 'model'}")
    result = run(commands.convert, *arguments)
    assert "WARNING: no --mean was given" in result.stderr
    if result.exit_code == 0:
        assert any("no mean was given" in note for note in read_metadata(tmp_path / "model").notes)
    assert "WARNING" not in run(commands.convert, *arguments, "--mean=0", "--scale=1", "--overwrite").stderr


def test_a_random_model_says_so(tmp_path: Path):
    result = run(models, "random", "digits", f"--output={tmp_path / 'model'}")
    assert result.exit_code == 0, result.output
    assert read_metadata(tmp_path / "model").random_weights
    assert "random: the classes mean nothing" in run(commands.inspect, str(tmp_path / "model")).output
    assert run(models, "random", "digits", f"--output={tmp_path / 'model'}", "--overwrite").exit_code == 0
