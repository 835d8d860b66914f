"""The forms at sizes that are unknown while they are built, held against the NumPy reference."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from conversion.caffe.caffe_pb2 import NetParameter
from conversion.errors import NetworkError
from conversion.net.build import build
from conversion.net.network import Network, learned
from conversion.net.reference import evaluate
from tests.support.forms import FREE_FORMS, REFUSALS, Arrays, Run, eager_tensorflow, onnx_form


def network(layers: str, seed: int = 0, **inputs: tuple[int, ...]) -> Network:
    """A net of these layers with random weights; each input is (N, C, H, W) or shorter."""
    text = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{'
        f" {' '.join(f'dim: {dim}' for dim in shape)} }} }} }}\n"
        for name, shape in inputs.items()
    )
    bare = build(text_format.Parse(text + layers, NetParameter()))
    rng = np.random.default_rng(seed)
    parameters = {
        layer.name: tuple(rng.standard_normal(shape, dtype=np.float32) for shape in shapes)
        for layer, shapes in learned(bare)
    }
    return dataclasses.replace(bare, parameters=parameters)


def one(kind: str, parameters: str = "", bottom: str = "x", top: str = "y") -> str:
    names = "".join(f'bottom: "{b}" ' for b in bottom.split()) + "".join(f'top: "{t}" ' for t in top.split())
    return f'layer {{ name: "{kind}_{(top or bottom).split()[0]}" type: "{kind}" {names} {parameters} }}\n'


@pytest.fixture(params=FREE_FORMS)
def dynamic(request: pytest.FixtureRequest) -> Callable[[Network], Run]:
    """Returns a form of a net in which batch, height and width are free."""
    return FREE_FORMS[request.param]


def assert_same(got: Arrays, want: Arrays, tolerance: float = 1e-4) -> None:
    for name, expected in want.items():
        value = got[name]
        assert value.shape == expected.shape, name
        np.testing.assert_array_equal(np.isnan(value), np.isnan(expected), err_msg=name)
        largest = np.max(np.abs(expected[np.isfinite(expected)]), initial=0.0)
        np.testing.assert_allclose(value, expected, rtol=0, atol=tolerance * (largest or 1.0), err_msg=name)


def values(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


CONVOLUTION = "convolution_param {{ num_output: 4 {} }}"

MAPS = {
    "conv": one("Convolution", CONVOLUTION.format("kernel_size: 3 stride: 2 pad: 1 group: 2")),
    "conv_dilated": one("Convolution", CONVOLUTION.format("kernel_size: 3 dilation: 2 stride: 2")),
    "conv_depthwise": one("Convolution", "convolution_param { num_output: 8 kernel_size: 3 group: 4 pad: 1 }"),
    "conv_depthwise_dilated": one("Convolution", CONVOLUTION.format("kernel_size: 3 dilation: 2 group: 4")),
    "deconv": one("Deconvolution", CONVOLUTION.format("kernel_size: 4 stride: 2 pad: 1")),
    "deconv_group": one("Deconvolution", "convolution_param { num_output: 6 kernel_size: 3 stride: 3 group: 2 }"),
    "deconv_depthwise": one("Deconvolution", CONVOLUTION.format("kernel_size: 4 stride: 2 pad: 1 group: 4")),
    "deconv_multiplier": one("Deconvolution", "convolution_param { num_output: 2 kernel_size: 3 group: 2 }"),
    "deconv_rect": one(
        "Deconvolution", CONVOLUTION.format("kernel_h: 3 kernel_w: 2 stride_h: 1 stride_w: 3 pad_h: 1 group: 4")
    ),
    "deconv_dilated": one("Deconvolution", CONVOLUTION.format("kernel_size: 3 stride: 2 pad: 1 dilation: [2, 3]")),
    "deconv_gaps": one("Deconvolution", CONVOLUTION.format("kernel_size: 1 stride: 3 bias_term: false")),
    "deconv_then_conv": one("Deconvolution", CONVOLUTION.format("kernel_size: 4 stride: 2"), top="d")
    + one("Convolution", CONVOLUTION.format("kernel_size: 3"), "d"),
    "pool_max": one("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }"),
    "pool_ave": one("Pooling", "pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }"),
    "pool_then_depthwise": one("Pooling", "pooling_param { kernel_size: 3 stride: 2 }", top="p")
    + one("Convolution", CONVOLUTION.format("kernel_size: 2 group: 4"), "p"),
    "pool_mask": one("Pooling", "pooling_param { kernel_size: 3 stride: 2 pad: 1 }", top="y mask"),
    "pool_mask_gaps": one("Pooling", "pooling_param { kernel_size: 1 stride: 2 }", top="y mask"),
    "pool_mask_global": one("Pooling", "pooling_param { global_pooling: true }", top="y mask"),
    "pool_global": one("Pooling", "pooling_param { pool: AVE global_pooling: true }"),
    "spp_max": one("SPP", "spp_param { pyramid_height: 3 }"),
    "spp_ave": one("SPP", "spp_param { pyramid_height: 3 pool: AVE }"),
    "spp_one": one("SPP", "spp_param { pyramid_height: 1 }"),
    "lrn": one("LRN"),
    "lrn_within": one("LRN", "lrn_param { norm_region: WITHIN_CHANNEL }"),
    "batch_norm": one("BatchNorm", "batch_norm_param { use_global_stats: false }"),
    "mvn": one("MVN"),
    "mvn_across": one("MVN", "mvn_param { across_channels: true eps: 0.1 }"),
    "softmax": one("Softmax"),
    "softmax_spatial": one("Softmax", "softmax_param { axis: 2 }"),
    "prelu": one("PReLU"),
    "elu": one("ELU", "elu_param { alpha: 0.5 }"),
    "power": one("Power", "power_param { power: 0.5 scale: 2 shift: 0.1 }"),
    "power_negative_base": one("Power", "power_param { power: 3 }"),
    "power_constant": one("Power", "power_param { power: 2 scale: 0 shift: 3 }"),
    "exp": one("Exp", "exp_param { base: 2 scale: 0.5 shift: 1 }"),
    "log": one("Log", "log_param { base: 10 scale: 0.5 shift: 1 }"),
    "threshold": one("Threshold", "threshold_param { threshold: 0.3 }"),
    "clip": one("Clip", "clip_param { min: -0.5 max: 0.25 }"),
    "scale": one("Scale", "scale_param { bias_term: true }"),
    "scale_by_blob": one("Pooling", "pooling_param { pool: AVE global_pooling: true }", top="p")
    + one("Flatten", bottom="p", top="f")
    + one("Scale", "scale_param { axis: 0 }", "x f"),
    "bias": one("Bias"),
    "bias_by_blob": one("Reduction", "reduction_param { axis: 2 operation: MEAN }", top="r")
    + one("Bias", "bias_param { axis: 0 }", "x r"),
    "eltwise": one("Eltwise", "eltwise_param { operation: MAX }", "x x"),
    "concat": one("Concat", "", "x x"),
    "slice": one("Slice", "slice_param { slice_point: [1, 3] }", top="y a b")
    + one("Convolution", CONVOLUTION.format("kernel_size: 2 "), "a", "z"),
    "slice_rows": one("Slice", "slice_param { axis: 2 slice_point: [1, 4] }", top="y a b"),
    "slice_batch": one("Slice", "slice_param { axis: 0 }", top="y a"),
    "flatten": one("Flatten"),
    "reshape": one("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }"),
    "reshape_groups": one("Reshape", "reshape_param { shape { dim: 2 dim: -1 } axis: 1 num_axes: 1 }", top="r")
    + one("Reshape", "reshape_param { shape { dim: -1 } axis: 1 num_axes: 2 }", "r", "s")
    + one("Convolution", CONVOLUTION.format("kernel_size: 2"), "s"),
    "reshape_swaps": one("Reshape", "reshape_param { shape { dim: 0 dim: 2 dim: -1 } num_axes: 2 }"),
    "shared_memory": one("Convolution", CONVOLUTION.format("kernel_size: 3"), top="c")
    + one("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }", "c", "y")
    + one("ReLU", bottom="y", top="y"),
    "crop": one("Pooling", "pooling_param { kernel_size: 3 }", top="p")
    + one("Crop", "crop_param { offset: 1 }", "x p"),
    "tile": one("Tile", "tile_param { tiles: 2 }") + one("Convolution", CONVOLUTION.format("kernel_size: 2"), "y", "z"),
    "tile_rows": one("Tile", "tile_param { axis: 2 tiles: 3 }"),
    "argmax": one("ArgMax", "argmax_param { top_k: 3 out_max_val: true }"),
    "argmax_channel": one("ArgMax", "argmax_param { axis: 1 top_k: 2 }"),
    "argmax_rows": one("ArgMax", "argmax_param { axis: 2 }"),
    "reduction": one("Reduction", "reduction_param { operation: ASUM axis: 3 coeff: 0.5 }"),
    "reduction_all": one("Reduction", "reduction_param { operation: SUMSQ }"),
    "parameter": one("Parameter", "parameter_param { shape { dim: 4 } }", "", "w") + one("Scale", "", "x w"),
    "silence": one("Slice", top="y a") + one("Silence", bottom="a", top=""),
    "fully_convolutional": one("Convolution", CONVOLUTION.format("kernel_size: 3 stride: 2"), top="c")
    + one("Deconvolution", CONVOLUTION.format("kernel_size: 4 stride: 2"), "c", "d")
    + one("Crop", "crop_param { offset: 0 }", "d c")
    + one("ArgMax", "argmax_param { axis: 1 }", "y", "labels"),
}


@pytest.mark.parametrize("layers", MAPS.values(), ids=MAPS.keys())
def test_sizes_unknown_while_building(dynamic: Callable[[Network], Run], layers: str) -> None:
    subject = network(layers, x=(2, 4, 11, 13))
    run = dynamic(subject)
    for seed, shape in enumerate([(2, 4, 11, 13), (4, 4, 14, 10)]):
        x = values({"x": shape}, seed)
        want = evaluate(subject, x)
        assert {name: array.shape for name, array in want.items()} == subject.shapes_at({"x": shape})
        assert_same(run(x), want)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (one("MVN"), (3, 4)),
        (one("MVN", "mvn_param { across_channels: true }"), (3, 4, 5)),
        (one("ArgMax", "argmax_param { top_k: 2 }"), (3, 4)),
        (one("ArgMax", "argmax_param { axis: 1 }"), (3, 4, 5)),
        (one("Reduction", "reduction_param { axis: 1 operation: MEAN coeff: 3 }"), (3, 4, 5)),
        (one("Tile", "tile_param { axis: 0 tiles: 2 }"), (3, 4)),
        (one("Slice", "slice_param { axis: 0 slice_point: 1 }", top="y z"), (3, 4)),
        (one("Reshape", "reshape_param { shape { dim: 2 dim: 2 } axis: 1 }"), (3, 4)),
        (one("Reshape", "reshape_param { shape { dim: 0 dim: 2 dim: 2 dim: -1 } }"), (3, 4, 5)),
        (one("Bias", "bias_param { axis: 1 num_axes: -1 }"), (3, 4, 5)),
        (one("BNLL") + one("Swish", "swish_param { beta: 2 }", "y", "z"), (3, 4)),
    ],
    ids=lambda value: value[:60] if isinstance(value, str) else str(value),
)
def test_other_ranks(dynamic: Callable[[Network], Run], layers: str, shape: tuple[int, ...]) -> None:
    subject = network(layers, x=shape)
    run = dynamic(subject)
    for batch in (shape[0], shape[0] + 2):
        x = values({"x": (batch, *shape[1:])}, batch)
        assert_same(run(x), evaluate(subject, x))


def test_embed_of_three_axes_gives_a_map(dynamic: Callable[[Network], Run]) -> None:
    subject = network(one("Embed", "embed_param { num_output: 5 input_dim: 7 }"), x=(2, 3, 4))
    run = dynamic(subject)
    x = {"x": np.random.default_rng(0).integers(0, 7, (3, 3, 4)).astype(np.float32)}
    want = evaluate(subject, x)
    assert want["y"].shape == (3, 3, 4, 5)
    assert_same(run(x), want)


@pytest.mark.parametrize("index", [-1, 7])
def test_embed_of_a_row_outside_the_table_fails(dynamic: Callable[[Network], Run], index: int) -> None:
    """Also below 0, where ONNX counts from the end."""
    subject = network(one("Embed", "embed_param { num_output: 5 input_dim: 7 }"), x=(2,))
    with pytest.raises(REFUSALS):
        dynamic(subject)({"x": np.array([0, index], np.float32)})


def test_parameter_of_four_axes(dynamic: Callable[[Network], Run]) -> None:
    subject = network(
        one("Parameter", "parameter_param { shape { dim: 2 dim: 3 dim: 4 dim: 5 } }", "", "w"), x=(1, 1, 1, 1)
    )
    x = values({"x": (1, 1, 1, 1)}, 0)
    np.testing.assert_array_equal(dynamic(subject)(x)["w"], subject.parameters["Parameter_w"][0])


def test_two_inputs_crop_each_other(dynamic: Callable[[Network], Run]) -> None:
    subject = network(one("Crop", "crop_param { axis: 1 offset: [1, 2, 0] }", "a b"), a=(2, 6, 9, 10), b=(1, 5, 6, 7))
    run = dynamic(subject)
    for shapes in ({"a": (2, 6, 9, 10), "b": (1, 5, 6, 7)}, {"a": (1, 6, 12, 8), "b": (3, 5, 10, 8)}):
        x = values(shapes, 1)
        assert_same(run(x), evaluate(subject, x))


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        (one("SPP", "spp_param { pyramid_height: 3 }"), (1, 4, 5, 9)),
        (one("Slice", "slice_param { axis: 2 slice_point: [1, 4] }", top="y a b"), (1, 4, 3, 9)),
        (one("Slice", "slice_param { axis: 3 }", top="y a"), (1, 4, 9, 9)),
        (one("Crop", "crop_param { offset: 3 }", "x l"), (1, 4, 9, 10)),
        (one("Reshape", "reshape_param { shape { dim: 0 dim: 352 } }"), (1, 4, 9, 9)),
    ],
    ids=["spp", "slice_points", "slice_even", "crop", "reshape"],
)
def test_a_size_that_caffe_refuses_fails_at_run_time_too(
    dynamic: Callable[[Network], Run], layers: str, shape: tuple[int, ...]
) -> None:
    """Rather than give a map of another size."""
    subject = network(layers, x=(2, 4, 11, 8), l=(2, 4, 8, 5))
    run = dynamic(subject)
    legal = values({"x": (2, 4, 11, 8), "l": (2, 4, 8, 5)}, 0)
    assert_same(run(legal), evaluate(subject, legal))
    x = values({"x": shape, "l": (2, 4, 7, 5)}, 0)
    with pytest.raises(NetworkError):
        evaluate(subject, x)
    with pytest.raises(REFUSALS):
        run(x)


def test_ties_and_values_that_are_no_numbers(dynamic: Callable[[Network], Run]) -> None:
    """The first of equal values is the mask's, the last is ArgMax's; NaN never wins a maximum and is clipped away."""
    layers = (
        one("Pooling", "pooling_param { kernel_size: 2 stride: 2 }", top="pool mask")
        + one("ArgMax", "argmax_param { axis: 3 top_k: 2 }", "pool", "places")
        + one("Clip", "clip_param { min: -1 max: 1 }", top="clip")
        + one("Threshold", top="threshold")
    )
    subject = network(layers, x=(1, 1, 2, 6))
    nan = np.nan
    x = {"x": np.array([[[[1, 1, nan, nan, -np.inf, -9], [1, 1, nan, nan, -9, -9]]]], np.float32)}
    want = evaluate(subject, x)
    low = float(np.finfo(np.float32).min)
    np.testing.assert_array_equal(want["pool"].ravel(), [1, low, -9])
    np.testing.assert_array_equal(want["mask"].ravel(), [0, -1, 5])
    np.testing.assert_array_equal(want["places"].ravel(), [0, 2])
    np.testing.assert_array_equal(want["clip"].ravel()[:6], [1, 1, -1, -1, -1, -1])
    np.testing.assert_array_equal(want["threshold"].ravel()[:6], [1, 1, 0, 0, 0, 0])
    got = dynamic(subject)(x)
    for blob in ("pool", "mask", "places", "clip", "threshold"):
        np.testing.assert_array_equal(got[blob], want[blob], err_msg=blob)


def test_equal_values_all_around(dynamic: Callable[[Network], Run]) -> None:
    layers = one("ArgMax", "argmax_param { axis: 1 top_k: 2 }", top="y") + one(
        "ArgMax", "argmax_param { top_k: 2 }", top="z"
    )
    subject = network(layers, x=(2, 3, 2, 2))
    x = {"x": np.zeros((2, 3, 2, 2), np.float32)}
    want = evaluate(subject, x)
    np.testing.assert_array_equal(want["y"][:, :, 0, 0], [[2, 1]] * 2)
    np.testing.assert_array_equal(want["z"].reshape(2, 2), [[11, 10]] * 2)
    assert_same(dynamic(subject)(x), want)


def test_constant_powers(dynamic: Callable[[Network], Run]) -> None:
    """Caffe's special cases: power 0 is 1 whatever the base; scale 0 is shift ** power, by C's pow."""
    cases = {
        "power: 0 shift: 0 scale: 2": 1.0,
        "power: -1 shift: 0 scale: 0": np.inf,
        "power: 0.5 shift: -1 scale: 0": np.nan,
        "power: 3 shift: -2 scale: 0": -8.0,
        "power: 2 shift: 3 scale: 1e-46": 9.0,  # a scale that is 0 in float32
    }
    for parameters, expected in cases.items():
        subject = network(one("Power", f"power_param {{ {parameters} }}"), x=(1, 2, 3, 3))
        x = {"x": np.full((1, 2, 3, 3), np.nan, np.float32)}
        np.testing.assert_array_equal(evaluate(subject, x)["y"], np.full((1, 2, 3, 3), expected))
        np.testing.assert_array_equal(dynamic(subject)(x)["y"], np.full((1, 2, 3, 3), expected))


def test_in_place_after_a_reshape_changes_what_both_names_hold() -> None:
    subject = network(MAPS["shared_memory"], x=(2, 4, 11, 13))
    want = evaluate(subject, values({"x": (2, 4, 11, 13)}, 0))
    assert want["c"].min() == want["y"].min() == 0.0
    np.testing.assert_array_equal(want["c"].ravel(), want["y"].ravel())


def test_receptive_field_steps() -> None:
    def step(layers: str, **inputs: Any) -> Any:
        subject = network(layers, **inputs)
        layer = subject.layers[-1]
        return layer.step([subject.shapes[bottom] for bottom in layer.bottoms])

    vertical, horizontal = step(
        one("Deconvolution", CONVOLUTION.format("kernel_size: [4, 5] stride: [2, 3] pad: [1, 0]")), x=(1, 4, 5, 5)
    )
    assert (vertical.window, vertical.stride, vertical.pad) == (2.5, 0.5, 1.0)
    assert [horizontal.window * 3, horizontal.stride * 3, horizontal.pad * 3] == [7, 1, 4]
    crop = step(one("Crop", "crop_param { offset: [1, 2] }", "a b"), a=(1, 1, 8, 8), b=(1, 1, 4, 4))
    assert [(s.window, s.stride, s.pad) for s in crop] == [(1, 1, -1), (1, 1, -2)]
    assert step(one("Crop", "", "a b"), a=(3, 4, 5), b=(3, 4, 2)) is None
    one_cell = step(one("ReLU"), x=(1, 4, 5, 5))
    for layers in (
        one("Slice", top="y z"),
        one("Tile", "tile_param { tiles: 2 }"),
        one("ArgMax", "argmax_param { axis: 1 }"),
        one("Reshape", "reshape_param { shape { dim: 2 dim: 2 } num_axes: 2 }"),
        one("Bias"),
    ):
        assert step(layers, x=(1, 4, 5, 5)) == one_cell, layers
    for layers in (
        one("Slice", "slice_param { axis: 2 slice_point: 1 }", top="y z"),
        one("Tile", "tile_param { tiles: 2 axis: 3 }"),
        one("ArgMax"),
        one("ArgMax", "argmax_param { axis: 2 }"),
        one("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }"),
        one("Reduction"),
        one("MVN"),
        one("SPP", "spp_param { pyramid_height: 1 }"),
    ):
        assert step(layers, x=(1, 4, 5, 5)) is None, layers
    assert step(one("Embed", "embed_param { num_output: 2 input_dim: 3 }"), x=(4,)) is None
    assert step(one("Reshape", "reshape_param { shape { dim: 0 dim: -1 } }"), x=(2, 4, 1, 1)) == one_cell


def test_costs() -> None:
    subject = network(one("Deconvolution", CONVOLUTION.format("kernel_size: 4 stride: 2 group: 2")), x=(1, 6, 5, 5))
    layer = subject.layers[-1]
    assert layer.multiply_adds([(1, 6, 5, 5)], [subject.shapes["y"]]) == 6 * 25 * 2 * 16


# Properties over random parameters. A module built anew for each example is run eagerly: tracing would dominate.

PROPERTIES = settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.too_slow])
SIDES = st.tuples(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12))


def pairs(least: int, most: int) -> st.SearchStrategy[tuple[int, int]]:
    return st.tuples(st.integers(least, most), st.integers(least, most))


def all_forms_agree(layers: str, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    try:
        subject = network(layers, x=shape)
    except NetworkError:
        assume(False)
    x = values({"x": shape}, 7)
    want = evaluate(subject, x)
    for name, array in want.items():
        assert array.shape == subject.shapes[name]
    assert_same(eager_tensorflow(subject)(x), want)
    run = onnx_form(subject)
    assert_same(run(x), want)
    if len(shape) == 4:  # the same graph at other sizes
        for more in ((1, 0), (2, 3)):
            x = values({"x": (*shape[:2], shape[2] + more[0], shape[3] + more[1])}, 8)
            try:
                larger = evaluate(subject, x)
            except NetworkError:
                with pytest.raises(REFUSALS):
                    run(x)
            else:
                assert_same(run(x), larger)
    return want


@PROPERTIES
@given(
    sides=SIDES,
    kernel=pairs(1, 5),
    stride=pairs(1, 4),
    pad=pairs(0, 3),
    method=st.sampled_from(["MAX", "AVE"]),
    rounding=st.sampled_from(["CEIL", "FLOOR"]),
    mask=st.booleans(),
)
def test_pooling_over_random_windows(
    sides: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    method: str,
    rounding: str,
    mask: bool,
) -> None:
    n, height, width = sides
    parameters = (
        f"pooling_param {{ pool: {method} kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]}"
        f" stride_w: {stride[1]} pad_h: {pad[0]} pad_w: {pad[1]} round_mode: {rounding} }}"
    )
    want = all_forms_agree(
        one("Pooling", parameters, top="y m" if mask and method == "MAX" else "y"), (n, 3, height, width)
    )
    if "m" in want:
        found = want["m"] >= 0
        planes = values({"x": (n, 3, height, width)}, 7)["x"].reshape(n, 3, -1)
        at = np.maximum(want["m"], 0).astype(int).reshape(n, 3, -1)
        np.testing.assert_array_equal(np.take_along_axis(planes, at, 2).reshape(found.shape)[found], want["y"][found])


SPECIAL = (1.0, 1.0, 2.0, -3.0, np.nan, np.nan, np.inf, -np.inf, float(np.finfo(np.float32).min))


@settings(PROPERTIES, max_examples=60)
@given(
    sides=SIDES, kernel=pairs(1, 4), stride=pairs(1, 4), pad=pairs(0, 2), mask=st.booleans(), seed=st.integers(0, 2**32)
)
def test_maxima_of_ties_and_values_that_are_no_numbers(
    sides: tuple[int, int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    mask: bool,
    seed: int,
) -> None:
    parameters = (
        f"pooling_param {{ kernel_h: {kernel[0]} kernel_w: {kernel[1]} stride_h: {stride[0]} stride_w: {stride[1]}"
        f" pad_h: {pad[0]} pad_w: {pad[1]} }}"
    )
    shape = (sides[0], 2, *sides[1:])
    try:
        subject = network(one("Pooling", parameters, top="y m" if mask else "y"), x=shape)
    except NetworkError:
        assume(False)
    x = {"x": np.random.default_rng(seed).choice(np.array(SPECIAL, np.float32), shape)}
    want = evaluate(subject, x)
    for form in (eager_tensorflow, onnx_form):
        found = form(subject)(x)
        for blob in ("y", "m") if mask else ("y",):
            np.testing.assert_array_equal(found[blob], want[blob].astype(np.float32), err_msg=blob)


@st.composite
def sliding(draw: st.DrawFn) -> tuple[str, int]:
    """(the fields of a convolution_param, input channels)."""
    group = draw(st.integers(1, 3))
    inside, outside = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel, stride, pad, dilation = draw(pairs(1, 4)), draw(pairs(1, 3)), draw(pairs(0, 3)), draw(pairs(1, 3))
    fields = {"kernel_size": kernel, "stride": stride, "pad": pad, "dilation": dilation}
    text = " ".join(f"{name}: [{y}, {x}]" for name, (y, x) in fields.items())
    bias = draw(st.sampled_from(["true", "false"]))
    return f"num_output: {outside * group} group: {group} bias_term: {bias} {text}", inside * group


@PROPERTIES
@given(sides=SIDES, drawn=sliding())
def test_convolution_over_random_windows(sides: tuple[int, int, int], drawn: tuple[str, int]) -> None:
    parameters, channels = drawn
    all_forms_agree(one("Convolution", f"convolution_param {{ {parameters} }}"), (sides[0], channels, *sides[1:]))


def test_depthwise_convolution_that_strides_and_dilates() -> None:
    all_forms_agree(
        one("Convolution", CONVOLUTION.format("kernel_size: 3 stride: 2 dilation: 2 group: 4")), (1, 4, 9, 9)
    )


@PROPERTIES
@given(sides=SIDES, drawn=sliding())
def test_deconvolution_over_random_windows(sides: tuple[int, int, int], drawn: tuple[str, int]) -> None:
    parameters, channels = drawn
    all_forms_agree(one("Deconvolution", f"convolution_param {{ {parameters} }}"), (sides[0], channels, *sides[1:]))


@settings(PROPERTIES, max_examples=100)
@given(sides=SIDES, height=st.integers(1, 4), method=st.sampled_from(["MAX", "AVE"]))
def test_pyramids_over_random_sizes(sides: tuple[int, int, int], height: int, method: str) -> None:
    parameters = f"spp_param {{ pyramid_height: {height} pool: {method} }}"
    want = all_forms_agree(one("SPP", parameters), (sides[0], 2, *sides[1:]))
    assert want["y"].size == sides[0] * 2 * (4**height - 1) // 3


@settings(PROPERTIES, max_examples=100)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5).map(tuple),
    axis=st.integers(-5, 4),
    largest=st.integers(1, 3),
    out=st.booleans(),
    repeated=st.booleans(),
)
def test_argmax_over_random_shapes(shape: tuple[int, ...], axis: int, largest: int, out: bool, repeated: bool) -> None:
    assume(-len(shape) <= axis < len(shape))
    layers = one("ArgMax", f"argmax_param {{ axis: {axis} top_k: {largest} out_max_val: {str(out).lower()} }}")
    layers += one("ArgMax", f"argmax_param {{ top_k: {largest} out_max_val: {str(out).lower()} }}", top="z")
    all_forms_agree(
        one("Threshold", top="t") + layers.replace('bottom: "x"', 'bottom: "t"') if repeated else layers, shape
    )
