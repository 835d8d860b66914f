"""Finer maps: equal to shift-and-stitch, at the cost that is said, with the geometry that is said."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import conversion
from conversion import cast, convert, evaluate, load_network, receptive_field, save
from conversion.errors import CastError, ConversionError, NetworkError, UnsupportedError
from conversion.export.savedmodel import load_savedmodel
from conversion.export.verification import relative_error
from conversion.net.network import Network, to_definition
from conversion.passes.dilate import dilate, multiply_adds_by_stride
from models import entry
from tests.support.definitions import convolution, data, inner_product, layer, network, pooling
from tests.support.forms import FORMS
from tests.support.golden_cases import GOLDEN


def golden(name: str) -> Network:
    folder = GOLDEN / "nets" / name
    return cast(load_network(folder / "net.prototxt", folder / "net.caffemodel"))


def run(subject: Network, blob: str, image: np.ndarray) -> np.ndarray:
    return evaluate(subject, {next(iter(subject.inputs)): image})[blob]


def assert_is_shift_and_stitch(subject: Network, stride: int, blob: str, image: np.ndarray) -> np.ndarray:
    """Interior cells are those of the net on shifted images; and all its own cells are there, border and all."""
    fine = dilate(subject, stride, blob)
    old, new = receptive_field(subject, blob), receptive_field(fine, blob)
    for axis in ("y", "x"):
        assert getattr(new, axis) == dataclasses.replace(getattr(old, axis), stride=stride)
    found, plain = run(fine, blob, image), run(subject, blob, image)
    steps = tuple(int(s) // stride for s in old.stride)
    np.testing.assert_allclose(found[:, :, :: steps[0], :: steps[1]], plain, rtol=1e-9, atol=1e-12)
    height, width = image.shape[2:]
    rows, columns = new.y.interior(height, found.shape[2]), new.x.interior(width, found.shape[3])
    compared = 0
    for y in range(steps[0]):
        for x in range(steps[1]):
            # Shifted to the right and below, into zeros that interior cells do not see.
            shifted = np.pad(
                image, [(0, 0), (0, 0), (y * stride, int(old.stride[0])), (x * stride, int(old.stride[1]))]
            )
            expected = run(subject, blob, shifted)
            for i, j in np.ndindex(*expected.shape[2:]):
                row, column = i * steps[0] - y, j * steps[1] - x
                if row in rows and column in columns:
                    compared += 1
                    np.testing.assert_allclose(found[:, :, row, column], expected[:, :, i, j], rtol=1e-9, atol=1e-12)
    assert compared == len(rows) * len(columns)
    return found


# --- the golden nets: branches, residual sums, groups, depthwise, ceiling, global pooling


@pytest.mark.parametrize(
    ("name", "stride", "size"),
    [
        ("googlenet_piece", 4, (133, 121)),
        ("googlenet_piece", 2, (118, 111)),
        ("squeezenet_piece", 4, (111, 98)),
        ("resnet_piece", 4, (171, 178)),
        ("resnet_piece", 2, (168, 171)),
        ("mobilenet_piece", 2, (73, 61)),
        ("densenet_piece", 2, (61, 63)),
        ("densenet_piece", 1, (58, 61)),
        ("vgg_piece", 4, (85, 89)),
        ("vgg_piece", 1, (86, 86)),
    ],
)
def test_golden_nets(name: str, stride: int, size: tuple[int, int]):
    subject = golden(name)
    blob = subject.layers[-1].bottoms[0]
    image = np.random.default_rng(0).standard_normal((1, 3, *size)) * 50
    found = assert_is_shift_and_stitch(subject, stride, blob, image)
    assert_forms_give(dilate(subject, stride), blob, image, found)


def assert_forms_give(fine: Network, blob: str, image: np.ndarray, expected: np.ndarray) -> None:
    for form, build in FORMS.items():
        assert relative_error(build(fine)({"data": image.astype(np.float32)})[blob], expected) < 1e-4, form


def test_caffenet_small_at_every_stride():
    """Two poolings that become dense, groups, and 6x6 filters dilated by 8."""
    subject = golden("caffenet_small")
    image = np.random.default_rng(0).standard_normal((1, 3, 259, 227)) * 50
    plain = run(subject, "fc8-conv", image)
    for stride in (16, 8, 4):
        fine = dilate(subject, stride)
        for build in FORMS.values():
            found = build(fine)({"data": image.astype(np.float32)})["fc8-conv"]
            assert found.shape[2] == (plain.shape[2] - 1) * 32 // stride + 1
            assert relative_error(found[:, :, :: 32 // stride, :: 32 // stride], plain) < 1e-4
    # One shift, at the finest: pixels 4 and 8 further on.
    shifted = evaluate(subject, {"data": np.pad(image, [(0, 0)] * 2 + [(0, 32)] * 2)[:, :, 4:, 8:]})["pool2"]
    fine_pool = evaluate(dilate(subject, 4), {"data": np.pad(image, [(0, 0)] * 2 + [(0, 32)] * 2)})["pool2"]
    inner = slice(2, 12)
    np.testing.assert_allclose(fine_pool[:, :, 1::4, 2::4][:, :, inner, inner], shifted[:, :, inner, inner], rtol=1e-9)


# --- the property, over nets and sizes


@st.composite
def nets(draw: st.DrawFn) -> tuple[str, int]:
    """A stack of windows of strides up to 3, perhaps with two branches; and a stride that divides its own."""
    text, top, total = data(1, 2, 1, 1), "data", 1
    for index in range(draw(st.integers(1, 4))):
        name, kind = f"l{index}", draw(st.sampled_from(["conv", "MAX", "AVE", "branch", "lrn"]))
        kernel = draw(st.integers(1, 4))
        stride = draw(st.integers(1, min(3, kernel)))
        pad = draw(st.integers(0, kernel - 1))
        window = f"kernel_size: {kernel} stride: {stride} pad: {pad}"
        if kind == "branch":
            text += convolution(f"{name}a", top, "num_output: 2 kernel_size: 1")
            text += pooling(f"{name}b", top, "pool: AVE kernel_size: 3 pad: 1")
            text += layer("Concat", name, f"{name}a {name}b") + layer("ReLU", f"{name}r", name, name)
        elif kind == "lrn":
            text += layer("LRN", name, top, lrn_param="local_size: 3 alpha: 0.1")
        elif kind == "conv":
            total *= stride
            text += convolution(name, top, f"num_output: 2 {window} dilation: {draw(st.integers(1, 2))}")
        else:
            total *= stride
            rounding = draw(st.sampled_from(["CEIL", "FLOOR"]))
            text += pooling(name, top, f"pool: {kind} {window} round_mode: {rounding}")
        top = name
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    return text + convolution("top", top, "num_output: 2 kernel_size: 2"), draw(st.sampled_from(divisors))


@given(nets(), st.integers(12, 40), st.integers(12, 40), st.integers(0, 2**32 - 1))
@settings(max_examples=120, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_finer_maps_are_shift_and_stitch(drawn: tuple[str, int], height: int, width: int, seed: int):
    text, stride = drawn
    try:
        subject = network(text.replace("dim: 1 dim: 1 }", f"dim: {height} dim: {width} }}"), seed=seed)
    except NetworkError:
        assume(False)
    image = np.random.default_rng(seed).standard_normal((1, 2, height, width))
    found = assert_is_shift_and_stitch(subject, stride, "top", image)
    assert_forms_give(dilate(subject, stride), "top", image, found)


# --- geometry and cost


def test_caffenet_costs_what_caffes_notes_say():
    """CAFFE.md: 6.6, 16, 56 and 216 billion multiply-adds at 451 pixels; shift-and-stitch 26, 105 and 420."""
    subject = cast(load_network(entry("caffenet").definition))
    costs = multiply_adds_by_stride(subject, (451, 451), [32, 16, 8, 4])
    assert {stride: round(cost / 1e9, 1) for stride, cost in costs.items()} == {32: 6.6, 16: 16.0, 8: 56.3, 4: 216.5}
    for stride, cells in ((16, 15), (8, 29), (4, 57)):
        fine = dilate(subject, stride)
        assert receptive_field(fine).y == dataclasses.replace(receptive_field(subject).y, stride=stride)
        assert fine.shapes_at({"data": (1, 3, 451, 451)})["prob"][2:] == (cells, cells)
        assert fine.shapes["prob"][2:] == (1, 1)


@pytest.mark.parametrize("name", ["googlenet", "resnet50", "squeezenet_1_1", "vgg16", "nin"])
def test_nominal_window_stays_the_training_crop(name: str):
    """Also where the finer map has several cells at that size, or would have none by rounding down."""
    subject = cast(load_network(entry(name).definition))
    before = receptive_field(subject)
    fine = dilate(subject, int(before.y.stride) // 4)
    assert receptive_field(fine).x == dataclasses.replace(before.x, stride=before.x.stride / 4)
    assert min(fine.shapes[fine.outputs[-1]][2:]) >= 1
    again = dilate(dilate(subject, int(before.y.stride) // 2), int(before.y.stride) // 4)
    assert to_definition(again) == to_definition(fine)
    assert again.windows == fine.windows


def test_own_stride_changes_nothing():
    subject = golden("vgg_piece")
    assert dilate(subject, 8) is subject


def test_weights_and_names_stay():
    subject = golden("vgg_piece")
    fine = dilate(subject, 2)
    assert [one.name for one in fine.layers] == [one.name for one in subject.layers]
    assert all(a is b for n, v in subject.parameters.items() for a, b in zip(v, fine.parameters[n], strict=True))


@pytest.mark.parametrize("rounding", ["", "round_mode: FLOOR"])
@pytest.mark.parametrize("method", ["MAX", "AVE", "AVE_TF"])
@pytest.mark.parametrize("size", [(20, 24), (21, 19)])
def test_four_pads_are_dilated_each(method: str, rounding: str, size: tuple[int, int]):
    text = (
        data(1, 2, 20, 20)
        + convolution("a", "data", "num_output: 2 kernel_size: 3 stride: 2 pad_t: 0 pad_b: 1 pad_l: 1 pad_r: 0")
        + pooling("b", "a", f"pool: {method} kernel_size: 3 stride: 2 pad_t: 1 pad_b: 0 pad_l: 0 pad_r: 1 {rounding}")
        + convolution("top", "b", "num_output: 2 kernel_size: 2 pad_r: 1 pad_b: 1")
    )
    subject = network(text, seed=0)
    assert_is_shift_and_stitch(subject, 2, "top", np.random.default_rng(0).standard_normal((1, 2, *size)))


def test_strides_that_do_not_divide_each_other():
    """3 then 2, made 4 of 12: the first is given up, since 4 is not a multiple of 3."""
    text = (
        data(1, 2, 60, 60)
        + convolution("a", "data", "num_output: 2 kernel_size: 3 stride: 3")
        + pooling("b", "a", "kernel_size: 2 stride: 2")
        + convolution("top", "b", "num_output: 2 kernel_size: 2 stride: 2")
    )
    subject = network(text, seed=0)
    assert_is_shift_and_stitch(subject, 4, "top", np.random.default_rng(0).standard_normal((1, 2, 60, 57)))


def test_stride_of_another_head():
    """Each blob's stride follows from its own old one, so that heads of other strides are finer too."""
    text = (
        data(1, 2, 64, 64)
        + convolution("t", "data", "num_output: 2 kernel_size: 4 stride: 4")
        + pooling("p", "t", "kernel_size: 3 stride: 3")
        + inner_product("aux", "p", "num_output: 3")
        + pooling("q", "t", "kernel_size: 2 stride: 2")
        + inner_product("main", "q", "num_output: 3")
    )
    subject = cast(network(text, seed=0))
    fine = dilate(subject, 2, "main-conv")
    assert receptive_field(fine, "main-conv").stride == (2, 2)
    assert receptive_field(fine, "aux-conv").stride == (2, 2)
    image = np.random.default_rng(0).standard_normal((1, 2, 90, 90))
    a, b = (evaluate(net, {"data": image}) for net in (subject, fine))
    np.testing.assert_allclose(b["aux-conv"][:, :, ::6, ::6], a["aux-conv"], rtol=1e-9)
    np.testing.assert_allclose(b["main-conv"][:, :, ::4, ::4], a["main-conv"], rtol=1e-9)


