"""The cast of every kind of head, and which pixels its cells stand for."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest

from conversion import cast, convert, evaluate, load_network, receptive_field, save, to_tensorflow
from conversion.caffe.caffe_pb2 import NetParameter
from conversion.errors import CastError, ConversionError, NetworkError
from conversion.export.savedmodel import load_savedmodel
from conversion.export.verification import relative_error
from conversion.net.build import build
from conversion.net.network import Network, to_definition
from conversion.passes.bypass_flatten import bypass_flatten
from conversion.passes.cast import PASSES
from conversion.passes.fit_upsampled import fit_upsampled
from conversion.passes.inner_products import inner_products_to_convolutions
from conversion.passes.keep_positions import keep_positions
from conversion.passes.pooled_sizes import sizes_of_pooled_maps
from conversion.passes.positional_norms import norms_of_positions
from conversion.passes.prune import prune
from conversion.passes.reductions import reductions_to_poolings
from conversion.passes.slide_windows import slide_whole_windows
from models import entry
from tests.support.definitions import CLASSIFIER, convolution, data, inner_product, layer, network, pooling
from tests.support.golden_cases import GOLDEN

# The blob that the head reads, and how much larger than the training size the image of the test is.
TRUNKS = {
    "caffenet_small": ("pool5", (70, 40)),
    "googlenet_piece": ("inception_3b/output", (23, 17)),
    "squeezenet_piece": ("conv10", (21, 30)),
    "resnet_piece": ("res3b", (25, 16)),
    "mobilenet_piece": ("conv3_sep", (9, 14)),
    "densenet_piece": ("tr_pool", (9, 6)),
    "vgg_piece": ("pool3", (17, 24)),
}


def golden(name: str) -> Network:
    folder = GOLDEN / "nets" / name
    return load_network(folder / "net.prototxt", folder / "net.caffemodel")


def head_of(classifier: Network, trunk: str) -> Network:
    """The layers after the last one that writes `trunk`, which becomes their input."""
    last = max(i for i, one in enumerate(classifier.layers) if trunk in one.tops)
    definition = NetParameter()
    first = definition.layer.add(name=trunk, type="Input", top=[trunk])
    first.input_param.shape.add(dim=classifier.shapes[trunk])
    definition.layer.extend(one.definition for one in classifier.layers[last + 1 :])
    return build(definition, classifier.parameters)


def assert_slides(classifier: Network, trunk: str, more: tuple[int, int], batch: int = 1) -> Network:
    """Equal to the classifier at its size; on a larger image equal to its head on every window of the dense trunk."""
    dense = cast(classifier)
    ((blob, shape),) = classifier.inputs.items()
    output = classifier.outputs[-1]
    found = output if output in dense.shapes else f"{output}-conv"
    rng = np.random.default_rng(0)
    image = rng.standard_normal((batch, shape[1], shape[2] + more[0], shape[3] + more[1])) * 50
    crop = image[..., : shape[2], : shape[3]]
    expected = evaluate(classifier, {blob: crop})[output]
    same = evaluate(dense, {blob: crop})[found]
    assert same.shape[2:] == (1, 1)
    np.testing.assert_allclose(same.reshape(expected.shape), expected, rtol=2e-7, atol=1e-12)

    blobs = evaluate(dense, {blob: image})
    assert relative_error(to_tensorflow(dense)({blob: image.astype(np.float32)})[found].numpy(), blobs[found]) < 1e-4
    head = head_of(classifier, trunk)
    height, width = classifier.shapes[trunk][2:]
    rows, columns = (n - k + 1 for n, k in zip(blobs[trunk].shape[2:], (height, width), strict=True))
    assert blobs[found].shape[2:] == (rows, columns)
    assert rows > 1
    assert columns > 1
    for y in range(rows):
        for x in range(columns):
            window = blobs[trunk][:, :, y : y + height, x : x + width]
            cell = evaluate(head, {trunk: window})[output].reshape(batch, -1)
            np.testing.assert_allclose(blobs[found][:, :, y, x], cell, rtol=2e-7, atol=1e-12)
    return dense


@pytest.mark.parametrize("name", TRUNKS)
def test_golden_nets_slide(name: str):
    """NiN's, GoogLeNet's, ResNet's, MobileNet's, VGG's and CaffeNet's ways to end."""
    trunk, more = TRUNKS[name]
    dense = assert_slides(golden(name), trunk, more)
    assert not {"InnerProduct", "Flatten"} & {one.caffe_type for one in dense.layers}


# --- heads that no golden net has: layers after the trunk "t", which is 5x4 at the training size

TRUNK = data(1, 2, 11, 9) + convolution("t", "data", "num_output: 4 kernel_size: 3 stride: 2 pad: 0")
FLAT = layer("Flatten", "flat", "t")
HEADS = {
    "reshape": layer("Reshape", "flat", "t", reshape_param="shape { dim: 0 dim: -1 }")
    + inner_product("fc", "flat", "num_output: 3"),
    "reshape with numbers": layer("Reshape", "flat", "t", reshape_param="shape { dim: 1 dim: 80 }")
    + inner_product("fc", "flat", "num_output: 3 axis: -1"),
    "flatten changed in place": FLAT
    + layer("ReLU", "r", "flat", "flat")
    + layer("Dropout", "d", "flat", "flat")
    + inner_product("fc", "flat", "num_output: 3"),
    "flatten of a flatten": FLAT + layer("Flatten", "again", "flat") + inner_product("fc", "again", "num_output: 3"),
    "two flattened branches": convolution("u", "t", "num_output: 2 kernel_size: 1")
    + FLAT
    + layer("Flatten", "flat2", "u")
    + layer("Concat", "both", "flat flat2", concat_param="axis: -1")
    + inner_product("fc", "both", "num_output: 3 transpose: true"),
    "concat of maps": convolution("u", "t", "num_output: 2 kernel_size: 1")
    + layer("Concat", "both", "t u")
    + inner_product("fc", "both", "num_output: 3"),
    "three inner products with layers between": inner_product("a", "t", "num_output: 6")
    + layer("BatchNorm", "bn", "a", "a")
    + layer("Scale", "sc", "a", "a", scale_param="bias_term: true axis: -1")
    + layer("PReLU", "pr", "a", "a")
    + inner_product("b", "a", "num_output: 6")
    + layer("Eltwise", "e", "a b")
    + layer("Concat", "c", "e a", concat_param="concat_dim: 1")
    + layer("Bias", "bi", "c", "c")
    + inner_product("fc", "c", "num_output: 3"),
    "global mean": pooling("p", "t", "pool: AVE global_pooling: true") + inner_product("fc", "p", "num_output: 3"),
    "global maximum": pooling("p", "t", "pool: MAX global_pooling: true") + layer("Flatten", "fc", "p"),
    "kernel of the map, stride of the map": pooling(
        "p", "t", "pool: AVE kernel_h: 5 kernel_w: 4 stride_h: 5 stride_w: 4"
    )
    + layer("Reshape", "fc", "p", reshape_param="shape { dim: 0 dim: -1 }"),
    "kernel beyond the map": pooling("p", "t", "pool: AVE kernel_size: 6 stride: 6")
    + inner_product("fc", "p", "num_output: 3"),
    "mean that counts padding": pooling("p", "t", "pool: AVE kernel_size: 6 stride: 6 pad: 1")
    + layer("ReLU", "r", "p", "p")
    + inner_product("fc", "p", "num_output: 3"),
    "maximum with padding": pooling("p", "t", "pool: MAX kernel_size: 6 stride: 6 pad: 1")
    + inner_product("fc", "p", "num_output: 3"),
    "reduction mean": layer("Reduction", "p", "t", reduction_param="operation: MEAN axis: 2")
    + inner_product("fc", "p", "num_output: 3"),
    "reduction sum with a coefficient": layer("Reduction", "p", "t", reduction_param="axis: -2 coeff: 0.5")
    + layer("Softmax", "fc", "p", softmax_param="axis: -1"),
    "pooling, flatten, scale and softmax": pooling("p", "t", "pool: AVE global_pooling: true")
    + layer("Flatten", "f", "p")
    + layer("BatchNorm", "bn", "f", "f")
    + layer("Scale", "sc", "f", "f", scale_param="num_axes: -1")
    + layer("Softmax", "fc", "f", softmax_param="axis: -1"),
    "convolution after global pooling": pooling("p", "t", "pool: AVE global_pooling: true")
    + convolution("c", "p", "num_output: 3 kernel_size: 1")
    + layer("Reshape", "fc", "c", reshape_param="shape { dim: 1 dim: 3 dim: 1 dim: 1 }"),
    "reshape of a vector to a map of one cell": inner_product("a", "t", "num_output: 6")
    + layer("Reshape", "r", "a", reshape_param="shape { dim: 0 dim: 6 dim: 1 dim: 1 }")
    + convolution("fc", "r", "num_output: 3 kernel_size: 1"),
    "convolution with the stride of the map": convolution("c", "t", "num_output: 3 kernel_h: 5 kernel_w: 4 stride: 4")
    + layer("Flatten", "fc", "c"),
    "class with the best score": inner_product("fc1", "t", "num_output: 3") + layer("ArgMax", "fc", "fc1"),
    "second best class": inner_product("fc1", "t", "num_output: 3")
    + layer("ArgMax", "fc", "fc1", argmax_param="axis: -1 top_k: 2"),
    "sliced vector": inner_product("a", "t", "num_output: 6")
    + layer("Slice", "s", "a", "b c", slice_param="axis: -1 slice_point: 2")
    + layer("Silence", "quiet", "b", "")
    + inner_product("fc", "c", "num_output: 3"),
    "vectors multiplied": inner_product("a", "t", "num_output: 3")
    + inner_product("b", "t", "num_output: 3")
    + layer("Scale", "fc", "a b", scale_param="axis: 0"),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_heads_slide(head: str):
    classifier = network(TRUNK + head, seed=5)
    classifier = dataclasses.replace(  # a variance is positive
        classifier,
        parameters={n: tuple(abs(b) if n == "bn" else b for b in v) for n, v in classifier.parameters.items()},
    )
    assert_slides(classifier, "t", (6, 8))
    text = to_definition(cast(classifier))
    assert to_definition(cast(build(text))) == text


# --- each pass, where it applies and where it must not


def test_order_of_passes():
    """Windows while shapes are the classifier's; what flattens before what reads a map."""
    order = (
        slide_whole_windows,
        sizes_of_pooled_maps,
        fit_upsampled,
        norms_of_positions,
        reductions_to_poolings,
        bypass_flatten,
        keep_positions,
        inner_products_to_convolutions,
    )
    assert order == PASSES


