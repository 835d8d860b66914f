"""Names that look like paths or scopes: legal in Caffe, and never more than names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google.protobuf import text_format

from conversion import convert, load_network, save
from conversion.caffe.caffe_pb2 import NetParameter
from conversion.net.build import build
from conversion.surgery import random_parameters
from tests.support.definitions import convolution, data, layer

NAMES = (
    "../../outside",
    "/etc/passwd",
    "C:\\\\Windows\\\\x",
    "~/x",
    "a/../../b",
    "$(touch x)",
    "%00",
    "con:0",
    "^x",
    "..",
    ".",
    "-rf",
    "größe 1",
    "{0.__class__}",
)


def chain(name: str) -> str:
    """A classifier whose every name is hostile."""
    blobs = [f"{name}/{index}" for index in range(3)]
    return (
        (
            f'name: "{name}"\n'
            + data(1, 3, 8, 8)
            + convolution(f"{name}/c", "data", "num_output: 4 kernel_size: 3", "@0")
            + layer("ReLU", f"{name}/r", "@0", "@0")
            + convolution(f"{name}/d", "@0", "num_output: 5 kernel_size: 6", "@1")
            + layer("Softmax", f"{name}/s", "@1", "@2")
        )
        .replace("@0", blobs[0])
        .replace("@1", blobs[1])
        .replace("@2", blobs[2])
    )


@pytest.mark.parametrize("name", NAMES)
def test_they_are_read_and_saved_as_names(name: str, tmp_path: Path):
    network = random_parameters(build(text_format.Parse(chain(name), NetParameter())))
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    save(network, folder / "net.prototxt", folder / "net.caffemodel")
    again = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    assert again.shapes == network.shapes
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "net.caffemodel", "net.prototxt"]


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", "^x", "..", "größe 1"])
def test_a_conversion_writes_nowhere_else(name: str, tmp_path: Path):
    """TensorFlow's scopes and the names of signatures included."""
    import tensorflow as tf

    network = random_parameters(build(text_format.Parse(chain(name), NetParameter())))
    save(network, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    blob = f"{name}/0"
    output = tmp_path / "inner" / "model"
    metadata = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", output, features=[blob])
    assert metadata.features == {blob: 4}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["inner", "net.caffemodel", "net.prototxt"]
    assert [path.name for path in (tmp_path / "inner").iterdir()] == ["model"]
    loaded = tf.saved_model.load(str(output))
    maps = loaded.signatures["features"](images=tf.constant(np.zeros((1, 8, 8, 3), np.uint8)))
    assert {key: value.shape.as_list() for key, value in maps.items()} == {blob: [1, 6, 6, 4]}
