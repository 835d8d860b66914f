"""Resizing an image as Caffe's programs did, to the last digit: by the bilinear rules of three libraries.

All three put the centre of pixel i at i + 0.5, so that row r of the result lies at `(r + 0.5) * scale - 0.5` of the
image, where `scale` is the image's side over the result's. They differ in what lies around that place:

- `skimage`: scikit-image 0.9 to 0.13, as `caffe.io.resize_image` calls it (order 1, mode "constant", no antialiasing).
  Values are divided by 255, then stretched from the image's least and largest value to 0 and 1. Two by two pixels are
  weighed in float64, however small the result; what lies outside the image counts as its least value. Nothing is
  rounded to whole values. Later versions antialias (0.15), or repeat the edge, and give other numbers.
- `opencv`: `cv::resize` with INTER_LINEAR on 8 bits, as `convert_imageset` and Caffe's C++ programs call it; unchanged
  from OpenCV 2.4 to 4.14, but for builds that hand the work to another library. Two by two pixels are weighed, with
  weights of 11 bits; the edge is repeated. An image that is exactly halved is averaged.
- `pil`: Pillow 2.7 and later, BILINEAR on 8 bits: a triangle as wide as the scale, so that a smaller result is
  antialiased. Horizontally, then vertically; both are rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.images.resize import Size, resample
from pipeline.images.samples import Pixels
from pipeline.settings import WindowFilter

Floats32: TypeAlias = NDArray[np.float32]
Floats64: TypeAlias = NDArray[np.float64]
_Indices: TypeAlias = NDArray[np.intp]

_ONE = 1 << 11  # OpenCV's INTER_RESIZE_COEF_SCALE


def resize_for_windows(pixels: Pixels, size: Size, how: WindowFilter) -> Floats32 | Pixels:
    """Returns an image at another size, by one of the rules.

    Args:
        pixels: uint8 RGB [H, W, 3].
        size: (height, width) in pixels.
        how: The rule.

    Returns:
        [h, w, 3], from 0 to 255: float32 with `SKIMAGE`, otherwise uint8.
    """
    rules: dict[WindowFilter, Callable[[Pixels, Size], Floats32 | Pixels]] = {
        WindowFilter.SKIMAGE: _skimage,
        WindowFilter.OPENCV: _opencv,
        WindowFilter.PIL: resample,
    }
    return rules[how](pixels, size)


def resize_mean_image(mean: Floats64, size: Size) -> Floats64:
    """Returns a mean image at another size, as pycaffe's `set_mean` resizes it: by the rule of `skimage`.

    Args:
        mean: [H, W, C].
        size: (height, width) in pixels.
    """
    return _constant_bilinear(mean, size, least=float(mean.min()))


def _skimage(pixels: Pixels, size: Size) -> Floats32:
    # `caffe.io.load_image`: float32, 0 to 1. An image has 256 values at most, so that each is computed once.
    values = np.arange(256, dtype=np.float64) / 255
    values = values.astype(np.float32)
    least, largest = values[pixels.min()], values[pixels.max()]
    if least == largest:
        return np.full((*size, pixels.shape[2]), least * np.float32(255), np.float32)
    stretched = ((values - least) / (largest - least)).astype(np.float64)
    resized = _constant_bilinear(pixels, size, least=0.0, table=stretched)
    resized = resized * float(largest - least) + float(least)
    return resized.astype(np.float32) * np.float32(255)


def _constant_bilinear(
    image: NDArray[np.uint8] | Floats64, size: Size, *, least: float, table: Floats64 | None = None
) -> Floats64:
    """Returns float64 [h, w, C]; what lies outside the image counts as `least`. `table` has the values of uint8."""
    (top, bottom, down), (left, right, across) = (
        _neighbours(length, wanted) for length, wanted in zip(image.shape[:2], size, strict=True)
    )

    def at(rows: _Indices, columns: _Indices) -> Floats64:
        inside = _is_inside(rows, image.shape[0])[:, None] & _is_inside(columns, image.shape[1])
        clipped = np.clip(rows, 0, image.shape[0] - 1), np.clip(columns, 0, image.shape[1] - 1)
        found = image[clipped[0]][:, clipped[1]]
        values = found.astype(np.float64) if table is None else table[found]
        return np.where(inside[:, :, None], values, least)

    column = across[None, :, None]
    upper = (1 - column) * at(top, left) + column * at(top, right)
    lower = (1 - column) * at(bottom, left) + column * at(bottom, right)
    row = down[:, None, None]
    result: Floats64 = (1 - row) * upper + row * lower
    return result


def _neighbours(length: int, wanted: int) -> tuple[_Indices, _Indices, Floats64]:
    """Returns for each place of the result the pixel before it, the one after it, and the weight of the latter."""
    places = (np.arange(wanted) + 0.5) * (length / wanted) - 0.5
    # A place on a pixel is exact: else rounding errors would weigh what lies outside, if by next to nothing.
    whole = np.round(places)
    places = np.where(np.abs(places - whole) < 1e-9, whole, places)
    before = np.floor(places).astype(np.intp)
    return before, np.ceil(places).astype(np.intp), places - before


def _is_inside(places: _Indices, length: int) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = (places >= 0) & (places < length)
    return inside


def _opencv(pixels: Pixels, size: Size) -> Pixels:
    height, width = pixels.shape[:2]
    if (height, width) == tuple(size):
        return pixels
    if (height, width) == (2 * size[0], 2 * size[1]):
        quarters = [pixels[y::2, x::2].astype(np.uint16) for y in (0, 1) for x in (0, 1)]
        return ((sum(quarters[1:], quarters[0]) + 2) >> 2).astype(np.uint8)
    top, below, down = _weights(height, size[0], clip_weights=False)
    left, right, across = _weights(width, size[1], clip_weights=True)

    def horizontal(rows: _Indices) -> NDArray[np.int64]:
        chosen = pixels[rows].astype(np.int64)
        between: NDArray[np.int64] = (
            chosen[:, left] * across[0][None, :, None] + chosen[:, right] * across[1][None, :, None]
        )
        return between

    upper, lower = horizontal(top) >> 4, horizontal(below) >> 4
    weighed = ((upper * down[0][:, None, None]) >> 16) + ((lower * down[1][:, None, None]) >> 16)
    rounded: Pixels = np.clip((weighed + 2) >> 2, 0, 255).astype(np.uint8)
    return rounded


def _weights(
    length: int, wanted: int, *, clip_weights: bool
) -> tuple[_Indices, _Indices, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Returns OpenCV's two pixels for each place of the result, and their weights in units of 1 / 2048.

    Beyond the first and the last pixel the edge is repeated: along a row by its weight, along a column by the pixel.
    """
    scale = 1.0 / (wanted / length)
    places = ((np.arange(wanted) + 0.5) * scale - 0.5).astype(np.float32)
    before = np.floor(places).astype(np.intp)
    share = places - before.astype(np.float32)
    if clip_weights:
        outside = (before < 0) | (before >= length - 1)
        share = np.where(outside, np.float32(0), share)
        before = np.clip(before, 0, length - 1)
    weights = [np.rint(part * np.float32(_ONE)).astype(np.int64) for part in (np.float32(1) - share, share)]
    last = length - 1
    return np.clip(before, 0, last), np.clip(before + 1, 0, last), (weights[0], weights[1])
