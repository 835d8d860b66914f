"""The weights of a model directory: one copy, which is read without TensorFlow."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from conversion import load_network
from conversion.errors import ConversionError, ModelError
from conversion.export.bundle_index import bundle_places
from conversion.export.weights_store import OWN_FILE, index_bundle, read_index, read_weights, write_weights
from tests.support.definitions import convolution, data, layer, network
from tests.support.golden_cases import GOLDEN

CAFFENET = GOLDEN / "nets" / "caffenet_small"
SHARED = (
    data(1, 3, 8, 8)
    + convolution("a", "data", "num_output: 3 kernel_size: 3 pad: 1")
    + convolution("b", "a", "num_output: 3 kernel_size: 3 pad: 1")
    + layer("ReLU", "relu", "b")
)


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    write_weights(load_network(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel"), tmp_path)
    return tmp_path


def edit(folder: Path, **values: object) -> None:
    content = json.loads((folder / "weights.json").read_text()) | values
    (folder / "weights.json").write_text(json.dumps(content))


def test_they_are_what_prepare_returns(stored: Path):
    net = load_network(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel")
    found = read_weights(stored)
    assert list(found) == list(net.parameters)
    for name, arrays in found.items():
        for array, expected in zip(arrays, net.layer(name).prepare(net.parameters[name]), strict=True):
            np.testing.assert_array_equal(array, expected, strict=True)
            assert not array.flags.writeable
    offsets = [array.offset for arrays in read_index(stored).layers.values() for array in arrays]
    assert all(offset % 64 == 0 for offset in offsets)


def test_shared_weights_are_stored_once(tmp_path: Path):
    net = network(SHARED, seed=0)
    write_weights(dataclasses.replace(net, parameters={**net.parameters, "b": net.parameters["a"]}), tmp_path)
    found = read_weights(tmp_path)
    assert [id(array) for array in found["a"]] == [id(array) for array in found["b"]]
    assert (tmp_path / OWN_FILE).stat().st_size < 2 * 4 * 3 * 28


def test_a_net_without_weights(tmp_path: Path):
    write_weights(network(data(1, 3, 8, 8) + layer("ReLU", "relu", "data")), tmp_path)
    assert read_weights(tmp_path) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": {"a": [{"shape": [4], "offset": 1 << 40}]}}, "outside weights.bin"),
        ({"layers": {"a": [{"shape": [-4], "offset": 0}]}}, "outside weights.bin"),
        ({"layers": {"a": [{"shape": [1 << 40, 1 << 40], "offset": 0}]}}, "outside weights.bin"),
        ({"layers": {"a": [{"shape": [4], "offset": -4}]}}, "greater than or equal to 0"),
        ({"file": "../secret"}, "weights.bin"),
        ({"file": "variables/variables.data-00000-of-00001"}, "cannot be read"),
        ({"dtype": "float64"}, "float32"),
        ({"more": 1}, "Extra inputs"),
    ],
)
def test_a_damaged_index_is_a_typed_error(change: dict[str, object], message: str, stored: Path):
    edit(stored, **change)
    with pytest.raises(ModelError, match="the weights cannot be read") as caught:
        read_weights(stored)
    assert message in caught.value.why


def test_the_file_of_the_weights_is_missing_or_cut(stored: Path):
    (stored / OWN_FILE).write_bytes((stored / OWN_FILE).read_bytes()[:-4])
    with pytest.raises(ModelError, match=r"outside weights\.bin"):
        read_weights(stored)
    (stored / OWN_FILE).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        read_weights(stored)


def test_the_places_in_a_checkpoint_of_tensorflow(tmp_path: Path):
    """Keys that share beginnings, many blocks, equal values, no axes."""
    import tensorflow as tf

    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(size).astype(np.float32) for size in (1, 7, 300, 300, 5000)] * 10
    arrays += [np.zeros(50, np.float32), np.ones((), np.float32)]
    module = tf.Module()
    module.layers = {f"layer/{place}": [tf.Variable(array)] for place, array in enumerate(arrays)}
    tf.saved_model.save(module, str(tmp_path))
    assert len(bundle_places(tmp_path / "variables" / "variables.index")) == len(arrays) + 1
    weights = {name: [value.numpy() for value in values] for name, values in module.layers.items()}
    index_bundle(weights, tmp_path)
    found = read_weights(tmp_path)
    for name, values in weights.items():
        np.testing.assert_array_equal(found[name][0], values[0], strict=True)

    weights["layer/3"][0][5] += 1
    with pytest.raises(ConversionError, match="the weights of layer 'layer/3' are not in the checkpoint"):
        index_bundle(weights, tmp_path)
    index = tmp_path / "variables" / "variables.index"
    whole = index.read_bytes()
    for damaged in (b"", whole[:-1], whole[:40] + whole[-48:], bytes(len(whole) - 8) + whole[-8:]):
        index.write_bytes(damaged)
        with pytest.raises(ConversionError, match="a form that densecast does not know"):
            bundle_places(index)
