"""The cast of nets with layers of forks: what slides, what keeps one size, and what is refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from conversion import cast, evaluate, load_network, to_tensorflow
from conversion.errors import CastError, NetworkError
from conversion.layers.item_norms import BN
from conversion.net.geometry import receptive_field
from conversion.net.network import Network, learned, to_definition
from conversion.passes.dilate import dilate
from conversion.passes.rounding import find_misfit
from conversion.surgery import random_parameters
from tests.support.definitions import convolution, data, inner_product, layer, pooling
from tests.support.definitions import network as bare
from tests.support.field import caffe_files

MAP = data(1, 3, 8, 8) + convolution("c", "data", "num_output: 4 kernel_size: 3 pad: 1")


def network(text: str) -> Network:
    return random_parameters(bare(text), 1)


def image(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((1, 3, height, width))


@pytest.mark.parametrize(
    "norm",
    [
        layer("Normalize", "n", "ip", norm_param="channel_shared: true"),
        layer("Normalize", "n", "ip", norm_param="across_spatial: false channel_shared: false"),
        layer("L2Norm", "n", "ip"),
        layer("L2Norm", "n", "ip", norm_param="across_spatial: true"),
        layer("ShuffleChannel", "n", "ip", shuffle_channel_param="group: 3"),
        layer("CReLU", "n", "ip", crelu_param="concat_axis: -1"),
        layer("BN", "n", "ip", bn_param="frozen: true"),
        layer("BN", "n", "ip", bn_param="bn_mode: INFERENCE"),
        layer("HardSwish", "n", "ip"),
    ],
    ids=lambda text: text[:70],
)
@pytest.mark.parametrize("pooled", [False, True])
def test_layers_on_vectors_do_the_same_at_every_position(norm: str, pooled: bool):
    pool = pooling("p", "c", "pool: AVE global_pooling: true") + layer(
        "Squeeze", "s", "p", squeeze_param="axis: [2, -1]"
    )
    text = MAP + (pool if pooled else "")
    text += inner_product("ip", "s" if pooled else "c", "num_output: 6") + norm
    classifier = network(text + inner_product("last", "n", "num_output: 5"))
    dense = cast(classifier)
    large = image(10, 11)
    found = evaluate(dense, {"data": large})["last-conv"]
    assert found.shape == (1, 5, 3, 4)
    trunk = evaluate(dense, {"data": large})["c"]
    for y, x in ((0, 0), (2, 3)):
        head = {"data": trunk[..., y : y + 8, x : x + 8]}
        assert_head(classifier, head, found[..., y, x])


def assert_head(classifier: Network, head: dict[str, np.ndarray], expected: np.ndarray) -> None:
    """The layers after `c`, on a window of it."""
    blobs = {"c": head["data"]}
    for one in classifier.layers[2:]:
        parameters = [blob.astype(np.float64) for blob in classifier.parameters.get(one.name, ())]
        blobs.update(zip(one.tops, one.reference([blobs[bottom] for bottom in one.bottoms], parameters), strict=True))
    np.testing.assert_allclose(blobs["last"], expected, rtol=1e-6)


def test_a_norm_of_the_only_position_slides():
    text = (
        MAP
        + pooling("p", "c", "pool: AVE global_pooling: true")
        + layer("Normalize", "n", "p", norm_param="channel_shared: true")
    )
    dense = cast(network(text))
    assert dense.layer("n").definition.norm_param.across_spatial is False
    top = evaluate(dense, {"data": image(9, 10)})["n"]
    assert top.shape == (1, 4, 2, 3)
    np.testing.assert_allclose((top**2).sum(axis=1), (top**2).sum(axis=1).mean(), rtol=1e-6)
    whole = cast(network(MAP + layer("Normalize", "n", "c", norm_param="across_spatial: true")))
    with pytest.raises(NetworkError, match="do not correspond to pixels"):
        receptive_field(whole, "n")


SEGNET = (
    data(1, 3, 10, 14)
    + convolution("c1", "data", "num_output: 4 kernel_size: 3 pad: 1")
    + layer("Pooling", "p1", "c1", "p1 m1", pooling_param="kernel_size: 2 stride: 2")
    + convolution("c2", "p1", "num_output: 4 kernel_size: 3 pad: 1")
    + layer("Pooling", "p2", "c2", "p2 m2", pooling_param="kernel_size: 2 stride: 2")
    + layer("Upsample", "u2", "p2 m2", upsample_param="STATED")
    + convolution("d2", "u2", "num_output: 4 kernel_size: 3 pad: 1")
    + layer("Upsample", "u1", "d2 m1", upsample_param="scale: 2")
    + convolution("d1", "u1", "num_output: 5 kernel_size: 3 pad: 1")
)


@pytest.mark.parametrize("stated", ["scale: 2 pad_out_h: true pad_out_w: true", "upsample_h: 5 upsample_w: 7"])
def test_upsampling_by_mask_fits_at_every_size(stated: str):
    """At sizes that pooling rounds too: there a stated size would put values into other rows."""
    classifier = network(SEGNET.replace("STATED", stated))
    dense = cast(classifier)
    own = image(10, 14)
    np.testing.assert_array_equal(evaluate(dense, {"data": own})["d1"], evaluate(classifier, {"data": own})["d1"])
    for height, width in ((11, 9), (12, 16), (13, 14)):
        blobs = evaluate(dense, {"data": image(height, width)})
        assert blobs["d1"].shape[2:] == (height, width)
        placed = blobs["u1"][blobs["u1"] != 0]
        assert len(placed) == blobs["d2"].size
        tensors = to_tensorflow(dense)({"data": image(height, width).astype(np.float32)})
        np.testing.assert_allclose(tensors["d1"], blobs["d1"], atol=1e-5)
    geometry = receptive_field(dense, "d1")
    assert geometry.stride == (1, 1)
    assert geometry.offset == (0, 0)
    again = bare(str(to_definition(dense)))
    assert again.shapes == dense.shapes


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("Upsample", {"upsample_param": "scale: 2"}),
        ("UpsampleDarknet", {"upsample_darknet_param": "stride: 2"}),
        (
            "ResizeNearestNeighbor",
            {"resize_nearest_neighbor_param": 'data_format: "NCHW" scale_height: 2 scale_width: 2'},
        ),
    ],
    ids=["Upsample", "UpsampleDarknet", "ResizeNearestNeighbor"],
)
@pytest.mark.parametrize("join", ["Concat", "Eltwise"])
def test_repeated_cells_fit_at_every_size(kind: str, fields: dict[str, str], join: str):
    """As YOLO v3 joins them: at a size that its stride does not divide there are cells too many."""
    text = MAP + convolution("d", "c", "num_output: 4 kernel_size: 3 stride: 2 pad: 1")
    text += layer(kind, "u", "d", **fields) + layer("ReLU", "r", "u", "u") + layer(join, "j", "u c")
    classifier = network(text)
    dense = cast(classifier)
    own = {"data": image(8, 8)}
    np.testing.assert_array_equal(evaluate(dense, own)["j"], evaluate(classifier, own)["j"])
    assert find_misfit(dense) is None
    odd = {"data": image(11, 13)}
    blobs = evaluate(dense, odd)
    assert blobs["j"].shape[2:] == (11, 13)
    np.testing.assert_array_equal(blobs["u-cut"], blobs["u"][:, :, :11, :13])
    even = {"data": image(12, 14)}
    np.testing.assert_array_equal(evaluate(dense, even)["j"], evaluate(classifier, even)["j"])
    assert receptive_field(dense, "j").stride == (1, 1)
    assert cast(dense) is not classifier
    assert [one.name for one in cast(dense).layers] == [one.name for one in dense.layers]


def test_enlarged_maps_fit_at_every_size():
    """As ICNet joins them, with a convolution between."""
    text = MAP.replace("dim: 8 dim: 8", "dim: 9 dim: 9")
    text += convolution("d", "c", "num_output: 4 kernel_size: 3 stride: 2 pad: 1")
    text += layer("Interp", "u", "d", interp_param="zoom_factor: 2")
    text += convolution("v", "u", "num_output: 4 kernel_size: 3 pad: 2 dilation: 2") + layer("Eltwise", "j", "v c")
    classifier = network(text)
    dense = cast(classifier)
    assert find_misfit(dense) is None
    for size in ((9, 9), (13, 11)):
        blobs = {"data": image(*size)}
        np.testing.assert_array_equal(evaluate(dense, blobs)["j"], evaluate(classifier, blobs)["j"])
    even = evaluate(dense, {"data": image(12, 14)})
    assert even["j"].shape[2:] == (11, 13)
    np.testing.assert_array_equal(even["c-cut"], even["c"][:, :, :11, :13])


def test_a_map_that_is_joined_twice_fits_at_every_size():
    text = MAP + pooling("small", "c", "pool: MAX kernel_size: 2 stride: 2")
    text += layer("Upsample", "u", "small", upsample_param="scale: 2")
    text += layer("Concat", "both", "u c") + layer("Eltwise", "sum", "u c")
    dense = cast(network(text))
    shapes = dense.shapes_at({"data": (1, 3, 33, 35)})
    assert shapes["both"] == (1, 8, 33, 35)
    assert shapes["sum"] == (1, 4, 33, 35)


def test_padding_has_the_geometry_of_the_pads_of_a_convolution():
    padded = data(1, 3, 16, 16) + layer("Padding", "p", "data", padding_param="pad_b: 2 pad_r: 2")
    apart = network(padded + convolution("c", "p", "num_output: 4 kernel_size: 3 stride: 2"))
    together = network(
        data(1, 3, 16, 16) + convolution("c", "data", "num_output: 4 kernel_size: 3 stride: 2 pad_b: 2 pad_r: 2")
    )
    assert receptive_field(apart, "c") == receptive_field(together, "c")


def test_places_of_resized_cells():
    """Cells of an upsampled map stand for the pixels that change them."""
    text = data(1, 1, 12, 12) + pooling("p", "data", "pool: AVE kernel_size: 2 stride: 2")
    parameters = {
        "Upsample": "upsample_param { scale: 2 }",
        "UpsampleDarknet": "upsample_darknet_param { stride: 3 }",
        "Interp": "interp_param { zoom_factor: 3 }",
        "PixelShuffle": "pixelshuffle_param { upscale_factor: 1 }",
        "ResizeNearestNeighbor": 'resize_nearest_neighbor_param { data_format: "NCHW" scale_height: 2 scale_width: 3 }',
        "ResizeBilinear": 'resize_bilinear_param { data_format: "NCHW" scale_height: 2 scale_width: 4 '
        "half_pixel_centers: true }",
    }
    for kind, fields in parameters.items():
        subject = bare(text + f'layer {{ name: "u" type: "{kind}" bottom: "p" top: "u" {fields} }}')
        for blob, expected in changed(subject, "u").items():
            geometry = receptive_field(subject, "u")
            for axis, (first, last) in zip((geometry.y, geometry.x), expected, strict=True):
                field = axis.field(blob)
                assert field[0] <= first, (kind, blob)
                assert last < field[1], (kind, blob)
                assert last - first + 1 <= axis.receptive_field
        cells = subject.shapes["u"][2] - 1
        middle = (geometry.y.center(0) + geometry.y.center(cells)) / 2
        # ends of the image are as far from the first cell as from the last one, unless cells begin at its corners
        assert kind == "Interp" or middle == 5.5, kind


def changed(subject: Network, blob: str) -> dict[int, tuple[tuple[int, int], tuple[int, int]]]:
    """By cell on the diagonal, the first and last row and column of the image that change it."""
    base = image(12, 12)[:, :1]
    before = evaluate(subject, {"data": base})[blob]
    moved = np.zeros((*before.shape[2:], 12, 12), bool)
    for y in range(12):
        for x in range(12):
            other = base.copy()
            other[0, 0, y, x] += 1
            moved[..., y, x] = evaluate(subject, {"data": other})[blob][0, 0] != before[0, 0]
    result = {}
    for cell in range(min(before.shape[2:])):
        rows, columns = (np.flatnonzero(moved[cell, cell].any(axis=axis)) for axis in (1, 0))
        result[cell] = ((rows[0], rows[-1]), (columns[0], columns[-1]))
    return result


def test_a_fixed_size_or_mixed_positions_have_no_geometry():
    for one in (
        layer("Interp", "u", "c", interp_param="height: 20 width: 20"),
        layer("Reorg", "u", "c", reorg_param="stride: 2"),
        layer("Permute", "u", "c", permute_param="order: [0, 2, 3, 1]"),
        layer("Upsample", "u", "c c", upsample_param="upsample_h: 20 upsample_w: 20"),
        layer("ResizeBilinear", "u", "c", resize_bilinear_param="output_height: 9 output_width: 9"),
        layer("SpaceToBatchND", "u", "c", space_to_batch_nd_param="block_shape: 2 paddings: [0, 0]"),
    ):
        with pytest.raises(NetworkError, match="do not correspond to pixels"):
            receptive_field(cast(bare(MAP + one)), "u")


REFUSED = {
    "excitation by Axpy": (
        MAP + pooling("p", "c", "pool: AVE global_pooling: true") + layer("Axpy", "a", "p c c"),
        "accepts one size only",
    ),
    "excitation by Scale": (
        MAP
        + pooling("p", "c", "pool: AVE global_pooling: true")
        + layer("Reshape", "r", "p", reshape_param="shape { dim: 0 dim: -1 }")
        + layer("Scale", "s", "c r", scale_param="axis: 0"),
        "squeeze-and-excitation",
    ),
    "a pyramid of fixed sizes": (
        MAP
        + pooling("p", "c", "pool: AVE kernel_size: 8 stride: 8")
        + layer("Interp", "i", "p", interp_param="height: 8 width: 8")
        + layer("Concat", "cat", "c i"),
        "accepts one size only",
    ),
    "an InnerProduct of permuted positions": (
        MAP
        + layer("Permute", "q", "c", permute_param="order: [0, 2, 3, 1]")
        + inner_product("ip", "q", "num_output: 2"),
        "a Permute moved",
    ),
    "an InnerProduct of their vector": (
        MAP
        + layer("Permute", "q", "c", permute_param="order: [0, 2, 3, 1]")
        + layer("Flatten", "f", "q")
        + inner_product("ip", "f", "num_output: 2"),
        "has joined the positions",
    ),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_dense_form_is_refused(text: str, message: str):
    with pytest.raises(CastError) as caught:
        cast(bare(text))
    assert message in str(caught.value)


def test_flattened_boxes_stay_flat():
    """SSD's heads: permuted, flattened and joined. They have no positions, but any number of them."""
    head = layer("Permute", "q", "c", permute_param="order: [0, 2, 3, 1]") + layer("Flatten", "f", "q")
    second = pooling("p", "c", "kernel_size: 2 stride: 2") + head.replace('"c"', '"p"').replace('"q"', '"r"')
    text = MAP + head + second.replace('"f"', '"g"') + layer("Concat", "boxes", "f g")
    classifier = network(text)
    dense = cast(classifier)
    for side in (8, 12):
        blobs = evaluate(dense, {"data": image(side, side)})
        assert blobs["boxes"].shape == (1, 4 * (side**2 + (side // 2) ** 2))
        np.testing.assert_array_equal(blobs["boxes"][0, :4], blobs["c"][0, :, 0, 0])


def test_finer_maps_stop_at_layers_that_resize():
    trunk = MAP + pooling("p", "c", "kernel_size: 2 stride: 2")
    pointwise = layer("Mish", "a", "p") + layer("Normalize", "b", "a", norm_param="across_spatial: false")
    assert receptive_field(dilate(bare(trunk + pointwise), 1)).stride == (1, 1)
    resized = layer("Interp", "i", "p", interp_param="zoom_factor: 2") + pooling("q", "i", "kernel_size: 4 stride: 4")
    subject = dataclasses.replace(bare(trunk + resized))
    with pytest.raises(CastError, match="cannot be part of a finer map"):
        dilate(subject, 1)


def test_excitation_as_a_public_net_has_it():
    """It loads with its weights, and computes what its authors state; a map of it is refused."""
    classifier = load_network(*caffe_files("a13_axpy"))
    blobs = evaluate(classifier, {"data": image(14, 14) * 60})
    np.testing.assert_array_equal(blobs["sc"], blobs["up"] * blobs["c"] + blobs["c"])
    with pytest.raises(CastError, match="accepts one size only"):
        cast(classifier)


def test_batch_normalization_of_pspnet_loads():
    classifier = load_network(caffe_files("a15_bn_param")[0])
    assert [shape for one, shapes in learned(classifier) if one.name == "bn" for shape in shapes] == [(1, 4, 1, 1)] * 4
    dense = cast(random_parameters(classifier))
    assert evaluate(dense, {"data": image(14, 13)})["prob"].shape == (1, 3, 3, 2)


@pytest.mark.parametrize("fields", ["bn_mode: INFERENCE", "bn_mode: LEARN", "eps: 0.125"])
def test_stored_weights_mean_the_same_blobs(fields: str):
    subject = network(MAP + layer("BN", "bn", "c", bn_param=fields))
    one, blobs = subject.layer("bn"), subject.parameters["bn"]
    assert isinstance(one, BN)
    stored = one.prepare(blobs)
    again = dataclasses.replace(subject, parameters={**subject.parameters, "bn": tuple(one.restore(stored))})
    x = {"data": image(8, 8)}
    np.testing.assert_allclose(evaluate(again, x)["bn"], evaluate(subject, x)["bn"], rtol=1e-5, atol=1e-6)


def test_random_weights_keep_normalized_nets_finite():
    """Random numbers are not variances, and scales near 0 leave nothing of a deep net."""
    block = (
        layer("BatchNorm", "n#", "@", "@")
        + layer("Scale", "s#", "@", "@")
        + layer("BN", "b#", "@", "@", bn_param="eps: 0.1")
    )
    text = MAP + "".join(block.replace("#", str(i)).replace("@", "c") for i in range(6))
    top = evaluate(network(text), {"data": image(8, 8)})["c"]
    assert np.isfinite(top).all()
    assert 0.05 < top.std() < 20
