"""Regions and names on the canvas."""

import numpy as np

from pipeline.visualization.canvas import regions
from pipeline.visualization.lettering import drawable_name
from pipeline.visualization.overlay import overlay
from tests.support.example_maps import gray, make_map


def test_a_region_is_what_touches_side_by_side() -> None:
    numbers = np.array([[1, 1, 2], [-1, 1, 1], [1, -1, 2]])
    found = sorted(sorted(zip(ys.tolist(), xs.tolist(), strict=True)) for ys, xs in regions(numbers))
    assert found == [[(0, 0), (0, 1), (1, 1), (1, 2)], [(0, 2)], [(2, 0)], [(2, 2)]]


def test_letters_that_the_font_lacks_are_replaced_by_the_number() -> None:
    labels = ("\u6f22\u5b57", "h\u00e9ron", "a" * 40)
    map_ = make_map([[0, 1, 2]], labels=labels)
    assert drawable_name(map_, 0) == "class 0"
    assert drawable_name(map_, 1) == "heron"
    assert drawable_name(map_, 2) == "a" * 25 + "..."
    assert overlay(gray(map_), map_).width > 0
