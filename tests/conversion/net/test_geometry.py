"""Which pixels a cell stands for: the arithmetic against what perturbed pixels really change."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion import cast, evaluate, load_network, receptive_field
from conversion.caffe.caffe_pb2 import PoolingParameter
from conversion.errors import NetworkError
from conversion.net.build import build
from conversion.net.geometry import AxisGeometry
from conversion.net.network import Network, to_definition
from models import entry
from tests.support.definitions import CLASSIFIER, convolution, data, layer, network, pooling
from tests.support.field import caffe_files


@pytest.fixture(scope="module")
def caffenet() -> Network:
    return cast(load_network(entry("caffenet").definition))


def cells(subject: Network, size: int) -> int:
    return subject.shapes_at({"data": (1, 3, size, size)})["prob"][2]


# --- CaffeNet: the numbers that everyone knows


def test_caffenet(caffenet: Network):
    assert tuple(receptive_field(caffenet)) == ((32, 32), (113, 113), (227, 227), (355, 355))
    y = receptive_field(caffenet).y
    assert [y.center(i) for i in range(3)] == [113, 145, 177]
    assert y.span(0) == (0, 227)
    assert y.span(7) == (224, 451)
    assert y.field(0) == (-64, 291)
    assert tuple(receptive_field(caffenet, "pool5")) == ((32, 32), (33, 33), (67, 67), (195, 195))
    assert tuple(receptive_field(caffenet, "data")) == ((1, 1), (0, 0), (1, 1), (1, 1))


def test_caffenet_map_sizes_round_as_caffe_does(caffenet: Network):
    """Under floor 512 pixels give 9 cells, not 10, and 224 of 256 sizes another number."""
    message = to_definition(caffenet)
    for pool in message.layer:
        if pool.type == "Pooling":
            pool.pooling_param.round_mode = PoolingParameter.FLOOR
    floored = build(message)
    assert [cells(caffenet, size) for size in (227, 451, 512)] == [1, 8, 10]
    assert [cells(floored, size) for size in (227, 451, 512)] == [1, 8, 9]
    assert sum(cells(caffenet, size) != cells(floored, size) for size in range(256, 512)) == 224


def test_overhang_of_caffenet(caffenet: Network):
    """Caffe's rounding up lets the last nominal window reach past the image by 28 pixels at most."""
    y = receptive_field(caffenet).y
    overhangs = {size: y.overhang(size, cells(caffenet, size)) for size in range(227, 701)}
    assert max(overhangs.values()) == 28
    assert min(overhangs.values()) == 0
    assert overhangs[227] == overhangs[451] == 0
    assert overhangs[512] == 3


def test_cells_of_caffenet_that_no_padding_touches(caffenet: Network):
    """64 pixels of padding are seen at either side: two cells (CAFFE.md, tiles)."""
    y = receptive_field(caffenet).y
    assert y.interior(451, 8) == range(2, 6)
    assert y.interior(227, 1) == range(0)
    assert y.interior(355 + 32, cells(caffenet, 355 + 32)) == range(2, 4)


# --- the arithmetic against perturbed pixels


def eltwise(name: str, bottoms: str) -> str:
    return layer("Eltwise", name, bottoms)


def plain(size: int, layers: str, channels: int = 2) -> Network:
    return network(data(1, channels, size, size + 1) + layers, seed=3)


