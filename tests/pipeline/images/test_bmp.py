"""Run-length encoded BMP: hand-written codes, and every array that is encoded comes back."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.images.decode import DecodeLimits, decode, header
from pipeline.rejection import Reason, Rejected

LIMITS = DecodeLimits()
FIELD = Path(__file__).parent / "field"
END, LINE = b"\0\1", b"\0\0"


def bitmap(height: int, width: int, codes: bytes, bits: int = 8, gap: int = 0) -> bytes:
    """A BMP whose colour of index i is (i, 2 i, 3 i) modulo 256."""
    count = 1 << bits
    palette = b"".join(bytes([3 * i % 256, 2 * i % 256, i, 0]) for i in range(count))
    start = 54 + len(palette) + gap
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, {8: 1, 4: 2}[bits], len(codes), 0, 0, count, 0)
    return b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start) + info + palette + bytes(gap) + codes


def indices(data: bytes) -> list[list[int]]:
    pixels = decode(data, LIMITS).pixels
    np.testing.assert_array_equal(pixels, (pixels[..., :1].astype(int) * [1, 2, 3] % 256))
    rows: list[list[int]] = pixels[..., 0].tolist()
    return rows


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        (b"\3\7" + LINE + b"\0\3\1\2\3\0" + END, [[1, 2, 3], [7, 7, 7]]),
        (LINE + b"\2\5" + END, [[5, 5, 0], [0, 0, 0]]),
        (b"\1\4\0\2\1\1\1\6" + END, [[0, 0, 6], [4, 0, 0]]),
        (END, [[0, 0, 0], [0, 0, 0]]),
        (b"\3\7" + LINE + b"\3\x08", [[8, 8, 8], [7, 7, 7]]),
        (b"\3\7" + LINE + b"\3\x08" + LINE, [[8, 8, 8], [7, 7, 7]]),
    ],
    ids=["runs", "an empty line", "a delta", "nothing", "no end", "no end after a line"],
)
@pytest.mark.parametrize("gap", [0, 1])
def test_codes_of_8_bits(codes: bytes, expected: list[list[int]], gap: int) -> None:
    data = bitmap(2, 3, codes, gap=gap)
    assert indices(data) == expected
    head = header(data, LIMITS)
    assert (head.format, head.mode, head.height, head.width) == ("BMP", "P", 2, 3)


def test_codes_of_4_bits() -> None:
    codes = b"\5\x12" + LINE + b"\0\3\x34\x50" + b"\2\x66" + END
    assert indices(bitmap(2, 5, codes, bits=4)) == [[3, 4, 5, 6, 6], [1, 2, 1, 2, 1]]


def test_a_last_run_that_fills_its_byte_is_cut() -> None:
    assert indices(bitmap(1, 3, b"\4\x12" + END, bits=4)) == [[1, 2, 1]]


@pytest.mark.parametrize(
    ("codes", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"\3\7" + LINE + b"\2\1", Reason.TRUNCATED),
        (b"\3\7\0\2\1", Reason.TRUNCATED),
        (b"\0\3\1", Reason.TRUNCATED),
        (b"\5\1" + END, Reason.CORRUPT),
        (b"\0\2\xff\0\1\1" + END, Reason.CORRUPT),
    ],
)
def test_faults(codes: bytes, reason: Reason) -> None:
    with pytest.raises(Rejected) as raised:
        decode(bitmap(2, 3, codes), LIMITS)
    assert raised.value.reason is reason


def test_a_palette_beyond_the_end_and_a_huge_size() -> None:
    with pytest.raises(Rejected) as raised:
        decode(bitmap(2, 3, END)[:200], LIMITS)
    assert raised.value.reason is Reason.TRUNCATED
    with pytest.raises(Rejected) as raised:
        decode(bitmap(60000, 60000, END), LIMITS)
    assert raised.value.reason is Reason.TOO_MANY_PIXELS
    with pytest.raises(Rejected) as raised:
        decode(bitmap(-2, 3, END), LIMITS)
    assert raised.value.reason is Reason.CORRUPT


@given(arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_what_is_encoded_comes_back(image: np.ndarray) -> None:
    codes = b""
    for row in image[::-1]:
        for value in row:
            codes += bytes([1, value])
        codes += LINE
    height, width = image.shape
    assert indices(bitmap(height, width, codes + END)) == image.tolist()


def test_the_file_of_a_report_is_what_opencv_reads() -> None:
    """A delta, then ten pixels; the rest has index 0, of red 194."""
    red = decode((FIELD / "b_rle8_delta.bmp").read_bytes(), LIMITS).pixels[..., 0]
    expected = np.full((48, 64), 194)
    expected[40, 5:15] = 64
    np.testing.assert_array_equal(red, expected)
