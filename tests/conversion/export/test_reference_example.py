"""The image and its map that a model directory keeps for the comparison of engines."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from conversion import (
    check_files,
    compute_reference,
    convert,
    load_stored,
    model_weights,
    read_metadata,
    read_reference,
)
from conversion.errors import ModelError
from conversion.surgery import random_parameters, save
from tests.support.definitions import CLASSIFIER, network


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    save(random_parameters(network(CLASSIFIER), 0), folder / "net.prototxt", folder / "net.caffemodel")
    convert(folder / "net.prototxt", folder / "net.caffemodel", folder / "model", mean=0, form="onnx")
    return folder / "model"


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def test_a_model_keeps_the_map_that_the_reference_computes(model: Path):
    metadata = read_metadata(model)
    kept = read_reference(model, metadata)
    assert kept is not None
    assert (kept.images.dtype, kept.images.shape) == (np.uint8, (1, *metadata.size_of_four_cells, 3))
    rows, columns = kept.probabilities.shape[1:3]
    assert (rows >= 2, columns >= 2, kept.probabilities.shape[3]) == (True, True, metadata.classes)
    np.testing.assert_allclose(kept.probabilities.sum(axis=3), 1, rtol=1e-5)
    again = compute_reference(load_stored(model, model_weights(model)), metadata)
    np.testing.assert_array_equal(kept.images, again.images)
    np.testing.assert_array_equal(kept.probabilities, again.probabilities)


def test_it_is_sealed(model: Path):
    metadata = read_metadata(model)
    assert "reference.npz" in (metadata.files or {})
    (model / "reference.npz").write_bytes(b"other")
    with pytest.raises(ModelError, match=r"reference\.npz is not the file"):
        check_files(model, metadata)
    older = metadata.model_copy(
        update={"files": {name: digest for name, digest in (metadata.files or {}).items() if name != "reference.npz"}}
    )
    with pytest.raises(ModelError, match=r"reference\.npz was added"):
        check_files(model, older)
    (model / "reference.npz").unlink()
    check_files(model, older)
    assert read_reference(model, older) is None


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY", b"text"])
def test_a_damaged_file_is_refused(model: Path, content: bytes):
    (model / "reference.npz").write_bytes(content)
    with pytest.raises(ModelError, match=r"reference\.npz is not valid"):
        read_reference(model, read_metadata(model))


def test_an_image_of_another_size_is_refused(model: Path):
    np.savez(model / "reference.npz", images=np.zeros((1, 2, 2, 3), np.uint8), probabilities=np.zeros((1, 1, 1, 4)))
    with pytest.raises(ModelError, match=r"reference\.npz is not valid") as caught:
        read_reference(model, read_metadata(model))
    assert "2 x 2 cells" in caught.value.why
