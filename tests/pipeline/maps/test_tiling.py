"""Tiles: pure cover properties, and the maps of real nets, tiled and untiled, in float64."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from conversion import cast, evaluate, load_network, receptive_field
from conversion.errors import CastError, NetworkError
from conversion.export.alignment import alignment_of
from conversion.net.geometry import AxisGeometry, ReceptiveField
from conversion.net.network import Network
from conversion.passes.dilate import dilate
from conversion.surgery import random_parameters
from models import entry
from pipeline.errors import JobError
from pipeline.maps.classification_map import MapError
from pipeline.maps.tiling import TileGrid, cut, place
from tests.support.definitions import convolution, data, inner_product, layer, network, pooling
from tests.support.golden_cases import GOLDEN

CAFFENET = AxisGeometry(32, 113, 227, 355)


# --- pure


@st.composite
def axes(draw: st.DrawFn) -> tuple[AxisGeometry, int]:
    """A geometry, its field on or off the window's centre, and an alignment."""
    stride: Any = draw(st.sampled_from([1, 2, 3, 4, 8, 32, Fraction(1, 2), Fraction(3, 2), Fraction(1, 3)]))
    window = draw(st.integers(1, 60))
    field = draw(st.integers(1, 90)) + Fraction(draw(st.integers(0, 3)), stride.denominator)
    shift = Fraction(draw(st.integers(-20, 20)), 2)
    geometry = AxisGeometry(stride, Fraction(window - 1, 2), window, field, shift)
    return geometry, Fraction(stride).numerator * draw(st.integers(1, 4))


def grid_of(
    height: int, width: int, axes: tuple[AxisGeometry, AxisGeometry], tile_pixels: int, alignment: tuple[int, int]
) -> TileGrid:
    return cut(height, width, ReceptiveField(*axes), tile_pixels=tile_pixels, alignment=alignment)


def overhead(grid: TileGrid) -> float:
    """Pixels that are read more than once, as a share of the image's."""
    image = grid[len(grid) - 1].bottom * grid[len(grid) - 1].right
    return len(grid) * math.prod(grid[0].size) / image - 1


def cells_of(size: int, axis: AxisGeometry) -> int:
    """Cells of a map without padding at its end: those whose field ends within the image, and one more clipped."""
    return max(1, math.floor((size - axis.field(0)[1]) / axis.stride) + 2)


@given(axes(), axes(), st.integers(1, 400), st.integers(1, 400), st.integers(1, 40_000))
@settings(max_examples=400)
def test_kept_cells_see_no_border_but_the_images(vertical, horizontal, height, width, tile_pixels):
    (y, ay), (x, ax) = vertical, horizontal
    try:
        grid = grid_of(height, width, (y, x), tile_pixels, (ay, ax))
    except JobError:
        assert tile_pixels < height * width  # what it asks for instead is tested below
        return
    tiles = list(grid)
    assert [tile.index for tile in tiles] == list(range(len(grid)))
    assert {tile.size for tile in tiles} == {grid[0].size}
    assert math.prod(grid[0].size) <= tile_pixels
    rows, columns = cells_of(height, y), cells_of(width, x)
    seen = np.zeros((rows, columns), int)
    for tile in tiles:
        assert tile.top % ay == 0
        assert tile.left % ax == 0
        down = range(tile.cell_y, rows if tile.rows is None else tile.cell_y + tile.rows)
        across = range(tile.cell_x, columns if tile.columns is None else tile.cell_x + tile.columns)
        seen[down.start : down.stop, across.start : across.stop] += 1
        assert (tile.rows is None) == (tile.bottom == height)
        assert (tile.columns is None) == (tile.right == width)
        for axis, kept, start, end, size, cell, skip in (
            (y, down, tile.top, tile.bottom, height, tile.cell_y, tile.skip_y),
            (x, across, tile.left, tile.right, width, tile.cell_x, tile.skip_x),
        ):
            assert 0 <= start < end <= size
            assert end - start >= min(size, axis.window)
            assert len(kept) >= 1
            assert cell - skip == start / axis.stride  # the tile's own cells are the image's, moved
            for i in (kept[0], kept[-1]):
                first, last = axis.field(i)
                assert start == 0 or first >= start
                assert end == size or last <= end
    assert (seen == 1).all()


