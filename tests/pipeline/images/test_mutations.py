"""Damaged files: pixels of the announced shape or a typed reason, never a crash nor a hang.

`pytest -s tests/pipeline/test_mutations.py` prints what became of them, by format.
"""

import collections
import random
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline.images.decode import DecodeLimits
from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.rejection import Reason, Rejected
from tests.pipeline.images.test_bmp import bitmap
from tests.support.image_files import FILES, HEIGHT, LOSSLESS, MUTATIONS, PIXELS, WIDTH
from tests.support.tiff_files import DEFLATE, GREY, LZW, Layout, tiff_of

FIELD = Path(__file__).parent / "field"
GIF = FILES["animated GIF"]
_SAMPLES = PIXELS.astype(np.uint16) * 257
ODD = {
    "tiff of planes": tiff_of(_SAMPLES, Layout(16, planar=True, compression=LZW)),
    "tiff in tiled planes": tiff_of(_SAMPLES, Layout(16, planar=True, tile=(16, 16))),
    "tiff for libvips": tiff_of(_SAMPLES[..., :2], Layout(16, GREY, extra=(2,), compression=DEFLATE)),
    "bmp of run lengths": bitmap(48, 64, (b"\x20\1\0\4\1\2\3\4\x1c\5\0\0") * 47 + b"\0\2\3\0\x3d\7\0\1"),
    "gif on a screen": FILES["animated GIF"][:6]
    + struct.pack("<HH", WIDTH + 40, HEIGHT + 30)
    + FILES["animated GIF"][10:],
    "jpeg without its end": (FIELD / "j_noeoi.jpg").read_bytes(),
}
"""Files that are not decoded in one go by Pillow."""

SEEDS = 5
LIMITS = DecodeLimits(max_pixels=2**22)
"""Damaged headers announce any size; what is allocated for them stays small here."""

OF_DECODING = {
    Reason.EMPTY,
    Reason.UNKNOWN_FORMAT,
    Reason.TRUNCATED,
    Reason.CORRUPT,
    Reason.TOO_MANY_PIXELS,
    Reason.UNSUPPORTED_MODE,
}


@pytest.fixture(scope="module")
def decoder():
    with IsolatedDecoder(timeout_s=60, memory_bytes=2**31) as decoder:
        yield decoder


@pytest.fixture(scope="module")
def headers():
    with IsolatedDecoder(timeout_s=60, function="pipeline.images.decode:header") as decoder:
        yield decoder


def fate(decoder, data):
    try:
        return decoder.call(data, LIMITS)
    except Rejected as rejected:
        return rejected


def test_there_are_three_hundred_mutations_of_twelve_formats():
    assert len(FILES) == 12
    assert len(FILES) * len(MUTATIONS) * SEEDS >= 300


@pytest.mark.parametrize("name", FILES)
def test_undamaged_files_decode(decoder, name):
    pixels = decoder.call(FILES[name], LIMITS).pixels
    difference = np.abs(pixels.astype(int) - PIXELS).mean()
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert difference == 0 if name in LOSSLESS else 0 < difference < 30


@pytest.mark.parametrize("name", [*FILES, *ODD])
def test_damaged_files_decode_or_get_a_reason(decoder, headers, name):
    whole = (FILES | ODD)[name]
    decoder.call(whole, LIMITS)
    pid = decoder.pid
    fates = collections.Counter()
    for mutation, damage in MUTATIONS.items():
        for seed in range(SEEDS):
            data = damage(whole, random.Random(f"{name} {mutation} {seed}"))
            what = f"{name}, {mutation}, seed {seed}"
            announced, found = fate(headers, data), fate(decoder, data)
            if isinstance(found, Rejected):
                assert found.reason in OF_DECODING, what
                assert found.detail or found.reason is Reason.EMPTY, what
                fates[found.reason] += 1
            else:
                assert found.pixels.shape == (announced.height, announced.width, 3), what
                assert found.pixels.dtype == np.uint8, what
                fates["decoded"] += 1
            if isinstance(announced, Rejected):
                assert (announced.reason, announced.detail) == (found.reason, found.detail), what
            assert decoder.pid == pid, what
    sys.stdout.write(f"{name:22} {', '.join(f'{count} {kind}' for kind, count in fates.most_common())}\n")
    assert sum(fates.values()) == len(MUTATIONS) * SEEDS
    assert fates["decoded"] < len(MUTATIONS) * SEEDS
