"""The seal of a model directory: what was changed or added is found before anything is loaded."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion import check_files, convert, load_savedmodel, read_metadata, seal
from conversion.errors import ModelError, VerificationError
from conversion.export.metadata import SCHEMA_VERSION
from conversion.surgery import random_parameters, save
from tests.support.definitions import CLASSIFIER, network

WEIGHTS = "variables/variables.data-00000-of-00001"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two models of one net with other weights."""
    folder = tmp_path_factory.mktemp("models")
    for seed in (0, 1):
        save(random_parameters(network(CLASSIFIER), seed), folder / "net.prototxt", folder / "net.caffemodel")
        convert(folder / "net.prototxt", folder / "net.caffemodel", folder / str(seed), mean=0)
    return [folder / "0", folder / "1"]


@pytest.fixture
def model(models: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(models[0], tmp_path / "model"))


def edit(model: Path, **values: object) -> None:
    """Replaces entries of `densecast.json`; None removes one."""
    content: dict[str, Any] = json.loads((model / "densecast.json").read_text()) | values
    content = {name: value for name, value in content.items() if value is not None}
    (model / "densecast.json").write_text(json.dumps(content))


def test_every_file_is_sealed(model: Path):
    files = {path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()} - {"densecast.json"}
    metadata = read_metadata(model)
    assert metadata.files is not None
    assert set(metadata.files) == files >= {"saved_model.pb", "network.prototxt", WEIGHTS}
    assert metadata.schema_version == SCHEMA_VERSION
    load_savedmodel(model)


@pytest.mark.parametrize("name", [WEIGHTS, "saved_model.pb", "network.prototxt"])
def test_a_file_of_another_model_is_named(name: str, model: Path, models: list[Path]):
    data = (models[1] / name).read_bytes()
    (model / name).write_bytes(data if data != (model / name).read_bytes() else data + b"\n")
    with pytest.raises(ModelError) as caught:
        load_savedmodel(model)
    assert name in caught.value.what
    assert "restore the file" in caught.value.remedy


def test_a_change_within_one_process_is_found(model: Path):
    load_savedmodel(model)
    data = bytearray((model / WEIGHTS).read_bytes())
    data[100] ^= 1
    (model / WEIGHTS).write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        load_savedmodel(model)


def test_a_missing_and_an_added_file(model: Path):
    (model / "variables" / "more").write_bytes(b"")
    with pytest.raises(ModelError, match="variables/more was added"):
        load_savedmodel(model)
    (model / "variables" / "more").unlink()
    (model / "notes.txt").write_text("a user's own")
    load_savedmodel(model)
    (model / "network.prototxt").unlink()
    with pytest.raises(ModelError, match=r"network\.prototxt cannot be read"):
        load_savedmodel(model)


def test_a_model_without_a_seal_is_reported_once_and_can_be_sealed(model: Path, caplog: pytest.LogCaptureFixture):
    edit(model, schema_version=1, files=None)
    assert read_metadata(model).files is None
    with caplog.at_level(logging.WARNING, "densecast"):
        load_savedmodel(model)
        load_savedmodel(model)
    [line] = [record.getMessage() for record in caplog.records]
    assert f"densecast models seal {model}" in line
    assert "\n" not in line
    assert seal(model).schema_version == SCHEMA_VERSION
    assert seal(model) == read_metadata(model)
    (model / WEIGHTS).write_bytes(b"other")
    with pytest.raises(ModelError, match="SHA-256"):
        seal(model)


def test_newer_formats_are_refused_by_name(model: Path):
    edit(model, schema_version=SCHEMA_VERSION + 1, something_new=1)
    with pytest.raises(ModelError, match=f"format {SCHEMA_VERSION + 1}.*reads 1 to {SCHEMA_VERSION}"):
        read_metadata(model)


@pytest.mark.parametrize(
    "content", [b"\xff\xfe{", b"[" * 100_000, b'{"schema_version": ' + b"9" * 5000 + b"}", b'"' + b"a" * 100, b"\x00"]
)
def test_descriptions_that_are_not_json(content: bytes, model: Path):
    (model / "densecast.json").write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_metadata(model)
    assert "not valid" in caught.value.what
    assert "pydantic" not in str(caught.value)


def test_links_do_not_stand_for_files(model: Path, tmp_path: Path):
    """A link to the very same bytes is the same file; one to nothing is missing."""
    moved = tmp_path / "elsewhere"
    (model / WEIGHTS).rename(moved)
    (model / WEIGHTS).symlink_to(moved)
    check_files(model, read_metadata(model))
    moved.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        check_files(model, read_metadata(model))


@pytest.mark.parametrize(("factor", "word"), [(1e20, "overflow"), (1e-40, "denormal")])
def test_weights_outside_the_range_of_float32_are_not_blamed_on_a_layer(factor: float, word: str, tmp_path: Path):
    """The message asked to report a wrong layer."""
    net = random_parameters(network(CLASSIFIER), 0)
    scaled = {name: tuple((blob * np.float32(factor)) for blob in blobs) for name, blobs in net.parameters.items()}
    save(dataclasses.replace(net, parameters=scaled), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    with pytest.raises(VerificationError) as caught:
        convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", tmp_path / "model", mean=0)
    assert word in caught.value.why
    assert "report" not in caught.value.remedy