@given(axes(), axes(), st.integers(1, 40), st.integers(1, 40), st.integers(0, 5000))
@settings(max_examples=50)
def test_what_the_error_asks_for_is_enough_and_less_is_not(vertical, horizontal, height, width, less):
    geometry, alignment = (vertical[0], horizontal[0]), (vertical[1], horizontal[1])
    assume(vertical[0].receptive_field > 1)
    with pytest.raises(JobError, match="too small") as caught:
        grid_of(height * 50, width * 50, geometry, 1, alignment)
    enough = int(caught.value.remedy.split()[3])
    assert len(grid_of(height * 50, width * 50, geometry, enough, alignment)) >= 1
    with pytest.raises(JobError, match="too small"):
        grid_of(height * 50, width * 50, geometry, max(1, enough - 1 - less), alignment)


def test_an_image_that_fits_is_one_tile():
    (tile,) = grid_of(1000, 900, (CAFFENET, CAFFENET), 900_000, (32, 32))
    assert (tile.top, tile.left, tile.bottom, tile.right) == (0, 0, 1000, 900)
    assert (tile.cell_y, tile.cell_x, tile.skip_y, tile.skip_x, tile.rows, tile.columns) == (0, 0, 0, 0, None, None)


@pytest.mark.parametrize("size", [(20_000, 20_000), (20_001, 19_999), (100_000, 3_000), (2_100, 50_000)])
def test_tiles_of_caffenet_are_square_and_few(size):
    height, width = size
    grid = grid_of(height, width, (CAFFENET, CAFFENET), 4_000_000, (32, 32))
    high, wide = grid[0].size
    assert 1 / 2 <= high / wide <= 2
    assert overhead(grid) < 0.5  # a halo of 323 pixels at 2,000 along both axes costs 42 %


def test_a_narrow_image_is_cut_along_its_length_only():
    grid = grid_of(700, 100_000, (CAFFENET, CAFFENET), 4_000_000, (32, 32))
    assert len(grid.down) == 1
    assert overhead(grid) < 0.1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"receptive_field": math.inf}, "inf in the map's geometry"),
        ({"receptive_field": math.nan}, "nan in the map's geometry"),
        ({"stride": 0}, "cannot be tiled"),
        ({"receptive_field": -3}, "cannot be tiled"),
        ({"stride": 31}, "not a multiple of the map's stride"),
        ({"offset": math.pi}, "not a simple fraction"),
    ],
)
def test_geometries_that_cannot_be_tiled(change, match):
    axis = AxisGeometry(**({"stride": 32, "offset": 113, "window": 227, "receptive_field": 355} | change))
    with pytest.raises(JobError, match=match):
        grid_of(5000, 5000, (CAFFENET, axis), 1_000_000, (32, 32))


@pytest.mark.parametrize("numbers", [(0, 5, 5, 32), (5, 0, 5, 32), (5, 5, 0, 32), (5, 5, 5, 0)])
def test_sizes_that_make_no_sense(numbers):
    height, width, tile_pixels, alignment = numbers
    with pytest.raises(JobError):
        grid_of(height, width, (CAFFENET, CAFFENET), tile_pixels, (alignment, 32))


def test_floats_of_the_metadata_are_taken_as_the_fractions_that_they_were():
    exact = AxisGeometry(Fraction(1, 3), Fraction(50, 3), 30, Fraction(161, 3), Fraction(1, 6))
    rounded = AxisGeometry(*(float(value) for value in (exact.stride, exact.offset, 30, exact.receptive_field, 1 / 6)))
    assert grid_of(500, 500, (exact, exact), 9_000, (8, 8)) == grid_of(500, 500, (rounded, rounded), 9_000, (8, 8))


def test_a_grid_has_no_tile_beyond_its_last():
    grid = grid_of(3000, 3000, (CAFFENET, CAFFENET), 1_000_000, (32, 32))
    assert grid[len(grid) - 1].bottom == 3000
    with pytest.raises(IndexError):
        grid[len(grid)]


# --- putting together


@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=4), st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data()
)
def test_place_takes_every_cover_and_nothing_else(heights, widths, drawn):
    whole = np.arange(sum(heights) * sum(widths) * 2, dtype=np.float32).reshape(sum(heights), sum(widths), 2)
    parts = [
        (y, x, whole[y : y + h, x : x + w])
        for y, h in zip(np.cumsum([0, *heights]).tolist(), heights, strict=False)
        for x, w in zip(np.cumsum([0, *widths]).tolist(), widths, strict=False)
    ]
    parts = drawn.draw(st.permutations(parts))
    found = place(iter(parts))
    assert found.dtype == whole.dtype
    np.testing.assert_array_equal(found, whole)
    y, x, part = drawn.draw(st.sampled_from(parts))
    others = [p for p in parts if p[:2] != (y, x)]
    with pytest.raises(MapError, match="overlaps another"):
        place([*parts, (y, x, part)])
    inner = y + part.shape[0] < whole.shape[0] or x + part.shape[1] < whole.shape[1]
    if inner and others:
        with pytest.raises(MapError, match=r"gaps|overlaps another"):
            place(others)
    with pytest.raises(MapError, match="gaps"):
        place([*others, (y + 1000, x, part)])