# --- refusals


def trunk(layers: str) -> Network:
    return cast(network(data(1, 2, 33, 33) + pooling("p", "data", "kernel_size: 2 stride: 4") + layers))


@pytest.mark.parametrize("stride", [0, -4, 3, 5, 8])
def test_stride_that_does_not_divide(stride: int):
    with pytest.raises(CastError, match=f"output stride {stride}") as caught:
        dilate(trunk(convolution("top", "p", "num_output: 2 kernel_size: 2")), stride)
    assert caught.value.remedy == "give one of 4, 2, 1"


REFUSED = {
    "lrn": layer("LRN", "bad", "p", lrn_param="norm_region: WITHIN_CHANNEL local_size: 3"),
    "deconvolution": layer("Deconvolution", "bad", "p", convolution_param="num_output: 2 kernel_size: 2"),
    "crop": convolution("a", "p", "num_output: 2 kernel_size: 3") + layer("Crop", "bad", "p a"),
    "mask": layer("Pooling", "bad", "p", "bad mask", pooling_param="kernel_size: 2 stride: 1"),
    "plane statistics": layer("MVN", "mvn", "p") + convolution("bad", "p", "num_output: 1 kernel_size: 1"),
}


@pytest.mark.parametrize("layers", REFUSED.values(), ids=REFUSED)
def test_layers_that_cannot_be_dilated(layers: str):
    with pytest.raises(CastError, match="cannot be part of a finer map") as caught:
        dilate(trunk(layers), 2, "bad")
    assert "'bad'" in caught.value.where or "'mvn'" in caught.value.where
    assert caught.value.why


