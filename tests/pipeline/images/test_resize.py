"""Scaling: sizes by hand, and what decoding smaller changes."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import JobError
from pipeline.images.decode import DecodeLimits, decode
from pipeline.images.resize import MAX_ENLARGEMENT, MAX_SCALES, Scaling, resample
from tests.pipeline.images.test_decode import encoded, exif

LIMITS = DecodeLimits()
SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("scaling", "size", "expected"),
    [
        (Scaling(), (480, 640), [(1.0, 480, 640)]),
        (Scaling(256), (480, 640), [(1.0, 256, 341)]),
        (Scaling(256), (640, 480), [(1.0, 341, 256)]),
        (Scaling(256), (200, 300), [(1.0, 256, 384)]),
        (Scaling((256, 200)), (480, 640), [(1.0, 256, 200)]),
        (Scaling(max_side=320), (480, 640), [(1.0, 240, 320)]),
        (Scaling(max_side=640), (480, 640), [(1.0, 480, 640)]),
        (Scaling(max_side=1000), (480, 640), [(1.0, 480, 640)]),
        (Scaling(256, 300), (480, 640), [(1.0, 225, 300)]),
        (Scaling((400, 200), 100), (480, 640), [(1.0, 100, 50)]),
        (Scaling(scales=(1, 0.7, 0.5)), (481, 640), [(1, 481, 640), (0.7, 337, 448), (0.5, 241, 320)]),
        (Scaling(max_side=320, scales=(2, 1)), (480, 640), [(2, 480, 640), (1, 240, 320)]),
        (Scaling(max_side=1), (1, 5000), [(1.0, 1, 1)]),
    ],
)
def test_target_sizes(scaling, size, expected):
    assert list(scaling.target_sizes(*size)) == expected


@given(SIDES, SIDES, st.integers(1, 600), st.integers(1, 600), st.sampled_from([(1.0,), (0.5, 1.0, 2.0)]))
def test_target_sizes_keep_the_aspect_and_the_limits(height, width, resize, max_side, scales):
    try:
        sizes = Scaling(resize, max_side, scales).target_sizes(height, width)
    except JobError:
        assert resize * max(scales) > MAX_ENLARGEMENT * min(height, width)
        return
    for scale, h, w in sizes:
        assert max(h, w) <= math.floor(max_side * scale + 0.5)
        assert min(h, w) <= math.floor(resize * scale + 0.5)
        exact = max(h, w) / max(height, width)
        for side, original in ((h, height), (w, width)):
            # Half a pixel of its own, and what half a pixel of the longer side makes here.
            assert side == 1 or abs(side - original * exact) <= 1.0


@pytest.mark.parametrize(
    "values",
    [
        {"resize": 0},
        {"resize": -5},
        {"resize": 2**21},
        {"resize": (0, 5)},
        {"resize": (5, 5, 5)},
        {"max_side": 0},
        {"max_side": -1},
        {"scales": ()},
        {"scales": (0.0,)},
        {"scales": (-1.0,)},
        {"scales": (math.nan,)},
        {"scales": (math.inf,)},
        {"scales": (MAX_ENLARGEMENT * 1.01,)},
        {"scales": (0.5, 1, 0.5)},
        {"scales": tuple((i + 1) / 100 for i in range(MAX_SCALES + 1))},
    ],
)
def test_scalings_that_make_no_sense(values):
    with pytest.raises(JobError):
        Scaling(**values)


@pytest.mark.parametrize(
    "scaling", [Scaling(256), Scaling((10, 100)), Scaling(scales=(1, 8)), Scaling(16, scales=(8,))]
)
def test_enlargement_has_an_end(scaling):
    sizes = [(10, 12)] if scaling.resize else []
    for size in sizes:
        with pytest.raises(JobError, match="a side may grow"):
            scaling.target_sizes(*size)
    assert scaling.target_sizes(100, 120)


def test_resampling_to_its_own_size_is_the_same_array():
    pixels = np.zeros((5, 7, 3), np.uint8)
    assert resample(pixels, (5, 7)) is pixels


def test_resampling_averages_where_it_shrinks():
    """Without antialiasing a chequerboard becomes one of its two colours."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    pixels = np.repeat(board[..., None], 3, axis=2).astype(np.uint8)
    small = resample(pixels, (8, 16))
    assert small.shape == (8, 16, 3)
    assert small.dtype == np.uint8
    assert abs(small.astype(int) - 127).max() <= 3