def test_global_pooling_becomes_the_training_map():
    """SqueezeNet at 227 has a map of 14x14; that size stays, whatever the image."""
    dense = cast(load_network(entry("squeezenet_1_1").definition))
    pool = dense.layer("pool10").definition.pooling_param
    assert (pool.kernel_size, pool.stride, pool.global_pooling) == (14, 1, False)
    assert dense.shapes_at({"data": (1, 3, 227, 227)})["prob"] == (1, 1000, 1, 1)
    assert dense.shapes_at({"data": (1, 3, 227 + 32, 227 + 16)})["prob"] == (1, 1000, 3, 2)


WINDOWS_THAT_STAY = {
    "not the whole map": "pool: AVE kernel_size: 4 stride: 4",
    "one cell that does not see all": "kernel_size: 2 stride: 5 round_mode: FLOOR",
    "already right": "pool: AVE kernel_h: 5 kernel_w: 4",
    "whole along one axis": "kernel_h: 5 kernel_w: 2 stride: 2",
}


@pytest.mark.parametrize("parameters", WINDOWS_THAT_STAY.values(), ids=WINDOWS_THAT_STAY)
def test_windows_that_stay(parameters: str):
    subject = network(TRUNK + pooling("p", "t", parameters))
    assert slide_whole_windows(subject) is subject


