"""The three rules of resizing: against their formulas, written out pixel by pixel, and against the libraries."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from pipeline.images.window_filters import resize_for_windows, resize_mean_image
from pipeline.settings import WindowFilter

SKIMAGE, OPENCV, PIL = WindowFilter.SKIMAGE, WindowFilter.OPENCV, WindowFilter.PIL

SIZES = [(7, 9, 4, 5), (4, 5, 7, 9), (5, 5, 5, 5), (8, 6, 4, 3), (8, 6, 4, 6), (1, 1, 3, 2), (3, 2, 1, 1), (2, 9, 9, 2)]
"""Rows and columns of an image and of the result: smaller, larger, the same, halved, halved along one axis."""

sides = st.integers(1, 24)


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def by_formula(image: np.ndarray, size: tuple[int, int], outside: float) -> np.ndarray:
    """Bilinear between the two by two pixels around each place, in plain Python; beyond the image lies `outside`."""
    height, width, channels = image.shape
    found = np.empty((*size, channels))
    for row in range(size[0]):
        for column in range(size[1]):
            y = (row + 0.5) * height / size[0] - 0.5
            x = (column + 0.5) * width / size[1] - 0.5
            total = np.zeros(channels)
            for near_y in (math.floor(y), math.floor(y) + 1):
                for near_x in (math.floor(x), math.floor(x) + 1):
                    weight = (1 - abs(y - near_y)) * (1 - abs(x - near_x))
                    inside = 0 <= near_y < height and 0 <= near_x < width
                    total += weight * (image[near_y, near_x] if inside else outside)
            found[row, column] = total
    return found


@pytest.mark.parametrize("shape", SIZES)
def test_skimage_is_its_formula(shape: tuple[int, int, int, int]):
    height, width, rows, columns = shape
    image = picture(height, width)
    found = resize_for_windows(image, (rows, columns), SKIMAGE)
    assert found.dtype == np.float32
    expected = by_formula(image.astype(float), (rows, columns), float(image.min()))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@given(height=sides, width=sides, rows=sides, columns=sides)
def test_skimage_is_scipys_zoom(height: int, width: int, rows: int, columns: int):
    image = picture(height, width).astype(float)
    least = image.min()
    zoom = (rows / height, columns / width)
    expected = least + np.dstack(
        [
            ndimage.zoom(plane - least, zoom, order=1, mode="grid-constant", cval=0, grid_mode=True)
            for plane in np.moveaxis(image, 2, 0)
        ]
    )
    if expected.shape[:2] == (rows, columns):  # zoom rounds the sizes itself
        found = resize_for_windows(image.astype(np.uint8), (rows, columns), SKIMAGE)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("value", [0, 100, 255])
def test_skimage_of_one_colour_is_that_colour(value: int):
    """pycaffe does not stretch it: there is nothing between the least and the largest value."""
    found = resize_for_windows(np.full((3, 4, 3), value, np.uint8), (7, 8), SKIMAGE)
    np.testing.assert_allclose(found, value, rtol=0, atol=1e-4)


def test_skimage_does_not_round_to_whole_values_and_opencv_does():
    image = np.zeros((2, 2, 3), np.uint8)
    image[0, 0] = 255
    assert resize_for_windows(image, (1, 1), SKIMAGE)[0, 0, 0] == pytest.approx(63.75)
    assert resize_for_windows(image, (1, 1), OPENCV)[0, 0, 0] == 64


def test_skimage_does_not_antialias():
    stripes = np.zeros((9, 9, 3), np.uint8)
    stripes[:, ::3] = 255
    found = resize_for_windows(stripes, (3, 3), SKIMAGE)
    assert not found.any(), "the place of each pixel of the result is the middle one of three"
    assert resize_for_windows(stripes, (3, 3), PIL).any()


@pytest.mark.parametrize("shape", SIZES)
def test_opencv_is_its_formula_to_a_level(shape: tuple[int, int, int, int]):
    """Its integers are rounded; the test below compares every bit."""
    height, width, rows, columns = shape
    image = picture(height, width)
    found = resize_for_windows(image, (rows, columns), OPENCV)
    assert found.dtype == np.uint8
    edges = np.pad(image.astype(float), ((1, 1), (1, 1), (0, 0)), mode="edge")
    expected = np.empty((rows, columns, 3))
    for row in range(rows):
        for column in range(columns):
            y = min(max((row + 0.5) * height / rows - 0.5, 0), height - 1) + 1
            x = min(max((column + 0.5) * width / columns - 0.5, 0), width - 1) + 1
            near = edges[math.floor(y) : math.floor(y) + 2, math.floor(x) : math.floor(x) + 2]
            down, across = y - math.floor(y), x - math.floor(x)
            expected[row, column] = (1 - down) * ((1 - across) * near[0, 0] + across * near[0, 1]) + down * (
                (1 - across) * near[1, 0] + across * near[1, 1]
            )
    assert np.abs(found - expected).max() <= 1


def test_opencv_is_opencv_bit_by_bit():
    cv2 = pytest.importorskip("cv2")
    random = np.random.default_rng(1)
    shapes: list[tuple[int, ...]] = [
        *SIZES,
        (375, 500, 256, 256),
        (512, 512, 256, 256),
        (100, 80, 256, 256),
        (300, 500, 227, 227),
    ]
    shapes += [tuple(map(int, random.integers(1, 50, 4))) for _ in range(100)]
    for height, width, rows, columns in shapes:
        image = picture(height, width, seed=height * width)
        expected = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_LINEAR)
        found = resize_for_windows(image, (rows, columns), OPENCV)
        np.testing.assert_array_equal(found, expected, err_msg=f"{height}x{width} to {rows}x{columns}")


def triangle(values: np.ndarray, wanted: int) -> np.ndarray:
    """Pillow's pass along the first axis: a triangle as wide as the scale, weights of 22 bits, rounded to 8 bits."""
    length = values.shape[0]
    scale = length / wanted
    width = max(scale, 1.0)
    found = np.empty((wanted, *values.shape[1:]), np.uint8)
    for place in range(wanted):
        center = (place + 0.5) * scale
        first, last = max(int(center - width + 0.5), 0), min(int(center + width + 0.5), length)
        weights = np.array([max(0.0, 1 - abs((i - center + 0.5) / width)) for i in range(first, last)])
        weights = np.floor(weights / weights.sum() * (1 << 22) + 0.5).astype(np.int64)
        total = np.tensordot(weights, values[first:last].astype(np.int64), axes=1) + (1 << 21)
        found[place] = np.clip(total >> 22, 0, 255)
    return found


@pytest.mark.parametrize("shape", SIZES)
def test_pil_is_its_formula_and_pillow(shape: tuple[int, int, int, int]):
    height, width, rows, columns = shape
    image = picture(height, width)
    across = image if columns == width else triangle(image.transpose(1, 0, 2), columns).transpose(1, 0, 2)
    expected = across if rows == height else triangle(across, rows)
    found = resize_for_windows(image, (rows, columns), PIL)
    np.testing.assert_array_equal(found, expected)
    pillow = Image.fromarray(image).resize((columns, rows), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found, np.asarray(pillow))


@pytest.mark.parametrize("shape", SIZES)
def test_a_mean_image_is_resized_as_pycaffe_does(shape: tuple[int, int, int, int]):
    height, width, rows, columns = shape
    mean = np.random.default_rng(2).uniform(80, 140, (height, width, 3))
    np.testing.assert_allclose(
        resize_mean_image(mean, (rows, columns)), by_formula(mean, (rows, columns), mean.min()), rtol=1e-9
    )
