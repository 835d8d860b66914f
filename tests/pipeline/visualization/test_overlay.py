from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from rich.console import Console

from pipeline.maps.classification_map import ClassificationMap, MapError
from pipeline.maps.geometry import Geometry
from pipeline.maps.labels import printable, shares, short_name
from pipeline.visualization.canvas import drawable_name, regions
from pipeline.visualization.overlay import overlay
from pipeline.visualization.palette import class_color, from_oklch, ink_on
from pipeline.visualization.terminal_grid import grid

DIGITS = (*"0123456789", "background")


def make_map(
    best: Any,
    labels: tuple[str, ...] = DIGITS,
    *,
    score: float = 0.9,
    stride: float = 4,
    window: float = 28,
    uri: str = "pages/1.png",
) -> ClassificationMap:
    """A map whose best classes are `best`, int [h, w], all with the same score."""
    classes = np.asarray(best, np.int32)[..., None]
    height, width = classes.shape[:2]
    size = int(window + stride * (height - 1)), int(window + stride * (width - 1))
    offset = (window - 1) / 2
    return ClassificationMap(
        uri=uri,
        id=None,
        image_size=size,
        labels=labels,
        classes=classes,
        scores=np.full(classes.shape, score, np.float32),
        residual=np.full((height, width), 1 - score, np.float32),
        probabilities=None,
        geometry=Geometry(stride, stride, offset, offset, window, window, window, window),
        model_digest="m",
        run_id="r",
    )


def gray(map_: ClassificationMap, value: int = 128) -> NDArray[np.uint8]:
    return np.full((*map_.image_size, 3), value, np.uint8)


def picture_of(map_: ClassificationMap, height: int, width: int) -> NDArray[np.int64]:
    """The overlay on gray without its legend, which may be wider."""
    picture = np.asarray(overlay(gray(map_), map_, cell_labels=False), dtype=np.int64)
    left = (picture.shape[1] - width) // 2
    return picture[:height, left : left + width]


def lines_of(map_: ClassificationMap, width: int) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(grid(map_, width=width))
    return [line.rstrip() for line in capture.get().splitlines()]


def oklab_distances(colors: list[tuple[int, int, int]]) -> NDArray[np.float64]:
    rgb = np.array(colors) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    lab = np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T
    return np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 9 * np.eye(len(colors))


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("n02123045 tabby, tabby cat", "tabby"),
        ("tabby, tabby cat", "tabby"),
        ("7", "7"),
        (", odd", ", odd"),
        ("n02123045", "n02123045"),
        ("esc\x1b[31m,red", "esc?[31m"),
    ],
)
def test_a_short_name_is_the_first_lemma(label: str, name: str) -> None:
    assert short_name(label) == name


def test_the_first_colours_are_far_apart() -> None:
    assert oklab_distances([class_color(i) for i in range(11)]).min() > 0.08


def test_neighbours_in_a_long_list_are_far_apart() -> None:
    for start in range(0, 1000, 7):
        assert oklab_distances([class_color(i) for i in range(start, start + 5)]).min() > 0.08


def test_colours_are_those_of_the_class_alone() -> None:
    assert class_color(281) == class_color(281) != class_color(282)
    assert from_oklch(1, 0, 0) == (255, 255, 255)
    assert from_oklch(0, 0.3, 0) == (0, 0, 0)
    assert from_oklch(0.628, 0.2577, 29.23) == pytest.approx((255, 0, 0), abs=20)


def test_ink_is_legible_on_every_class() -> None:
    assert sum(ink_on((255, 255, 0))) < 100
    assert ink_on((0, 0, 128)) == (255, 255, 255)


def test_shares_are_of_the_cells_and_background_comes_last() -> None:
    found = shares(make_map([[10, 10, 10], [7, 7, 3]]))
    assert [(item.name, item.share) for item in found] == [("7", 1 / 3), ("3", 1 / 6), ("background", 0.5)]


