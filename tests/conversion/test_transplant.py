"""Net surgery as a library: parameters read, set, moved and designed; the nets they come from stay as they were."""

from __future__ import annotations

import numpy as np
import pytest

from conversion import cast, evaluate, load_network
from conversion.errors import ConversionError, NetworkError, WeightsError
from conversion.net.network import Network
from conversion.surgery import (
    gaussian,
    parameters,
    random_parameters,
    sobel,
    transplant,
    with_parameters,
)
from tests.support.definitions import CLASSIFIER, convolution, data, layer, network
from tests.support.golden_cases import GOLDEN


@pytest.fixture
def net() -> Network:
    return network(CLASSIFIER, seed=0)


def values(subject: Network) -> dict[str, list[bytes]]:
    return {name: [blob.tobytes() for blob in blobs] for name, blobs in subject.parameters.items()}


def test_parameters_are_read_and_cannot_be_written(net: Network):
    weights, bias = parameters(net, "conv1")
    assert (weights.shape, bias.shape) == ((6, 3, 3, 3), (6,))
    with pytest.raises(ValueError, match="read-only"):
        weights[0] = 0
    net.parameters["conv1"][0][0] = 0  # ours is a view of the net's own, which stays as it was made


def test_layers_without_parameters(net: Network):
    with pytest.raises(WeightsError, match="no parameters"):
        parameters(net, "relu1")
    with pytest.raises(WeightsError, match="no parameters"):
        parameters(network(CLASSIFIER), "conv1")
    with pytest.raises(NetworkError, match="no layer 'conv7'"):
        parameters(net, "conv7")


def test_setting_makes_another_net(net: Network):
    before = values(net)
    bias = np.arange(6)
    changed = with_parameters(net, {"conv1": (None, bias)})
    assert values(net) == before
    np.testing.assert_array_equal(changed.parameters["conv1"][1], bias)
    assert changed.parameters["conv1"][1].dtype == np.float32
    assert changed.parameters["conv1"][0] is net.parameters["conv1"][0]
    assert changed.parameters["fc2"] is net.parameters["fc2"]
    bias[:] = 7  # what was given is copied
    assert changed.parameters["conv1"][1][0] == 0


def test_a_net_without_weights_gets_them_layer_by_layer(net: Network):
    bare = network(CLASSIFIER)
    filled = with_parameters(bare, {name: list(blobs) for name, blobs in net.parameters.items()})
    assert values(filled) == values(net)
    assert not bare.parameters