def test_branches_that_round_differently():
    """Equal at most sizes and strides; as a finer map they are not, and it is said before an image comes."""
    text = (
        convolution("a", "p", "num_output: 2 kernel_size: 3 stride: 2 pad: 1")
        + pooling("b", "p", "kernel_size: 3 stride: 2")
        + layer("Concat", "top", "a b")
    )
    subject = network(data(1, 2, 30, 30) + pooling("p", "data", "kernel_size: 2 stride: 4") + text)
    assert dilate(subject, 4, "p") is subject
    with pytest.raises(CastError, match="a finer map does not fit") as caught:
        dilate(subject, 4)
    assert "'top'" in caught.value.where


def test_a_classifier_that_is_not_cast():
    with pytest.raises(NetworkError, match="do not correspond to pixels"):
        dilate(network(data(1, 2, 9, 9) + inner_product("ip", "data", "num_output: 2")), 1)


# --- what Caffe cannot express


def test_caffe_cannot_have_it(tmp_path: Path):
    fine = dilate(golden("vgg_piece"), 2)
    with pytest.raises(ConversionError, match="pool2, pool3") as caught:
        save(fine, tmp_path / "net.prototxt")
    assert "Caffe" in caught.value.why
    assert not list(tmp_path.iterdir())


def test_dilated_convolutions_alone_are_caffes(tmp_path: Path):
    text = data(1, 2, 33, 33) + convolution("a", "data", "num_output: 2 kernel_size: 3 stride: 2")
    fine = dilate(network(text + convolution("top", "a", "num_output: 2 kernel_size: 3"), seed=0), 1)
    save(fine, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    assert to_definition(load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")) == to_definition(fine)


def test_our_own_field_is_read_back_and_checked():
    fine = dilate(golden("vgg_piece"), 2)
    text = text_format.MessageToString(to_definition(fine))
    assert to_definition(network(text)) == to_definition(fine)
    base = data(1, 2, 9, 9)
    for bad in ("pooling_dilation: 2", "pooling_dilation: [0, 1]", "pooling_stride: [2, 2, 2]"):
        with pytest.raises(NetworkError, match="each is two numbers"):
            network(base + layer("Pooling", "p", "data", pooling_param="kernel_size: 2", densecast_param=bad))
    with pytest.raises(NetworkError, match="with global_pooling"):
        network(
            base
            + layer(
                "Pooling",
                "p",
                "data",
                pooling_param="global_pooling: true",
                densecast_param="pooling_dilation: [2, 2]",
            )
        )
    with pytest.raises(UnsupportedError, match="densecast_param on type 'ReLU'"):
        network(base + layer("ReLU", "r", "data", densecast_param="pooling_dilation: [2, 2]"))


# --- a model


def test_model_of_a_finer_map(tmp_path: Path):
    """Verified against the reference like any other; the definition beside it is readable by us alone, and says so."""
    folder = GOLDEN / "nets" / "lenet_small"
    files = folder / "net.prototxt", folder / "net.caffemodel.h5"
    plain, model = (convert(*files, tmp_path / str(stride), output_stride=stride) for stride in (4, 2))
    assert (plain.geometry.y.stride, model.geometry.y.stride) == (4, 2)
    assert model.geometry.y.window == plain.geometry.y.window == 28
    assert model.digest != plain.digest
    text = (tmp_path / "2" / "network.prototxt").read_text()
    assert text.startswith("# Caffe has no field densecast_param")
    assert receptive_field(load_network(tmp_path / "2" / "network.prototxt"), "prob").stride == (2, 2)
    assert not (tmp_path / "4" / "network.prototxt").read_text().startswith("#")
    image = np.random.default_rng(0).integers(0, 256, (1, 40, 36, 3), np.uint8)
    models: list[Any] = [load_savedmodel(tmp_path / name) for name in ("4", "2")]
    coarse, fine = (model.probabilities(image)["probabilities"].numpy() for model in models)
    assert coarse.shape == (1, 4, 3, 10)
    assert fine.shape == (1, 7, 5, 10)
    np.testing.assert_allclose(fine[:, ::2, ::2], coarse, rtol=1e-4, atol=1e-6)
    with pytest.raises(CastError, match="output stride 3"):
        convert(*files, tmp_path / "3", output_stride=3)


def test_the_old_name_warns():
    subject = golden("vgg_piece")
    with pytest.warns(DeprecationWarning, match="conversion.dilate"):
        fine = conversion.finer(subject, 2)
    assert to_definition(fine) == to_definition(dilate(subject, 2))
