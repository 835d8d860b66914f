"""The geometry of a map: in pixels of the scored image and of the original, by hand."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conversion.net.geometry import AxisGeometry
from pipeline.maps.geometry import Geometry, geometry_of, original_geometry
from tests.support.fakes import METADATA, STRIDE, WINDOW

SIDES = st.integers(1, 5000)
NUMBERS = st.floats(0.5, 500)
GEOMETRIES = st.builds(Geometry, *[NUMBERS] * 2, *[st.floats(-100, 500)] * 2, *[NUMBERS] * 4, *[st.floats(-50, 50)] * 2)


@given(GEOMETRIES, SIDES, SIDES, SIDES, SIDES, st.integers(0, 50), st.integers(0, 50))
def test_geometry_by_hand(geometry, height, width, scored_height, scored_width, y, x):
    """The borders of windows and fields map as borders of pixels do: b lies at b * original / scored."""
    found = original_geometry(geometry, (height, width), (scored_height, scored_width))
    for model, mapped, cell, factor in (
        (geometry.y, found.y, y, height / scored_height),
        (geometry.x, found.x, x, width / scored_width),
    ):
        # A pixel p covers [p - 0.5, p + 0.5) around its centre; `span` is in whole pixels, from border to border.
        assert math.isclose(mapped.center(cell) + 0.5, (model.center(cell) + 0.5) * factor, rel_tol=1e-9, abs_tol=1e-6)
        for own, there in ((model.span, mapped.span), (model.field, mapped.field)):
            for before, after in zip(own(cell), there(cell), strict=True):
                assert math.isclose(after, before * factor, rel_tol=1e-9, abs_tol=1e-6)


@given(GEOMETRIES, SIDES, SIDES)
def test_an_image_that_is_scored_as_it_is_keeps_the_geometry(geometry, height, width):
    found = original_geometry(geometry, (height, width), (height, width))
    assert dataclasses.astuple(found) == pytest.approx(dataclasses.astuple(geometry), abs=1e-9)


@given(GEOMETRIES)
def test_a_geometry_is_that_of_its_axes(geometry):
    assert Geometry.of(geometry.y, geometry.x) == geometry
    assert geometry.y == AxisGeometry(
        geometry.stride_y, geometry.offset_y, geometry.window_y, geometry.receptive_field_y, geometry.shift_y
    )


def test_the_geometry_of_a_model_is_that_of_its_description():
    offset = (WINDOW - 1) / 2
    assert geometry_of(METADATA) == Geometry(STRIDE, STRIDE, offset, offset, WINDOW, WINDOW, WINDOW, WINDOW)