CONV = "num_output: 3 kernel_size: {} {}"
NETS = {
    "one pixel": convolution("top", "data", CONV.format(1, "")),
    "convolution": convolution("top", "data", CONV.format(3, "")),
    "even kernel": convolution("top", "data", CONV.format(4, "")),
    "stride": convolution("a", "data", CONV.format(3, "stride: 2")) + convolution("top", "a", CONV.format(3, "")),
    "padding": convolution("a", "data", CONV.format(5, "pad: 2")) + convolution("top", "a", CONV.format(3, "pad: 1")),
    "more padding than the kernel needs": convolution("top", "data", CONV.format(3, "pad: 4")),
    "dilation": convolution("a", "data", CONV.format(3, "dilation: 3"))
    + convolution("top", "a", CONV.format(2, "dilation: 2 pad: 1 stride: 2")),
    "rectangular": convolution(
        "top",
        "data",
        "num_output: 3 kernel_h: 2 kernel_w: 5 stride_h: 3 stride_w: 2 pad_h: 1 pad_w: 3 dilation: [3, 2]",
    ),
    "average pooling": pooling("a", "data", "pool: AVE kernel_size: 3 stride: 2")
    + convolution("top", "a", CONV.format(3, "pad: 1")),
    "max pooling": pooling("a", "data", "kernel_size: 3 stride: 2 pad: 1")
    + pooling("top", "a", "kernel_size: 2 stride: 2"),
    "four pads": convolution("a", "data", CONV.format(3, "stride: 2 pad_t: 0 pad_b: 1 pad_l: 1 pad_r: 0"))
    + pooling("b", "a", "kernel_size: 3 pad_t: 1 pad_b: 0 pad_l: 0 pad_r: 1")
    + convolution("top", "b", CONV.format(3, "pad_t: 1 pad_b: 0 pad_l: 0 pad_r: 1")),
    "gaps between windows": pooling("top", "data", "pool: AVE kernel_size: 2 stride: 3"),
    "lrn across channels": layer("LRN", "top", "data"),
    "lrn within a channel": layer("LRN", "top", "data", lrn_param="norm_region: WITHIN_CHANNEL local_size: 5 alpha: 9"),
    "concatenated branches": convolution("a", "data", CONV.format(5, "pad: 2"))
    + convolution("b", "data", CONV.format(1, ""))
    + layer("Concat", "top", "b a"),
    "residual branch": convolution("a", "data", CONV.format(3, "stride: 2 pad: 1"))
    + convolution("b", "a", CONV.format(3, "pad: 1"))
    + eltwise("e", "a b")
    + pooling("top", "e", "pool: AVE kernel_size: 2"),
    "branches of another centre": convolution("a", "data", "num_output: 3 kernel_size: 3 pad: 1 stride: 2")
    + pooling("p", "data", "pool: AVE kernel_size: 2 stride: 2")
    + layer("Concat", "top", "a p"),
    "crop": convolution("a", "data", CONV.format(3, ""))
    + convolution("b", "data", CONV.format(7, ""))
    + layer("Crop", "top", "a b", crop_param="offset: 1 offset: 3"),
    "layers that change no position": layer("ReLU", "r", "data", "data")
    + layer("Dropout", "d", "data", "data")
    + layer("Power", "p", "data", power_param="scale: 2 shift: 1")
    + convolution("c", "p", CONV.format(2, ""))
    + layer("Softmax", "top", "c"),
}


def reach(subject: Network, axis: int) -> list[tuple[int, int] | None]:
    """For each cell along an axis the pixels, [first, end), that change it: rows or columns are perturbed in turn."""
    (blob,) = subject.inputs
    shape = subject.inputs[blob]
    rng = np.random.default_rng(0)
    image = rng.uniform(0.5, 1, shape)
    # All perturbed images in one batch; both signs, since a maximum notices one of them only.
    size = shape[axis]
    batch = np.repeat(image, 2 * size + 1, axis=0)
    for pixel in range(size):
        line: Any = [slice(None)] * 3
        line[axis - 1] = pixel
        change = rng.uniform(50, 100, batch[0][tuple(line)].shape)
        batch[(2 * pixel, *line)] += change
        batch[(2 * pixel + 1, *line)] -= change
    top = evaluate(subject, {blob: batch})["top"]
    others = tuple(a for a in (1, 2, 3) if a != axis)
    changed = (top[:-1] != top[-1:]).any(axis=others).reshape(size, 2, -1).any(axis=1)  # [pixel, cell]
    pixels = [np.flatnonzero(column) for column in changed.T]
    return [(int(p[0]), int(p[-1]) + 1) if p.size else None for p in pixels]


@pytest.mark.parametrize("layers", NETS.values(), ids=NETS)
@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
def test_receptive_field_is_what_perturbed_pixels_change(layers: str, axis: int):
    """Every cell: exactly its receptive field, clipped to the image, and nothing beyond.

    A dilated window has holes: near the border its first or last pixel in the image may be one of them.
    """
    subject = plain(19, layers)
    geometry = (receptive_field(subject, "top").y, receptive_field(subject, "top").x)[axis - 2]
    size = subject.inputs["data"][axis]
    found = reach(subject, axis)
    interior = geometry.interior(size, len(found))
    assert len(interior) >= 2
    for cell, pixels in enumerate(found):
        first, end = geometry.field(cell)
        inside = (max(first, 0), min(end, size)) if end > 0 and first < size else None
        if pixels == inside:
            continue
        assert "dilation" in layers
        assert cell not in interior
        assert pixels is None or (inside and inside[0] <= pixels[0] and pixels[1] <= inside[1])