def test_resampling_does_not_overshoot():
    pixels = np.full((20, 20, 3), 50, np.uint8)
    pixels[:, 10:] = 200
    for size in ((7, 7), (33, 41)):
        assert {50, 200} <= set(np.unique(resample(pixels, size))) <= set(range(50, 201))


# --- decoding smaller


def photograph(height=640, width=960):
    """uint8 [h, w, 3]: structure at all sizes, as photographs have."""
    random = np.random.default_rng(0)
    total = np.zeros((height, width, 3))
    for power in range(2, 9):
        noise = random.normal(size=(max(2, height >> power), max(2, width >> power), 3)).astype(np.float32)
        layers = [Image.fromarray(noise[..., c]).resize((width, height), Image.Resampling.BICUBIC) for c in range(3)]
        total += np.stack([np.asarray(layer) for layer in layers], axis=2) * 2**power / 8
    return np.clip(total + 128, 0, 255).astype(np.uint8)


PHOTOGRAPH = encoded(Image.fromarray(photograph()), "JPEG", quality=92)


@pytest.mark.parametrize(
    ("wanted", "decoded"),
    [((80, 120), (160, 240)), ((81, 120), (320, 480)), ((40, 60), (80, 120)), ((10, 10), (80, 120)),
     ((160, 240), (320, 480)), ((161, 240), (640, 960)), ((80, 400), (640, 960)), ((2000, 2000), (640, 960))],
)  # fmt: skip
def test_a_jpeg_is_decoded_at_least_twice_as_large_as_wanted(wanted, decoded):
    image = decode(PHOTOGRAPH, LIMITS, at_least=wanted)
    assert image.pixels.shape == (*decoded, 3)
    assert (image.height, image.width) == (640, 960)


def test_orientation_is_minded():
    turned = encoded(Image.fromarray(photograph()), "JPEG", exif=exif(6))
    image = decode(turned, LIMITS, at_least=(240, 160))
    assert image.pixels.shape == (480, 320, 3)
    assert (image.height, image.width) == (960, 640)
    assert decode(turned, LIMITS, at_least=(241, 160)).pixels.shape == (960, 640, 3)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "BMP"])
def test_other_formats_are_decoded_whole(kind):
    data = encoded(Image.fromarray(photograph(64, 96)), kind)
    image = decode(data, LIMITS, at_least=(4, 4))
    assert image.pixels.shape == (64, 96, 3)
    np.testing.assert_array_equal(image.pixels, decode(data, LIMITS).pixels)


def test_without_a_wish_nothing_changes():
    np.testing.assert_array_equal(
        decode(PHOTOGRAPH, LIMITS).pixels, decode(PHOTOGRAPH, LIMITS, at_least=(640, 960)).pixels
    )
    with pytest.raises(ValueError, match="at_least"):
        decode(PHOTOGRAPH, LIMITS, at_least=(0, 5))


@pytest.mark.parametrize("size", [(160, 240), (100, 151), (80, 120), (40, 60)])
def test_the_last_bits_that_decoding_smaller_changes(size):
    """The bound that `decode` documents."""
    whole = resample(decode(PHOTOGRAPH, LIMITS).pixels, size).astype(int)
    fewer = decode(PHOTOGRAPH, LIMITS, at_least=size)
    assert fewer.pixels.shape[0] < 640
    difference = abs(resample(fewer.pixels, size).astype(int) - whole)
    assert 0 < difference.mean() < 0.4
    assert difference.max() <= 4
