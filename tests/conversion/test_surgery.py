"""Networks written as Caffe files and read again; parameters made by a seed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from conversion import Network, cast, evaluate, load_network, save
from conversion.caffe.caffe_pb2 import NetParameter
from conversion.errors import WeightsError
from conversion.net.network import learned, to_definition
from conversion.surgery import initialise, random_parameters
from tests.support.definitions import CLASSIFIER, data, inner_product, network
from tests.support.golden_cases import GOLDEN, GoldenCase, cases

NETS = cases("nets")
# Forms that are written otherwise than they were read.
FORMS = [
    case for case in cases("layers") if case.name in ("fmt_v0", "fmt_v1_branches", "shared_weights", "phase_rules")
]


def assert_same(found: Network, expected: Network) -> None:
    assert found.name == expected.name
    assert to_definition(found) == to_definition(expected)
    assert found.shapes == expected.shapes
    assert found.outputs == expected.outputs
    assert set(found.parameters) == set(expected.parameters)
    for name, blobs in expected.parameters.items():
        for ours, theirs in zip(found.parameters[name], blobs, strict=True):
            assert ours.shape == theirs.shape
            assert ours.tobytes() == theirs.tobytes(), name


@pytest.mark.parametrize("case", NETS + FORMS, ids=lambda case: case.name)
def test_save_and_load_is_exact(case: GoldenCase, tmp_path: Path):
    """Every number of the definition and every bit of the weights; twice, and the files are the same."""
    original = load_network(case.prototxt, case.weights)
    save(original, tmp_path / "a.prototxt", tmp_path / "a.caffemodel")
    again = load_network(tmp_path / "a.prototxt", tmp_path / "a.caffemodel")
    assert_same(again, original)
    assert not again.notes
    save(again, tmp_path / "b.prototxt", tmp_path / "b.caffemodel")
    for suffix in ("prototxt", "caffemodel"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


@pytest.mark.parametrize("name", ["caffenet_small", "vgg_piece", "lenet_small"])
def test_cast_net_is_saved_as_caffe_would_save_it(name: str, tmp_path: Path):
    """What Caffe's notebook on net surgery ends with: a definition and weights that stand on their own."""
    folder = GOLDEN / "nets" / name
    dense = cast(load_network(folder / "net.prototxt", folder / "net.caffemodel"))
    save(dense, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert_same(load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"), dense)


def test_numbers_that_text_could_round_are_exact(tmp_path: Path):
    """float32 parameters in decimal: the shortest form that reads back as the same bits."""
    text = data(1, 3, 5, 5) + "".join(
        f'layer {{ name: "p{i}" type: "Power" bottom: "data" top: "p{i}" power_param {{ scale: {value} }} }}'
        for i, value in enumerate(["0.1", "1e-45", "16777217", "3.4028235e38", "-0.0", "0.333333343", "1.1754944e-38"])
    )
    original = network(text)
    save(original, tmp_path / "net.prototxt")
    assert_same(load_network(tmp_path / "net.prototxt"), original)


def test_names_in_other_scripts_and_with_quotes(tmp_path: Path):
    original = network(
        'name: "r\\303\\251seau \\"1\\""' + data(1, 3, 4, 4) + inner_product("全連接/1", "data", "num_output: 2")
    )
    original = random_parameters(original)
    save(original, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert_same(load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel"), original)


def test_saving_weights_that_are_not_there(tmp_path: Path):
    """A caffemodel without blobs would load, and Caffe would fill it at random."""
    with pytest.raises(WeightsError, match="no weights for layers conv1, fc2, fc3"):
        save(network(CLASSIFIER), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert not (tmp_path / "net.caffemodel").exists()


def test_saved_weights_carry_definition_and_shapes(tmp_path: Path):
    """As Caffe's Net::ToProto: a caffemodel can be looked into without its prototxt."""
    save(network(CLASSIFIER, seed=0), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    message = NetParameter.FromString((tmp_path / "net.caffemodel").read_bytes())
    blobs = {layer.name: [list(blob.shape.dim) for blob in layer.blobs] for layer in message.layer if layer.blobs}
    assert blobs == {"conv1": [[6, 3, 3, 3], [6]], "fc2": [[8, 96], [8]], "fc3": [[5, 8], [5]]}
    assert [layer.type for layer in message.layer][:3] == ["Input", "Convolution", "ReLU"]


def test_initialise_gives_every_blob_once_in_order():
    asked = []

    def make(layer, index, shape):
        asked.append((layer.name, index, shape))
        return np.full(shape, len(asked))

    subject = initialise(network(CLASSIFIER), make)
    shapes = [(layer.name, i, shape) for layer, blobs in learned(subject) for i, shape in enumerate(blobs)]
    assert asked == shapes
    values = [blob for layer, _ in learned(subject) for blob in subject.parameters[layer.name]]
    assert [float(value.flat[0]) for value in values] == [1, 2, 3, 4, 5, 6]
    assert {value.dtype for value in values} == {np.dtype(np.float32)}


def test_random_parameters_are_the_seeds():
    """On every machine and in every version: published speeds and golden vectors rest on it."""
    digests = []
    for seed in (0, 0, 1):
        subject = random_parameters(network(CLASSIFIER), seed)
        sha = hashlib.sha256()
        for layer, _ in learned(subject):
            for blob in subject.parameters[layer.name]:
                sha.update(blob.tobytes())
        digests.append(sha.hexdigest())
    assert digests[0] == digests[1] != digests[2]
    weights = random_parameters(network(CLASSIFIER), 0).parameters["conv1"][0]
    rng = np.random.default_rng(0)
    np.testing.assert_array_equal(
        weights, rng.standard_normal((6, 3, 3, 3), dtype=np.float32) * np.float32(np.sqrt(2 / 27))
    )


def test_random_parameters_keep_activations_in_range():
    """Twelve layers deep, neither nothing nor infinity comes out."""
    text = data(1, 64, 1, 1)
    bottom = "data"
    for i in range(12):
        text += inner_product(f"ip{i}", bottom, "num_output: 64")
        text += f'layer {{ name: "r{i}" type: "ReLU" bottom: "ip{i}" top: "ip{i}" }}'
        bottom = f"ip{i}"
    image = np.random.default_rng(1).standard_normal((1, 64, 1, 1))
    top = evaluate(random_parameters(network(text), 3), {"data": image})[bottom]
    assert 0.1 < float(np.sqrt((top**2).mean())) < 10