@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
@pytest.mark.parametrize(
    "parameters",
    [
        "kernel_size: 4 stride: 2 pad: 1",
        "kernel_size: 4 stride: 2 pad_t: 0 pad_b: 2 pad_l: 1 pad_r: 0",
        "kernel_size: 3 stride: 2",
        "kernel_size: [5, 2] stride: 3",
        "kernel_size: 2",
    ],
)
def test_receptive_field_through_a_deconvolution(parameters: str, axis: int):
    """Cells between two source cells see fewer of them: none sees beyond its field, and all together fill it."""
    subject = plain(
        31,
        convolution("a", "data", CONV.format(3, "stride: 2 pad: 1"))
        + layer("Deconvolution", "b", "a", convolution_param=f"num_output: 2 {parameters}")
        + convolution("top", "b", CONV.format(3, "")),
    )
    geometry = (receptive_field(subject, "top").y, receptive_field(subject, "top").x)[axis - 2]
    found = reach(subject, axis)
    interior = geometry.interior(subject.inputs["data"][axis], len(found))
    assert len(interior) >= 6
    before, after = set(), set()
    for cell, pixels in enumerate(found):
        assert pixels is not None
        first, end = pixels
        field = geometry.field(cell)
        assert field[0] <= first
        assert end <= field[1]
        if cell in interior:
            middle = geometry.center(cell) + geometry.shift
            before.add(middle - first)
            after.add(end - middle)
    assert max(before) == Fraction(geometry.receptive_field - 1) / 2
    assert max(after) == Fraction(geometry.receptive_field - 1) / 2 + 1


@pytest.mark.parametrize(
    "name", ["padding", "four pads", "average pooling", "residual branch", "dilation", "rectangular"]
)
def test_nominal_window_is_the_image_that_gives_one_cell(name: str):
    """The crop that a classifier was trained on; one stride more gives one cell more, which ends with the image."""
    subject = plain(19, NETS[name])
    field = receptive_field(subject, "top")
    height, width = field.nominal_window
    for n in (0, 1, 2):
        size = int(height + n * field.stride[0]), int(width + n * field.stride[1])
        assert subject.shapes_at({"data": (1, 2, *size)})["top"][2:] == (n + 1, n + 1)
        assert (field.y.span(n)[1], field.x.span(n)[1]) == size
        assert field.y.overhang(size[0], n + 1) == 0
    assert (field.y.span(0)[0], field.x.span(0)[0]) == (0, 0)


def test_interior_cells_do_not_see_the_border():
    """They equal the same cells of a larger image; their neighbours do not."""
    subject = cast(network(CLASSIFIER, seed=0))
    geometry = receptive_field(subject).y
    rng = np.random.default_rng(0)
    small = rng.standard_normal((1, 3, 61, 61))
    stride = int(geometry.stride)
    large = rng.standard_normal((1, 3, 61 + 2 * stride, 61 + 2 * stride))
    large[:, :, stride : stride + 61, stride : stride + 61] = small
    a, b = (evaluate(subject, {"data": image})["fc3-conv"] for image in (small, large))
    count = a.shape[2]
    b = b[:, :, 1 : count + 1, 1 : count + 1]
    interior = geometry.interior(61, count)
    same: Any = np.isclose(a, b, rtol=1e-12, atol=1e-12).all(axis=(0, 1))
    rows = np.flatnonzero(same.any(axis=1))
    assert list(interior) == list(rows)
    assert same[interior.start : interior.stop, interior.start : interior.stop].all()
    assert len(interior) < count


# --- a map and its crops


@pytest.mark.parametrize(("pool", "least", "most"), [("kernel_size: 3", 0.01, 1.0), ("kernel_size: 2", 0.0, 1e-12)])
def test_a_clipped_window_makes_a_map_differ_from_its_crops(pool: str, least: float, most: float, tmp_path: Path):
    """Without any padding: over 14 cells, windows of 3 and stride 2 end in one of 2 cells, windows of 2 do not."""
    definition, weights = caffe_files("a36_clip")
    path = tmp_path / "net.prototxt"
    path.write_text(definition.read_text().replace("kernel_size: 3 stride: 2", f"{pool} stride: 2"))
    assert load_network(path).shapes["p"] == (1, 4, 7, 7)
    classifier = load_network(path, weights)
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 24, 24)).astype(float)
    cells = evaluate(cast(classifier), {"data": image})["prob"]
    crops = np.concatenate([image[..., 2 * y : 2 * y + 16, 2 * x : 2 * x + 16] for y, x in np.ndindex(5, 5)])
    alone = evaluate(classifier, {"data": crops})["prob"]
    assert least <= np.abs(cells[0].reshape(3, 25).T - alone).max() <= most


# --- refusals


