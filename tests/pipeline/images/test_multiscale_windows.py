"""Images that are resized for windows: whole, whatever becomes of the scales of the whole image."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from conversion import luma
from pipeline.images.decode import DecodeLimits, decode
from pipeline.images.multiscale import NeededBytes, ScaledImages, ScalingLimits, decode_scaled
from pipeline.images.resize import WINDOWS_SCALE, Scaling, WindowResize
from pipeline.images.window_filters import resize_for_windows
from pipeline.rejection import Reason, Rejected
from pipeline.settings import WindowFilter

PIXELS = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
OPENCV = WindowResize(WindowFilter.OPENCV, (20, 24))


def encoded(kind: str, pixels: np.ndarray = PIXELS) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, kind)
    return data.getvalue()


def scaled(data: bytes, scaling: Scaling, **limits: object) -> ScaledImages:
    found = decode_scaled(data, ScalingLimits(**{"decode": DecodeLimits(), **limits}), scaling)
    assert isinstance(found, ScaledImages)
    return found


def test_windows_come_after_the_scales_and_keep_the_rule_of_the_filter():
    found = scaled(encoded("PNG"), Scaling(scales=(1.0, 0.5), windows=OPENCV))
    assert [image.scale for image in found.images] == [1.0, 0.5, WINDOWS_SCALE]
    windows = found.images[-1]
    assert (windows.height, windows.width, windows.pixels, windows.by_rows) == (20, 24, None, False)
    np.testing.assert_array_equal(windows.for_windows, resize_for_windows(PIXELS, (20, 24), WindowFilter.OPENCV))
    assert windows.nbytes == 20 * 24 * 3


def test_a_jpeg_is_decoded_whole_though_its_map_needs_less():
    data = encoded("JPEG", np.kron(PIXELS, np.ones((8, 8, 1), np.uint8)))
    whole = decode(data, DecodeLimits()).pixels
    for scales in ((0.1,), ()):
        found = scaled(data, Scaling(scales=scales, windows=OPENCV))
        expected = resize_for_windows(whole, (20, 24), WindowFilter.OPENCV)
        np.testing.assert_array_equal(found.images[-1].for_windows, expected)


def test_an_image_too_small_for_a_map_has_windows():
    found = scaled(encoded("PNG"), Scaling(windows=OPENCV), minimum_size=(61, 61))
    dense, windows = found.images
    assert dense.rejected is not None
    assert dense.rejected.reason is Reason.TOO_SMALL
    assert windows.for_windows is not None


def test_an_image_that_would_have_to_grow_too_much_for_a_map_has_windows():
    scaling = Scaling(resize=(2000, 2000), scales=(1.0, 0.5), windows=OPENCV)
    *dense, windows = scaled(encoded("PNG"), scaling).images
    assert {image.rejected.reason for image in dense if image.rejected} == {Reason.TOO_SMALL}
    assert windows.for_windows is not None
    with pytest.raises(Rejected):
        scaled(encoded("PNG"), Scaling(resize=(2000, 2000)))


def test_an_image_that_is_read_by_rows_has_windows_if_it_may_be_decoded_whole():
    data = encoded("PNG")
    dense, windows = scaled(data, Scaling(windows=OPENCV), whole_pixels=1).images
    assert dense.by_rows
    assert windows.for_windows is not None
    small = DecodeLimits(max_pixels=1000)
    dense, windows = scaled(data, Scaling(windows=OPENCV), decode=small, whole_pixels=1).images
    assert dense.by_rows
    assert windows.rejected is not None
    assert windows.rejected.reason is Reason.TOO_MANY_PIXELS


def test_a_strip_that_would_grow_costs_what_is_granted_at_most():
    """369 bytes whose shorter side grows to 256: 6.5 million pixels, in float64 several times."""
    strip = encoded("PNG", np.zeros((1, 100, 3), np.uint8))
    scaling = Scaling(scales=(), windows=WindowResize(WindowFilter.SKIMAGE, 256))
    needed = decode_scaled(strip, ScalingLimits(decode=DecodeLimits()), scaling, 10_000_000)
    assert isinstance(needed, NeededBytes)
    assert needed.size > 100 * 256 * 25_600
    longer = encoded("PNG", np.zeros((1, 300, 3), np.uint8))
    [windows] = scaled(longer, scaling).images
    assert windows.rejected is not None
    assert windows.rejected.reason is Reason.TOO_MANY_PIXELS


def test_a_size_beyond_the_limit_is_rejected():
    line = encoded("PNG", np.zeros((1, 5000, 3), np.uint8))
    [windows] = scaled(line, Scaling(scales=(), windows=WindowResize(WindowFilter.PIL, 9000))).images
    assert windows.rejected is not None
    assert windows.rejected.reason is Reason.TOO_MANY_PIXELS


def test_colours_are_grey_before_they_are_resized():
    [windows] = scaled(encoded("PNG"), Scaling(scales=(), windows=OPENCV), grey=True).images
    grey = np.repeat(luma(PIXELS)[:, :, None], 3, axis=2)
    np.testing.assert_array_equal(windows.for_windows, resize_for_windows(grey, (20, 24), WindowFilter.OPENCV))