@pytest.mark.parametrize(
    ("parts", "match"),
    [
        ([], "without tiles"),
        ([(-1, 0, np.zeros((1, 1)))], "at cell"),
        ([(0, 0, np.zeros((0, 1)))], "at cell"),
        ([(0, 0, np.zeros(3))], "at cell"),
        ([(0, 0, np.zeros((1, 1, 2))), (0, 1, np.zeros((1, 1, 3)))], "the first tile|at cell"),
        ([(0, 0, np.zeros((1, 1))), (0, 1, np.zeros((1, 1), np.float32))], "float32"),
        ([(2**40, 2**40, np.zeros((1, 1)))], "gaps"),
    ],
)
def test_parts_that_do_not_fit(parts, match):
    with pytest.raises(MapError, match=match):
        place(parts)


def test_a_map_with_too_few_cells_is_refused():
    grid = grid_of(3000, 3000, (CAFFENET, CAFFENET), 1_000_000, (32, 32))
    tile = grid[len(grid.across) + 1]
    enough = (tile.skip_y + (tile.rows or 0), tile.skip_x + (tile.columns or 0))
    assert tile.kept(np.zeros((*enough, 7))).shape == (tile.rows, tile.columns, 7)
    for fewer in ((enough[0] - 1, enough[1]), (enough[0], enough[1] - 1)):
        with pytest.raises(MapError, match=f"has {fewer[0]} x {fewer[1]} cells"):
            tile.kept(np.zeros(fewer))
    with pytest.raises(MapError, match="1 x 1 are needed"):
        grid[len(grid) - 1].kept(np.zeros((1, 1)))


# --- real nets


def run(subject: Network, blob: str, image: np.ndarray) -> np.ndarray:
    """float64 [h, w, C]."""
    return evaluate(subject, {next(iter(subject.inputs)): image})[blob][0].transpose(1, 2, 0)


def tiled(subject: Network, blob: str, image: np.ndarray, grid: TileGrid) -> np.ndarray:
    return place(
        (t.cell_y, t.cell_x, t.kept(run(subject, blob, image[:, :, t.top : t.bottom, t.left : t.right]))) for t in grid
    )


def least_grid(subject: Network, blob: str, height: int, width: int, larger: float = 1.0) -> TileGrid:
    """Tiles as small as the net allows, or so much larger."""
    geometry, alignment = receptive_field(subject, blob), alignment_of(subject, blob)
    axes = (geometry.y, geometry.x)
    try:
        return grid_of(height, width, axes, 1, alignment)
    except JobError as error:
        return grid_of(height, width, axes, int(int(error.remedy.split()[3]) * larger), alignment)


def assert_tiles_change_nothing(
    subject: Network, blob: str, height: int, width: int, larger: float = 1.0, seed: int = 0
) -> TileGrid:
    channels = next(iter(subject.inputs.values()))[1]
    image = np.random.default_rng(seed).standard_normal((1, channels, height, width)) * 50
    grid = least_grid(subject, blob, height, width, larger)
    whole = run(subject, blob, image)
    np.testing.assert_allclose(
        tiled(subject, blob, image, grid), whole, rtol=0, atol=1e-9 * np.nanmax(abs(whole), initial=1)
    )
    return grid


