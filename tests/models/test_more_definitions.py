"""The definitions of the newer nets: layers, sizes and parameters are those that the published weights have."""

from __future__ import annotations

import math
from collections import Counter

import pytest

from conversion.errors import CastError
from conversion.layers.normalization import BatchNorm
from conversion.net.load import load_network
from conversion.net.network import Network, learned
from conversion.passes.cast import cast
from models import entry

# What is learned, without the statistics of BatchNorm. As published: 4.2 million, 7.98 million and 28.1 million for
# MobileNet, DenseNet-121 and SE-ResNet-50; the others follow from the sizes of CaffeNet with other classes.
LEARNED = {
    "mobilenet": 4_231_976,
    "densenet121": 7_978_856,
    "se_resnet50": 28_088_024,
    "places205": 60_965_224 - (1000 - 205) * 4097,
    "places365": 60_965_224 - (1000 - 365) * 4097,
    "age_levi": 11_415_048,
    "gender_levi": 11_415_048 - 6 * 513,
    "flickr_style": 60_965_224 - (1000 - 20) * 4097,
    "oxford102": 60_965_224 - (1000 - 102) * 4097,
    "open_nsfw": 5_917_890,
    "rcnn_ilsvrc13": 60_965_224 - (1000 - 200) * 4097,
}
every_net = pytest.mark.parametrize("name", LEARNED)
_CAFFENET = {"pool1": (96, 27, 27), "norm2": (256, 13, 13), "conv4": (384, 13, 13), "pool5": (256, 6, 6)}
_LEVI = {"conv1": (96, 56, 56), "norm1": (96, 28, 28), "norm2": (256, 14, 14), "pool5": (384, 7, 7), "fc7": (512,)}
SHAPES: dict[str, dict[str, tuple[int, ...]]] = {
    "mobilenet": {
        "conv1/bn": (32, 112, 112),
        "conv2_2/dw": (64, 56, 56),
        "conv3_2/sep": (256, 28, 28),
        "conv5_5/sep/bn": (512, 14, 14),
        "conv5_6/dw": (512, 7, 7),
        "pool6": (1024, 1, 1),
    },
    "densenet121": {
        "pool1": (64, 56, 56),
        "concat_2_6": (256, 56, 56),
        "pool2": (128, 28, 28),
        "concat_3_12": (512, 28, 28),
        "pool3": (256, 14, 14),
        "concat_4_24": (1024, 14, 14),
        "pool4": (512, 7, 7),
        "conv5_blk/bn": (1024, 7, 7),
        "fc6": (1000, 1, 1),
    },
    "se_resnet50": {
        "pool1/3x3_s2": (64, 56, 56),
        "conv2_3": (256, 56, 56),
        "conv3_1_1x1_down": (32, 1, 1),
        "conv4_6": (1024, 14, 14),
        "conv5_3_1x1_up": (2048, 1, 1),
        "pool5/7x7_s1": (2048, 1, 1),
    },
    "places205": {**_CAFFENET, "fc8": (205,)},
    "places365": {**_CAFFENET, "fc8": (365,)},
    "age_levi": {**_LEVI, "fc8": (8,)},
    "gender_levi": {**_LEVI, "fc8": (2,)},
    "flickr_style": {**_CAFFENET, "fc8_flickr": (20,)},
    "oxford102": {**_CAFFENET, "fc8_oxford_102": (102,)},
    "open_nsfw": {
        "pool1": (64, 56, 56),
        "eltwise_stage0_block2": (128, 56, 56),
        "conv_stage1_block0_branch2a": (64, 28, 28),
        "eltwise_stage2_block5": (512, 14, 14),
        "eltwise_stage3_block2": (1024, 7, 7),
        "fc_nsfw": (2,),
    },
    "rcnn_ilsvrc13": {**_CAFFENET, "fc7": (4096,), "fc-rcnn": (200,)},
}


def load(name: str) -> Network:
    return load_network(entry(name).definition)


def weighted(network: Network) -> list[str]:
    """The layers that weights are matched with."""
    return [layer.name for layer, _ in learned(network)]


@every_net
def test_parameters(name: str) -> None:
    network, counts = load(name), Counter[str]()
    for layer, shapes in learned(network):
        counts["statistics" if isinstance(layer, BatchNorm) else "learned"] += sum(map(math.prod, shapes))
    assert counts["learned"] == LEARNED[name]
    assert counts.total() == network.parameter_count() == entry(name).parameters


@every_net
def test_sizes_at_the_crop(name: str) -> None:
    network, crop = load(name), entry(name).crop
    assert network.inputs == {"data": (1, 3, crop, crop)}
    assert {blob: network.shapes[blob][1:] for blob in SHAPES[name]} == SHAPES[name]


@every_net
def test_one_crop_has_one_answer_also_when_cast(name: str) -> None:
    network, classes, crop = load(name), entry(name).classes, entry(name).crop
    assert network.outputs == ("prob",)
    assert network.shapes["prob"] in ((1, classes), (1, classes, 1, 1))
    if name != "se_resnet50":
        dense = cast(network)
        assert dense.shapes["prob"] == (1, classes, 1, 1)
        assert dense.shapes_at({"data": (1, 3, crop + 64, crop + 32)})["prob"] == (1, classes, 3, 2)


