"""Run-length encoded BMP: Pillow misreads empty lines, odd RLE4 runs and images that end early.

Source: Microsoft, Windows GDI, "Bitmap compression" (RLE8 and RLE4).
"""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.images.samples import Pixels
from pipeline.rejection import Reason, Rejected

_FILE_HEADER, _INFO_HEADER = 14, 40
_RLE8, _RLE4 = 1, 2
_END_OF_LINE, _END_OF_BITMAP, _DELTA = 0, 1, 2


class RunLengthBitmap(NamedTuple):
    """A run-length encoded BMP whose header was read.

    Attributes:
        height: Rows of pixels.
        width: Columns of pixels.
        bits: 8 or 4, bits of an index.
        palette: uint8 [n, 3], RGB by index.
        start: The position of the first code.
    """

    height: int
    width: int
    bits: int
    palette: Pixels
    start: int


def read_run_length(data: bytes | mmap.mmap) -> RunLengthBitmap | None:
    """Returns the header of a run-length encoded BMP; None for any other BMP.

    Raises:
        Rejected: TRUNCATED if the palette lies beyond the end.
    """
    if len(data) < _FILE_HEADER + _INFO_HEADER:
        return None
    (start, header, width, height, _, bits, compression) = struct.unpack_from("<IIiiHHI", data, 10)
    (used,) = struct.unpack_from("<I", data, 46)
    if header < _INFO_HEADER or (compression, bits) not in ((_RLE8, 8), (_RLE4, 4)):
        return None
    count = min(used or 1 << bits, 1 << bits)
    at = _FILE_HEADER + header
    colours = data[at : at + 4 * count]
    if len(colours) < 4 * count:
        raise Rejected(Reason.TRUNCATED, "BMP: the palette lies beyond the end of the file")
    palette = np.zeros((1 << bits, 3), np.uint8)
    palette[:count] = np.frombuffer(colours, np.uint8).reshape(count, 4)[:, 2::-1]
    return RunLengthBitmap(height, width, bits, palette, start)


def decode_run_length(data: bytes | mmap.mmap, bitmap: RunLengthBitmap) -> Pixels:
    """Returns the pixels of a run-length encoded BMP, uint8 [h, w, 3].

    Pixels that the codes skip have index 0, as in OpenCV; the format leaves them undefined.

    Raises:
        Rejected: TRUNCATED if the codes end before the last pixel and without an end mark; CORRUPT if they lead out of
            the image.
    """
    height, width, bits, palette, position = bitmap
    indices = np.zeros((height, width), np.uint8)
    x = y = 0
    while y < height:
        if position + 2 > len(data):
            if y == height - 1 and x >= width:
                break
            raise Rejected(Reason.TRUNCATED, f"BMP: the codes end in row {y} of {height}")
        count, value = data[position], data[position + 1]
        position += 2
        if count:
            x = _put(indices[y], x, _run(value, count, bits))
        elif value == _END_OF_LINE:
            x, y = 0, y + 1
        elif value == _END_OF_BITMAP:
            break
        elif value == _DELTA:
            if position + 2 > len(data):
                raise Rejected(Reason.TRUNCATED, f"BMP: the codes end in row {y} of {height}")
            x, y = x + data[position], y + data[position + 1]
            position += 2
        else:
            stored = -(-value * bits // 8)
            literals = np.frombuffer(data[position : position + stored], np.uint8)
            if literals.size < stored:
                raise Rejected(Reason.TRUNCATED, f"BMP: the codes end in row {y} of {height}")
            x = _put(indices[y], x, _literals(literals, value, bits))
            position += stored + stored % 2
    return palette[indices[::-1]]  # the first row is the lowest


def _put(row: npt.NDArray[np.uint8], x: int, run: npt.NDArray[np.uint8]) -> int:
    """Writes a run from column `x` on; returns the column after it."""
    after = x + len(run)
    # Some writers let the last run of a row reach the next byte.
    if after > len(row) + 1:
        raise Rejected(Reason.CORRUPT, f"BMP: a run of {len(run)} pixels from column {x} on in a row of {len(row)}")
    row[x:after] = run[: max(0, len(row) - x)]
    return after


def _run(value: int, count: int, bits: int) -> npt.NDArray[np.uint8]:
    pair = (value, value) if bits == 8 else (value >> 4, value & 0x0F)
    return np.resize(np.array(pair, np.uint8), count)


def _literals(stored: npt.NDArray[np.uint8], count: int, bits: int) -> npt.NDArray[np.uint8]:
    return stored if bits == 8 else np.stack([stored >> 4, stored & 0x0F], axis=1).ravel()[:count]