def test_a_region_is_what_touches_side_by_side() -> None:
    numbers = np.array([[1, 1, 2], [-1, 1, 1], [1, -1, 2]])
    found = sorted(sorted(zip(ys.tolist(), xs.tolist(), strict=True)) for ys, xs in regions(numbers))
    assert found == [[(0, 0), (0, 1), (1, 1), (1, 2)], [(0, 2)], [(2, 0)], [(2, 2)]]


def test_each_cell_is_tinted_where_it_lies() -> None:
    map_ = make_map([[10, 7], [10, 10]], stride=32, window=64)
    zoom = 3  # 96 pixels a cell
    height, width = (zoom * side for side in map_.image_size)
    colored = np.ptp(picture_of(map_, height, width), axis=-1) > 10
    # Cell (0, 1) is centred on pixel (31.5, 63.5) and 32 pixels wide.
    expected = np.zeros((height, width), bool)
    expected[16 * zoom : 48 * zoom, 48 * zoom : 80 * zoom] = True
    assert np.array_equal(colored, expected)


def test_a_surer_cell_is_more_strongly_tinted() -> None:
    weak, strong = (make_map([[7, 7], [7, 7]], score=score, stride=32, window=64) for score in (0.1, 0.9))
    colors = [picture_of(map_, 288, 288)[100, 100] for map_ in (weak, strong)]
    target = np.array(class_color(7))
    assert abs(colors[1] - target).sum() < abs(colors[0] - target).sum()


@pytest.mark.parametrize("stride", [4, 32])
def test_names_are_written_on_wish(stride: float) -> None:
    map_ = make_map([[10, 7, 7], [10, 10, 10]], stride=stride, window=2 * stride)
    plain, named = (np.asarray(overlay(gray(map_), map_, cell_labels=wish)) for wish in (False, True))
    assert plain.shape == named.shape
    assert not np.array_equal(plain, named)


def test_an_uncertain_region_of_small_cells_has_no_tag() -> None:
    best = np.full((40, 40), 10)
    best[20, 20] = 7
    map_ = make_map(best, score=0.2, stride=32)
    plain, named = (np.asarray(overlay(gray(map_), map_, cell_labels=wish)) for wish in (False, True))
    assert np.array_equal(plain, named)


def test_small_images_are_enlarged_and_large_ones_reduced() -> None:
    small = make_map(np.zeros((8, 8), int), stride=4)
    assert overlay(gray(small), small).width == 24 * 56
    middle = make_map(np.zeros((40, 40), int), stride=32)
    assert overlay(gray(middle), middle).width == 28 + 39 * 32
    large = make_map(np.zeros((4, 120), int), stride=32)
    assert overlay(gray(large), large).width == 2400


def test_a_tiny_picture_still_has_room_for_its_legend() -> None:
    map_ = make_map([[3]], labels=tuple("x" * 99 for _ in range(11)), stride=1, window=5)
    assert overlay(gray(map_), map_).width >= 480