def test_se_resnet50_has_no_dense_form_and_says_why() -> None:
    """Each of its blocks reads the whole image."""
    with pytest.raises(CastError, match="Axpy") as caught:
        cast(load("se_resnet50"))
    assert "one size only" in str(caught.value)


@pytest.mark.parametrize("name", ["places205", "places365", "flickr_style", "oxford102", "rcnn_ilsvrc13"])
def test_nets_that_were_made_from_caffenet_have_its_layers(name: str) -> None:
    network, caffenet = load(name), load("caffenet")
    assert [layer.name for layer in network.layers[:-2]] == [layer.name for layer in caffenet.layers[:-2]]
    assert weighted(network)[:-1] == weighted(caffenet)[:-1]


@pytest.mark.parametrize("name", ["age_levi", "gender_levi"])
def test_levi_names(name: str) -> None:
    network = load(name)
    assert weighted(network) == ["conv1", "conv2", "conv3", "fc6", "fc7", "fc8"]
    assert [layer.name for layer in network.layers if layer.caffe_type == "Pooling"] == ["pool1", "pool2", "pool5"]


def test_open_nsfw_names() -> None:
    network = load("open_nsfw")
    expected = ["conv_1", "bn_1", "scale_1"]
    for stage, blocks in enumerate((3, 4, 6, 3)):
        for block in range(blocks):
            for part in ["proj_shortcut"] * (block == 0) + ["branch2a", "branch2b", "branch2c"]:
                expected += [f"{kind}_stage{stage}_block{block}_{part}" for kind in ("conv", "bn", "scale")]
    assert weighted(network) == [*expected, "fc_nsfw"]
    assert {len(shapes) for layer, shapes in learned(network) if layer.caffe_type == "Convolution"} == {2}


def test_mobilenet_names() -> None:
    network = load("mobilenet")
    stages = ["2_1", "2_2", "3_1", "3_2", "4_1", "4_2", *(f"5_{i}" for i in range(1, 7)), "6"]
    convolutions = ["conv1", *(f"conv{stage}/{part}" for stage in stages for part in ("dw", "sep"))]
    kinds = ("", "/bn", "/scale")
    assert weighted(network) == [*(f"{name}{kind}" for name in convolutions for kind in kinds), "fc7"]
    depthwise = [layer for layer in network.layers if layer.name.startswith("conv") and layer.name.endswith("/dw")]
    groups = {layer.definition.convolution_param.group for layer in depthwise}
    assert groups == {32, 64, 128, 256, 512, 1024}


def test_densenet121_names() -> None:
    network = load("densenet121")
    expected = ["conv1", "conv1/bn", "conv1/scale"]
    for block, layers in zip((2, 3, 4, 5), (6, 12, 24, 16), strict=True):
        for number in range(1, layers + 1):
            for part in ("x1", "x2"):
                prefix = f"conv{block}_{number}/{part}"
                expected += [f"{prefix}/bn", f"{prefix}/scale", prefix]
        expected += [f"conv{block}_blk/bn", f"conv{block}_blk/scale", *([f"conv{block}_blk"] if block < 5 else [])]
    assert weighted(network) == [*expected, "fc6"]
    assert network.layer("concat_3_1").bottoms == ("pool2", "conv3_1/x2")


def test_se_resnet50_names() -> None:
    network = load("se_resnet50")
    stem = "conv1/7x7_s2"
    expected = [stem, f"{stem}/bn", f"{stem}/bn/scale"]
    for stage, blocks in enumerate((3, 4, 6, 3), 2):
        for block in range(1, blocks + 1):
            name = f"conv{stage}_{block}_1x1"
            for part in (f"{name}_reduce", f"conv{stage}_{block}_3x3", f"{name}_increase"):
                expected += [part, f"{part}/bn", f"{part}/bn/scale"]
            expected += [f"{name}_down", f"{name}_up"]
            if block == 1:
                expected += [f"{name}_proj", f"{name}_proj/bn", f"{name}_proj/bn/scale"]
    assert weighted(network) == [*expected, "classifier"]
    assert network.layer("conv3_2").bottoms == ("conv3_2_1x1_up", "conv3_2_1x1_increase", "conv3_1")


@pytest.mark.parametrize(
    ("name", "mean", "scale"),
    [
        ("mobilenet", (103.94, 116.78, 123.68), 0.017),
        ("densenet121", (103.94, 116.78, 123.68), 0.017),
        ("se_resnet50", (104, 117, 123), 1),
        ("open_nsfw", (104, 117, 123), 1),
        ("rcnn_ilsvrc13", (104.007, 116.6688, 122.6789), 1),
        ("places365", (104.051, 112.514, 116.676), 1),
    ],
)
def test_input_preparation(name: str, mean: tuple[float, float, float], scale: float) -> None:
    model = entry(name)
    assert model.mean == pytest.approx(mean, abs=1e-3)
    assert (model.scale, model.channel_order) == (scale, "bgr")