def test_strided_convolution_that_stays():
    """Its window is smaller than the map: another stride would give another map at the training size."""
    subject = network(TRUNK + convolution("c", "t", "num_output: 2 kernel_size: 4 stride: 3"))
    assert subject.shapes["c"][2:] == (1, 1)
    assert slide_whole_windows(subject) is subject


def test_reduction_of_something_else_stays():
    subject = network(TRUNK + layer("Reduction", "p", "t", reduction_param="operation: MEAN axis: 1"))
    assert reductions_to_poolings(subject) is subject


def test_flatten_of_some_axes_stays():
    subject = network(TRUNK + layer("Flatten", "f", "t", flatten_param="axis: 2"))
    assert keep_positions(subject) is subject


def test_flatten_without_readers_keeps_its_name():
    after = keep_positions(network(TRUNK + FLAT))
    assert after.layer("flat").caffe_type == "Split"
    assert after.shapes["flat"] == (1, 4, 5, 4)


SQUEEZE = (
    pooling("p", "t", "pool: AVE global_pooling: true")
    + inner_product("s", "p", "num_output: 4")
    + layer("Sigmoid", "g", "s", "s")
)
REFUSED = {
    "squeeze and excitation": (SQUEEZE + layer("Scale", "fc", "t s", scale_param="axis: 0"), "'fc'", "do not corr"),
    "statistics of each position": (FLAT + layer("BatchNorm", "fc", "flat"), "'fc'", "flattened map of 5x4"),
    "scale of each position": (FLAT + layer("Scale", "fc", "flat"), "'fc'", "flattened map of 5x4"),
    "slope of each position": (FLAT + layer("PReLU", "fc", "flat"), "'fc'", "flattened map of 5x4"),
    "softmax over positions": (FLAT + layer("Softmax", "fc", "flat"), "'fc'", "flattened map of 5x4"),
    "slice of positions": (FLAT + layer("Slice", "fc", "flat", "a b"), "'fc'", "flattened map of 5x4"),
    "batch statistics": (
        inner_product("a", "t", "num_output: 4")
        + layer("BatchNorm", "fc", "a", batch_norm_param="use_global_stats: false"),
        "'fc'",
        "no form that does the same at every position",
    ),
    "tile": (
        inner_product("a", "t", "num_output: 4") + layer("Tile", "fc", "a", tile_param="tiles: 2"),
        "'fc'",
        "flat",
    ),
    "vector back to a map": (
        inner_product("a", "t", "num_output: 8")
        + layer("Reshape", "fc", "a", reshape_param="shape { dim: 0 dim: 2 dim: 2 dim: 2 }"),
        "'fc'",
        r"makes \(1, 2, 2, 2\)",
    ),
    "sum of magnitudes": (
        layer("Reduction", "fc", "t", reduction_param="operation: ASUM axis: 2"),
        "'fc'",
        "operation ASUM",
    ),
    "values for each item": (
        inner_product("a", "t", "num_output: 8") + layer("Scale", "fc", "a", scale_param="axis: 0"),
        "'fc'",
        "axis 0",
    ),
    "best value of all": (
        inner_product("a", "t", "num_output: 8") + layer("ArgMax", "fc", "a", argmax_param="out_max_val: true"),
        "'fc'",
        "no axis",
    ),
    "vectors of maps of two sizes": (
        pooling("p", "t", "kernel_size: 2 stride: 2")
        + layer("Flatten", "f2", "p")
        + FLAT
        + layer("Concat", "fc", "flat f2"),
        "'fc'",
        "do not correspond",
    ),
    "heads that slide by other strides": (
        pooling("p", "t", "kernel_size: 2 stride: 2")
        + inner_product("a", "p", "num_output: 4")
        + inner_product("b", "t", "num_output: 4")
        + layer("Eltwise", "fc", "a b"),
        "'fc'",
        "different shapes",
    ),
}


