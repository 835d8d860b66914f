"""The mean image of a model directory: kept as it was given, sealed, and never invented."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from conversion import convert, read_mean_image, read_metadata
from conversion.caffe.caffe_pb2 import BlobProto
from conversion.errors import ModelError
from tests.support.golden_cases import GOLDEN

CAFFENET = GOLDEN / "nets" / "caffenet_small"
IMAGE = np.random.default_rng(3).uniform(90, 140, (3, 9, 11))


def converted(tmp_path: Path, mean: object) -> Path:
    model = tmp_path / "model"
    convert(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel", model, mean=mean)
    return model


@pytest.mark.parametrize("kind", ["float64", "float32", "uint8", "four axes", "binaryproto"])
def test_the_mean_image_is_kept_as_it_was_given(kind: str, tmp_path: Path):
    path = tmp_path / "given.npy"
    expected = IMAGE
    if kind == "binaryproto":
        path = tmp_path / "given.binaryproto"
        expected = IMAGE.astype(np.float32)
        blob = BlobProto(num=1, channels=3, height=9, width=11, data=expected.ravel().tolist())
        path.write_bytes(blob.SerializeToString())
    elif kind == "four axes":
        np.save(path, IMAGE[None])
    else:
        expected = IMAGE.astype(kind)
        np.save(path, expected)
    model = converted(tmp_path, path)
    metadata = read_metadata(model)
    assert metadata.mean_image == (9, 11)
    assert metadata.files is not None
    assert "mean.npy" in metadata.files
    assert not metadata.lost_mean_image
    found = read_mean_image(model, metadata)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == (np.float64 if kind in ("float64", "four axes") else np.float32)
    np.testing.assert_allclose(metadata.preprocessing.mean, found.mean(axis=(1, 2)), rtol=1e-6)


def test_a_mean_image_that_was_changed_is_refused(tmp_path: Path):
    np.save(tmp_path / "given.npy", IMAGE)
    model = converted(tmp_path, tmp_path / "given.npy")
    np.save(model / "mean.npy", IMAGE + 1)
    with pytest.raises(ModelError, match=r"mean\.npy is not the file that the model was made with"):
        read_mean_image(model, read_metadata(model))


def test_a_model_without_a_mean_image_says_which_it_is(tmp_path: Path):
    model = converted(tmp_path, (104, 117, 123))
    metadata = read_metadata(model)
    assert metadata.mean_image is None
    assert not metadata.lost_mean_image
    assert not (model / "mean.npy").exists()
    with pytest.raises(ModelError, match="no mean image") as caught:
        read_mean_image(model, metadata)
    assert caught.value.why == "it was converted without one"


def test_a_model_of_an_older_version_says_that_it_lost_its_mean_image(tmp_path: Path):
    np.save(tmp_path / "given.npy", IMAGE)
    model = converted(tmp_path, tmp_path / "given.npy")
    written = json.loads((model / "densecast.json").read_text())
    del written["mean_image"], written["files"]["mean.npy"]
    (model / "densecast.json").write_text(json.dumps({**written, "schema_version": 2}))
    (model / "mean.npy").unlink()
    metadata = read_metadata(model)
    assert metadata.lost_mean_image
    with pytest.raises(ModelError, match="no mean image") as caught:
        read_mean_image(model, metadata)
    assert "older version" in caught.value.why