@st.composite
def nets(draw: st.DrawFn) -> tuple[str, int]:
    """A stack of windows of strides up to 3 with all that Caffe does at borders, and a divisor of its stride.

    Given as text and the divisor; 0 where the net upsamples and has no finer form.
    """
    text, top, total, upsamples = data(1, 2, 1, 1), "data", 1, False
    kinds = ["conv", "conv", "MAX", "AVE", "branch", "lrn", "within", "group", "up"]
    for index in range(draw(st.integers(1, 4))):
        name, kind = f"l{index}", draw(st.sampled_from(kinds))
        kinds = [k for k in kinds if (k, kind) != ("up", "up")]  # maps must not grow without end
        kernel = draw(st.integers(1, 4))
        stride = draw(st.integers(1, 3))
        window = f"kernel_size: {kernel} stride: {stride} pad: {draw(st.integers(0, kernel - 1))}"
        if kind == "branch":
            text += convolution(f"{name}a", top, "num_output: 2 kernel_size: 1")
            text += pooling(f"{name}b", top, "pool: AVE kernel_size: 3 pad: 1")
            text += layer("Concat", name, f"{name}a {name}b") + layer("ReLU", f"{name}r", name, name)
        elif kind == "lrn":
            text += layer("LRN", name, top, lrn_param="local_size: 3 alpha: 0.1")
        elif kind == "within":
            text += layer("LRN", name, top, lrn_param="norm_region: WITHIN_CHANNEL local_size: 3 alpha: 0.1")
            upsamples = True  # no finer form either
        elif kind == "up":
            text += convolution(f"{name}c", top, "num_output: 2 kernel_size: 1")
            text += layer("Deconvolution", name, f"{name}c", convolution_param=f"num_output: 2 {window}")
            upsamples = True
        elif kind in ("conv", "group"):
            total *= stride
            group = "group: 2" if kind == "group" else ""
            text += convolution(name, top, f"num_output: 2 {window} {group} dilation: {draw(st.integers(1, 2))}")
        else:
            total *= stride
            rounding = draw(st.sampled_from(["CEIL", "FLOOR"]))
            text += pooling(name, top, f"pool: {kind} {window} round_mode: {rounding}")
        top = name
    divisors = [n for n in range(1, total + 1) if total % n == 0]
    text += convolution("top", top, "num_output: 2 kernel_size: 2")
    return text, 0 if upsamples else draw(st.sampled_from(divisors))


