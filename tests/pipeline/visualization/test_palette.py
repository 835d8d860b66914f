"""The colours of classes."""

import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.visualization.palette import class_color, distinct_colors, from_oklch, ink_on


def oklab_distances(colors: list[tuple[int, int, int]]) -> NDArray[np.float64]:
    rgb = np.array(colors) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_lms = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    lab = np.cbrt(linear @ np.array(to_lms).T) @ np.array(to_lab).T
    return np.linalg.norm(lab[:, None] - lab[None], axis=-1) + 9 * np.eye(len(colors))


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


def test_the_top_classes_of_a_picture_can_be_told_apart() -> None:
    random = np.random.default_rng(0)
    for _ in range(5):
        numbers = tuple(int(number) for number in random.choice(1000, 12, replace=False))
        colors = distinct_colors(numbers)
        assert oklab_distances([colors[number] for number in numbers]).min() > 0.08
        assert colors[numbers[0]] == class_color(numbers[0])
    assert dict(distinct_colors(tuple(range(40)))).keys() == set(range(40))


def test_ink_is_legible_on_every_class() -> None:
    assert sum(ink_on((255, 255, 0))) < 100
    assert ink_on((0, 0, 128)) == (255, 255, 255)