@pytest.mark.parametrize(("head", "where", "what"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_dense_form_is_refused(head: str, where: str, what: str):
    """By name, with the reason: a cast that nearly fits would give maps of something else."""
    with pytest.raises(CastError, match=what) as caught:
        cast(network(TRUNK + head))
    assert where in caught.value.where
    assert caught.value.why


# --- several heads

TWO_HEADS = (
    TRUNK
    + layer("ReLU", "r", "t", "t")
    + inner_product("aux", "t", "num_output: 3")
    + layer("Softmax", "prob1", "aux")
    + pooling("p", "t", "pool: AVE global_pooling: true")
    + inner_product("fc", "p", "num_output: 3")
    + layer("Softmax", "prob", "fc")
)


def test_every_head_is_cast_and_one_can_be_kept():
    classifier = network(TWO_HEADS, seed=1)
    both = cast(classifier)
    assert both.outputs == ("prob1", "prob")
    one = prune(both, ["prob"])
    assert one.outputs == ("prob",)
    assert set(one.parameters) == {"t", "fc-conv"}
    assert one.notes == ("left out, not needed for prob: aux-conv, prob1",)
    image = {"data": np.random.default_rng(0).standard_normal((1, 2, 17, 15))}
    np.testing.assert_array_equal(evaluate(one, image)["prob"], evaluate(both, image)["prob"])
    assert prune(one, ["prob"]) is one


def test_prune_keeps_what_writes_shared_memory():
    """The ReLU works in place on a copy that shares the memory of the blob that is wanted."""
    subject = network(
        TRUNK + layer("Split", "s", "t", "u v") + layer("ReLU", "r", "u", "u") + layer("AbsVal", "a", "v")
    )
    assert [one.name for one in prune(subject, ["v"]).layers] == ["data", "t", "s", "r"]


def test_prune_suggests_a_name():
    with pytest.raises(NetworkError, match="no blob 'probs'") as caught:
        prune(network(TWO_HEADS), ["probs"])
    assert caught.value.remedy == "nearest: prob, prob1"


def test_one_head_is_converted(tmp_path: Path):
    """GoogLeNet has three; a model has one map, and what only the others need is not in it."""
    net = network(TWO_HEADS.replace("dim: 2 dim: 11", "dim: 3 dim: 11"), seed=1)
    save(net, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    files = tmp_path / "net.prototxt", tmp_path / "net.caffemodel"
    with pytest.raises(ConversionError, match="2 outputs are class probabilities: prob1, prob") as caught:
        convert(*files, tmp_path / "model")
    assert "--output-blob prob, or output_blob in Python" in caught.value.remedy
    with pytest.raises(ConversionError, match="output 'fc' is not a map of class probabilities") as caught:
        convert(*files, tmp_path / "model", output_blob="fc")
    assert caught.value.remedy == "--output-blob takes prob1 or prob"
    model = convert(*files, tmp_path / "model", output_blob="prob1", features=["t"])
    assert model.output_blob == "prob1"
    assert model.features == {"t": 4}
    assert any("p, fc-conv, prob" in note for note in model.notes)
    loaded = load_savedmodel(tmp_path / "model")
    blobs = loaded.blobs(np.zeros((1, 11, 9, 3), np.uint8))
    assert set(blobs) == {"data", "t", "aux-conv", "prob1"}


def test_net_without_inner_products_offers_its_scores(tmp_path: Path):
    """SqueezeNet and NiN have no fc6: the blob that the Softmax reads is there."""
    text = data(1, 3, 11, 9) + convolution("c", "data", "num_output: 4 kernel_size: 3 stride: 2")
    text += pooling("p", "c", "pool: AVE global_pooling: true") + layer("Softmax", "prob", "p")
    save(network(text, seed=0), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    model = convert(tmp_path / "net.prototxt", tmp_path / "net.caffemodel", tmp_path / "model")
    assert model.features == {"p": 4}
    assert (model.geometry.y.window, model.geometry.x.window) == (11, 9)


# --- geometry


@pytest.mark.parametrize(
    ("name", "window", "stride", "field", "shift"),
    [
        ("caffenet", 227, 32, 355, 0),
        ("vgg16", 224, 32, 404, 0),
        ("googlenet", 224, 32, 907, 14.5),
        ("resnet50", 224, 32, 675, -13.5),
        ("squeezenet_1_1", 227, 16, 415, 6),
        ("nin", 224, 32, 355, 1.5),
    ],
)
def test_nominal_window_is_the_training_crop(name: str, window: int, stride: int, field: int, shift: float):
    """Cell 0 at the training size is the classifier on that crop; cell i is the crop i strides further on."""
    dense = cast(load_network(entry(name).definition))
    y = receptive_field(dense).y
    assert (y.window, y.stride, y.receptive_field, y.shift) == (window, stride, field, shift)
    assert y.span(0) == (0, window)
    assert y.span(3) == (3 * stride, 3 * stride + window)
    assert y.overhang(window, 1) == 0
    # The widest overhang of the last cell: where rounding up lets a window begin.
    cells = [dense.shapes_at({"data": (1, 3, n, n)})["prob"][2] for n in range(window, window + 2 * stride)]
    assert cells[0] == 1
    assert max(y.overhang(window + i, n) for i, n in enumerate(cells)) < stride


@pytest.mark.parametrize("name", ["googlenet_piece", "resnet_piece", "squeezenet_piece", "mobilenet_piece"])
def test_receptive_field_of_a_head_is_what_perturbed_rows_change(name: str):
    """Windows that are clipped or fall short make it lie off the crop's centre; a cell sees nothing beyond it."""
    dense = cast(golden(name))
    ((blob, shape),) = dense.inputs.items()
    geometry = receptive_field(dense, dense.outputs[-1])
    stride = int(geometry.y.stride)
    size = int(geometry.y.receptive_field) + 3 * stride
    rng = np.random.default_rng(1)
    image = rng.uniform(-1, 1, (1, shape[1], size, shape[3])).astype(np.float32) * 60
    module = to_tensorflow(dense)
    output = _scores(dense)
    plain = module({blob: image})[output].numpy()
    cell = geometry.y.interior(size, plain.shape[2])[0]
    first, end = (int(edge) for edge in geometry.y.field(cell))
    assert first >= 0
    for rows, seen in (
        (slice(0, first), False),
        (slice(end, size), False),
        (slice(first, first + stride), True),
        (slice(end - stride, end), True),
    ):
        changed = image.copy()
        changed[:, :, rows] = rng.uniform(-1, 1, changed[:, :, rows].shape) * 3000
        after = module({blob: changed})[output].numpy()
        assert (np.abs(after[:, :, cell] - plain[:, :, cell]).max() > 0) == seen, (rows, first, end)


def _scores(dense: Network) -> str:
    """The blob before the last Softmax: probabilities saturate."""
    return dense.layers[-1].bottoms[0]


def test_one_cell_along_one_axis_only():
    """A strip: the crop is known along the axis that it fills."""
    subject = cast(network(data(1, 2, 11, 40) + convolution("c", "data", "num_output: 3 kernel_size: 11 stride: 2")))
    field = receptive_field(subject, "c")
    assert field.nominal_window == (11, 11)
    assert field.stride == (2, 2)
    even = cast(network(data(1, 2, 12, 40) + convolution("c", "data", "num_output: 3 kernel_size: 11 stride: 2")))
    assert receptive_field(even, "c").nominal_window == (12, 11)
    assert (receptive_field(even, "c").y.shift, receptive_field(even, "c").x.shift) == (-0.5, 0)


def test_classifier_of_the_other_tests_is_symmetric():
    field = receptive_field(cast(network(CLASSIFIER)))
    assert field.nominal_window == (17, 17)
    assert (field.y.shift, field.x.shift) == (0, 0)
    assert math.isclose(float(field.y.offset), 8)