WRONG = {
    "shape": ({"conv1": (np.zeros((6, 3, 9)), None)}, r"shape \(6, 3, 9\), the layer requires \(6, 3, 3, 3\)"),
    "too few": ({"conv1": (np.zeros((6, 3, 3, 3)),)}, "1 blobs for a layer that has 2"),
    "too many": ({"conv1": (None, None, np.zeros(6))}, "3 blobs for a layer that has 2"),
    "for a layer that learns nothing": ({"relu1": (np.zeros(6),)}, "1 blobs for a layer that has 0"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(net: Network, changes: dict, message: str):
    with pytest.raises(WeightsError, match=message):
        with_parameters(net, changes)


def test_nothing_is_left_where_there_is_nothing():
    with pytest.raises(WeightsError, match="blob 1 is to be left as it is but does not exist"):
        with_parameters(network(CLASSIFIER), {"conv1": (np.zeros((6, 3, 3, 3)), None)})


def test_shared_blobs_change_together():
    """One blob to Caffe: two convolutions that share it would disagree otherwise, in memory and when saved."""
    folder = GOLDEN / "layers" / "shared_weights"
    subject = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    changed = with_parameters(subject, {"c2": (np.ones((4, 3, 3, 3)), None)})
    assert changed.parameters["c1"][0][0, 0, 0, 0] == 1
    assert changed.parameters["c1"][1] is subject.parameters["c1"][1]
    np.testing.assert_array_equal(changed.parameters["c1"][0], changed.parameters["c2"][0])
    assert subject.parameters["c1"][0][0, 0, 0, 0] != 1


# --- transplants


def test_transplant_is_the_cast():
    """Caffe's notebook: three inner products moved into a fully convolutional definition."""
    folder = GOLDEN / "nets"
    source = folder / "caffenet_small"
    classifier = load_network(source / "net.prototxt", source / "net.caffemodel")
    empty = load_network(folder / "caffenet_small_fullconv" / "net.prototxt")
    moved = transplant(classifier, empty)  # conv1 to conv5
    moved = transplant(classifier, moved, {"fc6": "fc6-conv", "fc7": "fc7-conv", "fc8": "fc8-conv"})
    assert values(moved) == values(cast(classifier))
    assert not empty.parameters
    caffes = load_network(
        folder / "caffenet_small_fullconv" / "net.prototxt", folder / "caffenet_small_fullconv" / "net.caffemodel"
    )
    assert values(moved) == values(caffes)


def test_transplant_by_name_needs_the_same_shapes(net: Network):
    other = network(CLASSIFIER.replace("dim: 17 dim: 17", "dim: 17 dim: 33"))
    with pytest.raises(WeightsError, match=r"'fc2' has blobs of shape \[\(8, 96\), \(8,\)\]") as caught:
        transplant(net, other)
    assert "name the layers" in caught.value.remedy


def test_values_of_another_shape_need_to_be_named(net: Network):
    """96 values as 6x4x4 or as 24x2x2: meant or not, nobody can tell by the name alone."""
    same_name = network(
        data(1, 24, 4, 4) + convolution("fc2", "data", "num_output: 8 kernel_size: 2"),
    )
    with pytest.raises(WeightsError):
        transplant(net, same_name)
    moved = transplant(net, same_name, {"fc2": "fc2"})
    np.testing.assert_array_equal(moved.parameters["fc2"][0].reshape(8, 96), net.parameters["fc2"][0])


def test_values_that_do_not_fit_are_refused_even_if_named(net: Network):
    with pytest.raises(WeightsError, match="a transplant copies values one by one"):
        transplant(net, network(CLASSIFIER), {"fc2": "fc3"})
    no_bias = network(data(1, 3, 4, 4) + convolution("c", "data", "num_output: 6 kernel_size: 3 bias_term: false"))
    with pytest.raises(WeightsError, match="'conv1' has blobs"):
        transplant(net, no_bias, {"conv1": "c"})
    for layers in ({"conv9": "conv1"}, {"conv1": "conv9"}):
        with pytest.raises(NetworkError, match="no layer 'conv9'"):
            transplant(net, net, layers)
    with pytest.raises(WeightsError, match="no parameters"):
        transplant(network(CLASSIFIER), net, {"conv1": "conv1"})


def test_transplant_leaves_the_rest(net: Network):
    target = random_parameters(network(CLASSIFIER), seed=9)
    moved = transplant(net, target, {"conv1": "conv1"})
    assert moved.parameters["fc2"] is target.parameters["fc2"]
    assert values(moved)["conv1"] == values(net)["conv1"]


# --- designer filters


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_gaussian(size: int):
    plane = gaussian(size, sigma=1.5)
    assert plane.shape == (size, size)
    assert plane.dtype == np.float32
    assert abs(float(plane.sum()) - 1) < 1e-6
    np.testing.assert_array_equal(plane, plane.T)
    np.testing.assert_allclose(plane, plane[::-1, ::-1], rtol=1e-6)
    assert plane.max() == plane[size // 2, size // 2]


def test_sobel_is_that_of_the_notebook():
    np.testing.assert_array_equal(sobel(), np.reshape((-1, -2, -1, 0, 0, 0, 1, 2, 1), (3, 3)))
    np.testing.assert_array_equal(sobel(3, axis=1), sobel(3).T)
    assert np.count_nonzero(sobel(7)) == 6
    np.testing.assert_array_equal(sobel(7)[2:5, 2:5], sobel())
    for size in (1, 2, 4):
        with pytest.raises(ConversionError, match=f"size {size}"):
            sobel(size)


def test_scaled_filters_scale_the_answer():
    """The first half of the notebook: designer filters, then the bias that shifts them."""
    text = data(1, 1, 7, 7) + convolution("c", "data", "num_output: 1 kernel_size: 3") + layer("AbsVal", "a", "c")
    image = np.random.default_rng(0).standard_normal((1, 1, 7, 7))
    edges = with_parameters(network(text), {"c": (sobel()[None, None], [0.0])})
    shifted = with_parameters(edges, {"c": (None, [2.5])})
    plain, more = (evaluate(one, {"data": image})["c"] for one in (edges, shifted))
    np.testing.assert_allclose(more, plain + 2.5)
