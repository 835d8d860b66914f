"""A map drawn over its image."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.maps.classification_map import CellError, ClassificationMap, MapError
from pipeline.visualization.canvas import _notes
from pipeline.visualization.overlay import overlay
from pipeline.visualization.palette import class_color
from tests.support.example_maps import gray, make_map


def picture_of(map_: ClassificationMap, height: int, width: int) -> NDArray[np.int64]:
    """The overlay on gray without its legend, which may be wider."""
    picture = np.asarray(overlay(gray(map_), map_, cell_labels=False), dtype=np.int64)
    left = (picture.shape[1] - width) // 2
    return picture[:height, left : left + width]


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
def test_names_stand_beside_the_picture_and_not_on_the_map(stride: float) -> None:
    map_ = make_map([[10, 7, 7], [10, 10, 10]], stride=stride, window=2 * stride)
    plain, named = (np.asarray(overlay(gray(map_), map_, cell_labels=wish), np.int64) for wish in (False, True))
    zoom = round(96 / stride)
    height, width = (zoom * side for side in map_.image_size)
    left = (plain.shape[1] - width) // 2
    photo = plain[:height, left : left + width]
    starts = range(named.shape[1] - width + 1)
    changed = min(int((named[:height, start : start + width] != photo).any(axis=-1).sum()) for start in starts)
    assert changed < 5 * width, "but for one line with a dot at its end"
    assert not np.array_equal(plain, named)


def test_the_window_of_a_cell_is_outlined() -> None:
    map_ = make_map(np.full((3, 3), 7), stride=32, window=64, labels=())
    plain, outlined = (
        np.asarray(overlay(gray(map_), map_, cell_labels=False, windows=windows), np.int64)
        for windows in ((), ((1, 1),))
    )
    zoom = 3
    left = (plain.shape[1] - zoom * map_.image_size[1]) // 2
    changed = np.argwhere((plain != outlined).any(axis=-1)) - (0, left)
    assert changed.min(axis=0).tolist() == pytest.approx([32 * zoom] * 2, abs=3)
    assert changed.max(axis=0).tolist() == pytest.approx([96 * zoom] * 2, abs=3)
    with pytest.raises(CellError):
        overlay(gray(map_), map_, windows=((3, 0),))


def test_the_legend_says_what_a_cell_stands_for() -> None:
    assert _notes(make_map([[0, 1]], stride=32, window=227))[1] == (
        "A cell is drawn 32 pixels wide, and stands for a window of 227 pixels around it."
    )


def test_an_uncertain_region_of_small_cells_has_no_tag() -> None:
    best = np.full((40, 40), 10)
    best[20, 20] = 7
    map_ = make_map(best, score=0.2, stride=32)
    plain, named = (np.asarray(overlay(gray(map_), map_, cell_labels=wish)) for wish in (False, True))
    assert np.array_equal(plain, named)


def test_small_images_are_enlarged_and_large_ones_reduced() -> None:
    small = make_map(np.zeros((8, 8), int), stride=4)
    assert overlay(gray(small), small, cell_labels=False).width == 24 * 56
    middle = make_map(np.zeros((40, 40), int), stride=32)
    assert overlay(gray(middle), middle, cell_labels=False).width == 28 + 39 * 32
    large = make_map(np.zeros((4, 120), int), stride=32)
    assert overlay(gray(large), large, cell_labels=False).width == 2400


def test_a_tiny_picture_still_has_room_for_its_legend() -> None:
    map_ = make_map([[3]], labels=tuple("x" * 99 for _ in range(11)), stride=1, window=5)
    assert overlay(gray(map_), map_).width >= 480


def test_maps_of_many_classes_list_the_larger_ones() -> None:
    random = np.random.default_rng(0)
    best = np.where(random.random((30, 30)) < 0.5, 3, random.integers(0, 1000, (30, 30)))
    map_ = make_map(best, labels=(), stride=8)
    picture = overlay(gray(map_), map_, cell_labels=False)
    assert picture.height - map_.image_size[0] * (picture.width // map_.image_size[1]) < 300


@pytest.mark.parametrize("change", [np.s_[:-1], np.s_[..., 0], np.s_[..., :2]])
def test_pixels_of_another_image_are_refused(change: Any) -> None:
    map_ = make_map([[1, 2]])
    with pytest.raises(MapError, match="is needed") as caught:
        overlay(gray(map_)[change], map_)
    assert caught.value.where == map_.uri
    with pytest.raises(MapError):
        overlay(gray(map_).astype(np.float32), map_)