def test_a_classifier_that_is_not_cast_is_refused():
    with pytest.raises(NetworkError, match="'prob' do not correspond to pixels") as caught:
        receptive_field(network(CLASSIFIER))
    assert caught.value.why == "layer 'fc2' (InnerProduct) reads its whole bottom, or a blob without positions"
    assert "--output-blob" in caught.value.remedy
    assert "in Python, cast it first: cast(network)" in caught.value.remedy
    assert receptive_field(network(CLASSIFIER), "pool1") == receptive_field(cast(network(CLASSIFIER)), "pool1")


@pytest.mark.parametrize(
    "layers",
    [
        pooling("top", "data", "pool: AVE global_pooling: true"),
        convolution("a", "data", CONV.format(1, "stride: 2"))
        + layer("Deconvolution", "b", "data", convolution_param="num_output: 3 kernel_size: 1")
        + pooling("c", "b", "kernel_size: 1 stride: 2")
        + layer("Deconvolution", "d", "c", convolution_param="num_output: 3 kernel_size: 2 stride: 2")
        + layer("Crop", "e", "d a")
        + eltwise("top", "e a"),
        layer("Reshape", "top", "data", reshape_param="shape { dim: 0 dim: -1 dim: 2 dim: 5 }"),
        layer("Flatten", "a", "data") + layer("ReLU", "top", "a"),
        layer("Softmax", "top", "data", softmax_param="axis: 2"),
        layer("Concat", "top", "data data", concat_param="axis: 3"),
    ],
    ids=["global pooling", "branches of two strides", "reshape", "flatten", "softmax of rows", "concatenated columns"],
)
def test_cells_that_stand_for_no_position_are_refused(layers: str):
    with pytest.raises(NetworkError, match="do not correspond to pixels"):
        receptive_field(network(data(1, 2, 20, 20) + layers), "top")


def test_unknown_blob():
    with pytest.raises(NetworkError, match="no blob 'fc9'"):
        receptive_field(network(CLASSIFIER), "fc9")


# --- AxisGeometry by itself


@st.composite
def geometries(draw: st.DrawFn) -> AxisGeometry:
    stride = Fraction(draw(st.integers(1, 64)), draw(st.sampled_from([1, 1, 1, 2, 3])))
    window = draw(st.integers(1, 300))
    field = window + 2 * draw(st.integers(0, 80))
    return AxisGeometry(stride, Fraction(window - 1, 2) - draw(st.integers(0, 9)), window, field)


@given(geometries(), st.integers(0, 50))
def test_cell_span_field_and_centre_agree(axis: AxisGeometry, cell: int):
    first, end = axis.span(cell)
    assert end - first == axis.window
    assert (first + end - 1) / 2 == axis.center(cell)
    outer, outer_end = axis.field(cell)
    assert outer_end - outer == axis.receptive_field
    assert (outer + outer_end - 1) / 2 == axis.center(cell)
    assert outer <= first
    assert end <= outer_end
    assert axis.center(cell + 1) - axis.center(cell) == axis.stride
    assert axis.cell_at(axis.center(cell)) == cell  # a fraction: no float is a third


@given(geometries(), st.integers(-100, 1000))
def test_cell_at_is_the_nearest_centre(axis: AxisGeometry, pixel: int):
    cell = axis.cell_at(pixel)
    distance: Any = abs(axis.center(cell) - pixel)
    assert distance <= axis.stride / 2
    assert distance < abs(axis.center(cell + 1) - pixel)  # ties go to the higher cell
    assert distance <= abs(axis.center(cell - 1) - pixel)
    assert cell >= 0 or pixel < axis.offset


@given(geometries(), st.integers(1, 2000), st.integers(1, 80))
def test_interior_and_overhang(axis: AxisGeometry, size: int, count: int):
    interior = axis.interior(size, count)
    for cell in range(count):
        first, end = axis.field(cell)
        assert (cell in interior) == (first >= 0 and end <= size)
    overhang = axis.overhang(size, count)
    assert overhang >= 0
    assert overhang == 0 or axis.span(count - 1)[1] == size + overhang
    if interior and interior[-1] == count - 1:
        assert overhang == 0


def test_numbers_are_exact():
    """Fractions, not floats: a third of a pixel is not 0.333 after a hundred cells."""
    subject = plain(
        20, layer("Deconvolution", "top", "data", convolution_param="num_output: 1 kernel_size: 3 stride: 3")
    )
    axis = receptive_field(subject, "top").y
    assert axis.stride == Fraction(1, 3)
    assert axis.center(300) - axis.center(0) == 100