def test_maps_of_many_classes_list_the_larger_ones() -> None:
    random = np.random.default_rng(0)
    best = np.where(random.random((30, 30)) < 0.5, 3, random.integers(0, 1000, (30, 30)))
    map_ = make_map(best, labels=(), stride=8)
    picture = overlay(gray(map_), map_)
    assert picture.height - map_.image_size[0] * (picture.width // map_.image_size[1]) < 300


def test_letters_that_the_font_lacks_are_replaced_by_the_number() -> None:
    labels = ("\u6f22\u5b57", "h\u00e9ron", "a" * 40)
    map_ = make_map([[0, 1, 2]], labels=labels)
    assert drawable_name(map_, 0) == "class 0"
    assert drawable_name(map_, 1) == "heron"
    assert drawable_name(map_, 2) == "a" * 25 + "..."
    assert overlay(gray(map_), map_).width > 0


@pytest.mark.parametrize("change", [np.s_[:-1], np.s_[..., 0], np.s_[..., :2]])
def test_pixels_of_another_image_are_refused(change: Any) -> None:
    map_ = make_map([[1, 2]])
    with pytest.raises(MapError, match="is needed") as caught:
        overlay(gray(map_)[change], map_)
    assert caught.value.where == map_.uri
    with pytest.raises(MapError):
        overlay(gray(map_).astype(np.float32), map_)


def test_a_narrow_map_is_a_table_of_names() -> None:
    labels = ("tabby, tabby cat", "Egyptian cat", "background")
    assert lines_of(make_map([[0, 0], [2, 1]], labels), 60) == [
        "pages/1.png",
        "        0             1",
        "0     tabby         tabby",
        "1       \u00b7        Egyptian cat",
        "",
        "   tabby 50%     Egyptian cat 25%   \u00b7  background 25%",
    ]


def test_names_are_cut_before_they_are_replaced() -> None:
    labels = ("tabby, tabby cat", "Egyptian cat", "background")
    lines = lines_of(make_map([[0, 0, 1], [2, 1, 1]], labels), 40)
    assert lines[2] == "0    tabby       tabby     Egyptian\u2026"


def test_a_wide_map_is_folded_to_letters_with_a_legend() -> None:
    labels = ("tabby, tabby cat", "Egyptian cat", "background")
    assert lines_of(make_map([[0, 0, 0, 1, 2]] * 2, labels), 30) == [
        "pages/1.png",
        "0 a a a b \u00b7",
        "1 a a a b \u00b7",
        "",
        " a  tabby 60%",
        " b  Egyptian cat 20%",
        " \u00b7  background 20%",
    ]


def test_names_of_one_character_are_kept() -> None:
    best = np.full((2, 80), 10)
    best[0, :4] = [7, 7, 0, 3]
    lines = lines_of(make_map(best), 100)
    assert lines[1] == "0 7703" + "\u00b7" * 76
    assert " 7  1.2%" in lines[-1]


def test_a_very_wide_map_is_shown_in_blocks() -> None:
    best = np.full((4, 200), 10)
    best[:, 100:] = 7
    best[0, 0] = 3
    lines = lines_of(make_map(best), 80)
    assert lines[1] == "0 " + "\u00b7" * 33 + "7" * 34
    assert lines[2].startswith("3 ")
    assert "a letter for 3 x 3 cells" in lines[-1]


def test_more_classes_than_letters_share_a_star() -> None:
    lines = lines_of(make_map(np.arange(60).reshape(2, 30), labels=()), 80)
    assert lines[1].split()[1:] == list("abcdefghijklmnopqrstuvwxyz") + ["*"] * 4
    assert lines[-1].endswith("*  34 more classes 57%")


@pytest.mark.parametrize("width", [30, 60, 100, 200])
@pytest.mark.parametrize("columns", [1, 8, 44, 200])
def test_the_table_keeps_to_its_width(columns: int, width: int) -> None:
    labels = tuple(f"quite a long name {i} \u6f22\u5b57" for i in range(40))
    best = np.random.default_rng(0).integers(0, 40, (5, columns))
    assert max(map(len, lines_of(make_map(best, labels), width))) <= width


def test_wide_letters_keep_the_columns_straight() -> None:
    labels = ("\u6f22\u5b57", "ab", "background")
    lines = lines_of(make_map([[0, 1], [1, 0]], labels), 40)
    assert lines[2:4] == ["0  \u6f22\u5b57   ab", "1   ab   \u6f22\u5b57"]


def test_colours_of_the_table_are_those_of_the_overlay() -> None:
    console = Console(width=80, color_system="truecolor", force_terminal=True)
    with console.capture() as capture:
        console.print(grid(make_map([[7, 10]]), width=80))
    red, green, blue = class_color(7)
    assert f"48;2;{red};{green};{blue}m" in capture.get()


def test_escape_sequences_reach_no_terminal() -> None:
    lines = lines_of(make_map([[0]], labels=("evil\x1b[2J",), uri="x\x1b[2J\n.png"), 60)
    assert "\x1b" not in "".join(lines)
    assert lines[0] == "x?[2J?.png"
    assert printable("a\tb") == "a?b"
