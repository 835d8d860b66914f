"""The definitions of the larger nets: layers, sizes and parameters are those that the published weights have."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from conversion.export.net_module import to_tensorflow
from conversion.layers.normalization import BatchNorm
from conversion.net.load import load_network
from conversion.net.network import Network, learned
from conversion.net.reference import evaluate
from conversion.passes.cast import cast
from conversion.surgery import random_parameters
from models import entry

# As published; for ResNet-50, what is counted is in a test of its own below.
PARAMETERS = {
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "googlenet": 6_998_552,
    "nin": 7_595_176,
    "squeezenet_1_0": 1_248_424,
    "squeezenet_1_1": 1_235_496,
    "resnet50": 25_610_269,
}
every_net = pytest.mark.parametrize("name", PARAMETERS)

_VGG = {"conv1_2": (64, 224, 224), "pool1": (64, 112, 112), "pool4": (512, 14, 14), "pool5": (512, 7, 7)}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "vgg16": {**_VGG, "conv5_3": (512, 14, 14), "fc6": (4096,), "fc7": (4096,), "fc8": (1000,)},
    "vgg19": {**_VGG, "conv5_4": (512, 14, 14), "fc6": (4096,), "fc7": (4096,), "fc8": (1000,)},
    "googlenet": {
        "conv1/7x7_s2": (64, 112, 112),
        "pool1/norm1": (64, 56, 56),
        "pool2/3x3_s2": (192, 28, 28),
        "inception_3a/output": (256, 28, 28),
        "inception_3b/output": (480, 28, 28),
        "pool3/3x3_s2": (480, 14, 14),
        "inception_4a/output": (512, 14, 14),
        "inception_4d/output": (528, 14, 14),
        "inception_4e/output": (832, 14, 14),
        "pool4/3x3_s2": (832, 7, 7),
        "inception_5a/output": (832, 7, 7),
        "inception_5b/output": (1024, 7, 7),
        "pool5/7x7_s1": (1024, 1, 1),
        "loss3/classifier": (1000,),
    },
    "nin": {
        "cccp2": (96, 54, 54),
        "pool0": (96, 27, 27),
        "pool2": (256, 13, 13),
        "pool3": (384, 6, 6),
        "conv4": (1024, 6, 6),
        "cccp8": (1000, 6, 6),
        "pool4": (1000, 1, 1),
    },
    "squeezenet_1_0": {
        "conv1": (96, 111, 111),
        "pool1": (96, 55, 55),
        "fire4/concat": (256, 55, 55),
        "pool4": (256, 27, 27),
        "pool8": (512, 13, 13),
        "fire9/concat": (512, 13, 13),
        "conv10": (1000, 15, 15),
        "pool10": (1000, 1, 1),
    },
    "squeezenet_1_1": {
        "conv1": (64, 113, 113),
        "pool1": (64, 56, 56),
        "pool3": (128, 28, 28),
        "pool5": (256, 14, 14),
        "fire9/concat": (512, 14, 14),
        "conv10": (1000, 14, 14),
        "pool10": (1000, 1, 1),
    },
    "resnet50": {
        "conv1": (64, 112, 112),
        "pool1": (64, 56, 56),
        "res2c": (256, 56, 56),
        "res3a_branch2a": (128, 28, 28),
        "res3d": (512, 28, 28),
        "res4f": (1024, 14, 14),
        "res5c": (2048, 7, 7),
        "pool5": (2048, 1, 1),
        "fc1000": (1000,),
    },
}


def load(name: str) -> Network:
    return load_network(entry(name).definition)


def weighted(network: Network) -> list[str]:
    """The layers that weights are matched with."""
    return [layer.name for layer, _ in learned(network)]


@every_net
def test_parameters(name: str) -> None:
    assert load(name).parameter_count() == PARAMETERS[name]


@every_net
def test_sizes_at_the_crop(name: str) -> None:
    network, crop = load(name), entry(name).crop
    assert network.inputs == {"data": (1, 3, crop, crop)}
    assert {blob: network.shapes[blob][1:] for blob in SHAPES[name]} == SHAPES[name]


@every_net
def test_one_crop_has_one_answer_also_when_cast(name: str) -> None:
    network = load(name)
    assert network.outputs == ("prob",)
    assert network.shapes["prob"] in ((1, 1000), (1, 1000, 1, 1))
    assert cast(network).shapes["prob"] == (1, 1000, 1, 1)


@pytest.mark.parametrize("name", ["vgg16", "vgg19", "googlenet", "nin", "resnet50"])
def test_stride_is_32(name: str) -> None:
    side = entry(name).crop + 32
    assert cast(load(name)).shapes_at({"data": (1, 3, side, side + 32)})["prob"] == (1, 1000, 2, 3)


@pytest.mark.parametrize(("name", "depths"), [("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))])
def test_vgg_names(name: str, depths: tuple[int, ...]) -> None:
    network = load(name)
    convolutions = [f"conv{stage}_{i}" for stage, depth in enumerate(depths, 1) for i in range(1, depth + 1)]
    assert weighted(network) == [*convolutions, "fc6", "fc7", "fc8"]
    names = {layer.name for layer in network.layers}
    assert names >= {each.replace("conv", "relu") for each in convolutions}
    assert names >= {"pool1", "pool5", "relu6", "drop6", "relu7", "drop7", "prob"}


def test_googlenet_names() -> None:
    network = load("googlenet")
    modules = [f"inception_{module}" for module in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")]
    parts = ["1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj"]
    assert weighted(network) == [
        *("conv1/7x7_s2", "conv2/3x3_reduce", "conv2/3x3"),
        *(f"{module}/{part}" for module in modules for part in parts),
        "loss3/classifier",
    ]
    for module in modules:
        assert network.layer(f"{module}/output").bottoms == tuple(
            f"{module}/{part}" for part in ("1x1", "3x3", "5x5", "pool_proj")
        )
        assert {network.layer(f"{module}/relu_{part}").tops for part in parts} == {
            (f"{module}/{part}",) for part in parts
        }
    assert network.layer("inception_4a/pool").bottoms == ("pool3/3x3_s2",)


def test_nin_names() -> None:
    network = load("nin")
    assert weighted(network) == [
        *("conv1", "cccp1", "cccp2", "conv2", "cccp3", "cccp4", "conv3", "cccp5", "cccp6"),
        *("conv4-1024", "cccp7-1024", "cccp8-1024"),
    ]
    names = [layer.name for layer in network.layers if layer.name.startswith(("relu", "pool", "drop"))]
    assert names == [
        *("relu0", "relu1", "relu2", "pool0", "relu3", "relu5", "relu6", "pool2"),
        *("relu7", "relu8", "relu9", "pool3", "drop", "relu10", "relu11", "relu12", "pool4"),
    ]


@pytest.mark.parametrize(
    ("name", "pools", "padding"), [("squeezenet_1_0", (1, 4, 8, 10), [1]), ("squeezenet_1_1", (1, 3, 5, 10), [])]
)
def test_squeezenet_names(name: str, pools: tuple[int, ...], padding: list[int]) -> None:
    network = load(name)
    parts = ("squeeze1x1", "expand1x1", "expand3x3")
    assert weighted(network) == ["conv1", *(f"fire{i}/{part}" for i in range(2, 10) for part in parts), "conv10"]
    assert [layer.name for layer in network.layers if layer.caffe_type == "Pooling"] == [f"pool{i}" for i in pools]
    assert network.layer("fire2/concat").bottoms == ("fire2/expand1x1", "fire2/expand3x3")
    assert network.layer("fire9/relu_expand3x3").tops == ("fire9/expand3x3",)
    assert list(network.layer("conv10").definition.convolution_param.pad) == padding


def test_resnet50_names() -> None:
    network = load("resnet50")
    expected = ["conv1", "bn_conv1", "scale_conv1"]
    for stage, blocks in enumerate(("abc", "abcd", "abcdef", "abc"), 2):
        for block in blocks:
            branches = ["branch1"] * (block == "a") + ["branch2a", "branch2b", "branch2c"]
            expected += [f"{kind}{stage}{block}_{branch}" for branch in branches for kind in ("res", "bn", "scale")]
    assert weighted(network) == [*expected, "fc1000"]
    assert network.layer("res3a").bottoms == ("res3a_branch1", "res3a_branch2c")
    assert network.layer("res3b").bottoms == ("res3a", "res3b_branch2c")
    assert {"conv1_relu", "res2a_relu", "res2a_branch2a_relu", "res5c_relu"} <= {layer.name for layer in network.layers}


def test_resnet50_has_the_usual_parameters_and_the_statistics_of_batchnorm() -> None:
    counts: Counter[str] = Counter()
    network = load("resnet50")
    for layer, shapes in learned(network):
        counts["statistics" if isinstance(layer, BatchNorm) else "learned"] += sum(map(math.prod, shapes))
    assert counts["learned"] == 25_557_032 + 64  # the usual count of ResNet-50, and the bias of conv1
    assert counts["statistics"] == 2 * 26_560 + 53  # mean and variance of 26,560 channels, a factor for each of 53
    biased = [
        layer.name for layer, shapes in learned(network) if layer.caffe_type == "Convolution" and len(shapes) == 2
    ]
    assert biased == ["conv1"]


def test_squeezenet_computes_the_same_in_numpy_and_in_tensorflow() -> None:
    network = random_parameters(load("squeezenet_1_1"))
    data = np.random.default_rng(7).standard_normal(network.shapes["data"], dtype=np.float32)
    expected = evaluate(network, {"data": data})
    found = to_tensorflow(network)({"data": data})
    assert expected["prob"].sum() == pytest.approx(1)
    for blob in ("fire2/concat", "pool5", "conv10", "prob"):
        np.testing.assert_allclose(found[blob].numpy(), expected[blob], rtol=1e-4, atol=1e-5 * expected[blob].max())


@pytest.mark.parametrize(
    ("name", "mean"),
    [
        ("vgg16", (103.939, 116.779, 123.68)),
        ("vgg19", (103.939, 116.779, 123.68)),
        ("googlenet", (104, 117, 123)),
        ("squeezenet_1_0", (104, 117, 123)),
        ("squeezenet_1_1", (104, 117, 123)),
        ("resnet50", (103.0626, 115.9029, 123.1516)),
    ],
)
def test_input_preparation(name: str, mean: tuple[float, float, float]) -> None:
    model = entry(name)
    assert model.mean == pytest.approx(mean, abs=1e-4)
    assert (model.scale, model.channel_order) == (1, "bgr")