@given(nets(), st.integers(20, 60), st.integers(20, 60), st.floats(1, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_maps_of_random_nets(drawn: tuple[str, int], height: int, width: int, larger: float, seed: int):
    text, stride = drawn
    try:
        subject = network(text.replace("dim: 1 dim: 1 }", f"dim: {height} dim: {width} }}"), seed=seed)
        subject = dilate(subject, stride) if stride else subject
        # The window of a blob with one cell is the definition's size: the arithmetic one makes smaller tiles.
        assume(min(receptive_field(subject, "top").nominal_window) >= 1)
    except (NetworkError, CastError):
        assume(False)
    assert_tiles_change_nothing(subject, "top", height, width, larger, seed)


def golden(name: str) -> Network:
    folder = GOLDEN / "nets" / name
    return cast(load_network(folder / "net.prototxt", folder / "net.caffemodel"))


@pytest.mark.parametrize(
    ("name", "stride", "size"),
    [
        ("googlenet_piece", 0, (193, 101)),
        ("googlenet_piece", 4, (133, 231)),
        ("squeezenet_piece", 0, (151, 118)),
        ("resnet_piece", 0, (231, 178)),
        ("resnet_piece", 4, (191, 178)),
        ("mobilenet_piece", 0, (113, 131)),
        ("densenet_piece", 0, (121, 103)),
        ("vgg_piece", 2, (141, 127)),
    ],
)
def test_maps_of_pieces_of_known_nets(name: str, stride: int, size: tuple[int, int]):
    subject = golden(name)
    subject = dilate(subject, stride) if stride else subject
    grid = assert_tiles_change_nothing(subject, subject.layers[-1].bottoms[0], *size, larger=1.1)
    assert len(grid) > 1


def test_maps_of_the_shipped_digits():
    digits = entry("digits")
    subject = cast(load_network(digits.definition, digits.definition.parent / "digits.caffemodel"))
    grid = assert_tiles_change_nothing(subject, subject.outputs[-1], 121, 133, larger=2)
    assert len(grid) > 3


def stem(*head: str) -> str:
    """As GoogLeNet and ResNet-50 begin: half-kernel padding, then a pooling that rounds up and clips."""
    return (
        data(1, 3, 64, 64)
        + convolution("conv1", "data", "num_output: 3 kernel_size: 7 pad: 3 stride: 2")
        + pooling("pool1", "conv1", "kernel_size: 3 stride: 2")
        + layer("LRN", "norm1", "pool1", lrn_param="local_size: 3 alpha: 0.1")
        + convolution("a", "norm1", "num_output: 3 kernel_size: 3 pad: 1")
        + convolution("b", "norm1", "num_output: 3 kernel_size: 1")
        + layer("Eltwise", "sum", "a b")
        + "".join(head)
    )


HEADS = {
    "googlenet": (
        pooling("pool2", "sum", "kernel_size: 3 stride: 2"),
        pooling("pool3", "pool2", "pool: AVE kernel_size: 8"),
        inner_product("fc", "pool3", "num_output: 4"),
    ),
    "resnet": (
        convolution("conv2", "sum", "num_output: 3 kernel_size: 1 stride: 2"),
        convolution("conv3", "conv2", "num_output: 3 kernel_size: 3 pad: 1"),
        pooling("pool3", "conv3", "pool: AVE global_pooling: true"),
        inner_product("fc", "pool3", "num_output: 4"),
    ),
    "caffenet": (inner_product("fc", "sum", "num_output: 4"),),
}


@pytest.mark.parametrize("stride", [0, 2, 4])
@pytest.mark.parametrize("head", HEADS)
def test_off_centre_fields_and_cast_heads(head: str, stride: int):
    subject = cast(random_parameters(network(stem(*HEADS[head])), 0))
    subject = dilate(subject, stride) if stride and stride < receptive_field(subject).y.stride else subject
    blob = subject.outputs[-1]
    axis = receptive_field(subject, blob).y
    assert axis.window == 64
    assert axis.shift != 0 or head == "resnet"
    for size in ((180, 141), (173, 130)):
        assert len(assert_tiles_change_nothing(subject, blob, *size, larger=1.3)) > 1


def test_an_upsampling_net_is_aligned_by_its_coarsest_blob():
    """Its map has a cell a pixel, and only every eighth pixel begins a tile."""
    text = (
        data(1, 2, 40, 40)
        + convolution("c1", "data", "num_output: 2 kernel_size: 11 stride: 4 pad: 2")
        + pooling("p", "c1", "kernel_size: 2 stride: 2")
        + layer("Deconvolution", "up", "p", convolution_param="num_output: 2 kernel_size: 10 stride: 8")
        + pooling("top", "up", "kernel_size: 3 stride: 1 pad: 1")
    )
    subject = network(text, seed=0)
    assert receptive_field(subject, "top").stride == (1, 1)
    assert alignment_of(subject, "top") == (8, 8)
    for size in ((120, 133), (131, 126)):
        assert len(assert_tiles_change_nothing(subject, "top", *size)) > 3


def test_a_finer_net_is_aligned_by_the_stride_that_it_had():
    """Aligned by its own stride alone a tile would round its end otherwise than the image does."""
    subject = dilate(cast(random_parameters(network(stem(*HEADS["googlenet"])), 0)), 2)
    blob = subject.outputs[-1]
    assert receptive_field(subject, blob).stride == (2, 2)
    assert alignment_of(subject, blob) == (8, 8)
    geometry = receptive_field(subject, blob)
    sizes = range(200, 216)
    shapes = {}
    for size in sizes:
        grid = grid_of(size, 64, (geometry.y, geometry.x), 64 * 180, (2, 2))
        last = grid[len(grid) - 1]
        (name,) = subject.inputs
        whole = subject.shapes_at({name: (1, 3, size, 64)})[blob][2]
        shapes[size] = last.cell_y + subject.shapes_at({name: (1, 3, *last.size)})[blob][2] - last.skip_y - whole
    assert any(shapes.values())


@pytest.mark.parametrize("name", ["caffenet", "googlenet", "resnet50", "squeezenet_1_1", "vgg16", "nin"])
def test_known_models_are_aligned_by_their_stride(name: str):
    subject = cast(load_network(entry(name).definition))
    assert alignment_of(subject) == receptive_field(subject).stride


REFUSED = {
    "statistics": layer("MVN", "top", "c"),
    "global": pooling("top", "c", "pool: AVE global_pooling: true"),
    "softmax over rows": layer("Softmax", "top", "c", softmax_param="axis: 2"),
    "mask": layer("Pooling", "p", "c", "p top", pooling_param="kernel_size: 2 stride: 2"),
    "mask read": layer("Pooling", "p", "c", "p m", pooling_param="kernel_size: 2") + layer("Power", "top", "m"),
}


@pytest.mark.parametrize("layers", REFUSED.values(), ids=REFUSED)
def test_nets_without_a_finite_receptive_field(layers: str):
    subject = network(data(1, 2, 33, 33) + convolution("c", "data", "num_output: 2 kernel_size: 2") + layers)
    with pytest.raises(NetworkError, match=r"correspond to pixels|whole image"):
        alignment_of(subject, "top")


def test_a_mask_that_nothing_reads_is_no_matter():
    text = data(1, 2, 33, 33) + layer("Pooling", "p", "data", "p m", pooling_param="kernel_size: 2 stride: 2")
    assert alignment_of(network(text), "p") == (2, 2)


def test_blobs_that_do_not_exist():
    with pytest.raises(NetworkError, match="no blob"):
        alignment_of(network(data(1, 2, 33, 33) + pooling("p", "data", "kernel_size: 2")), "q")
