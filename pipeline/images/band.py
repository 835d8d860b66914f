"""The rows that a row reader keeps: in memory if they are few bytes, otherwise in a temporary file without a name.

A band is as high as a tile and as wide as the image. Of an image of 2,000 x 400,000 pixels it has 2.4 GB, though each
tile has 12 MB, and formats that are decoded row by row give no tile before they have given all of its rows.
"""

from __future__ import annotations

import os
import tempfile
from typing import Protocol

import numpy as np

from pipeline.images.samples import Pixels
from pipeline.rejection import Reason, Rejected

IN_MEMORY = 2**26
"""A band of more bytes is kept in a file."""

_CHANNELS = 3


class Band(Protocol):
    """Keeps the rows [top, bottom) of an image, RGB, uint8."""

    def move(self, top: int, bottom: int) -> None:
        """Keeps rows [top, bottom) from now on: those that the band had before, and those that `put` adds."""

    def put(self, row: int, pixels: Pixels) -> None:
        """Stores `pixels`, [n, width, 3], as the rows from `row` on."""

    def get(self, left: int, right: int) -> Pixels:
        """Returns columns [left, right) of all rows, uint8 [bottom - top, right - left, 3]."""

    def close(self) -> None:
        """Drops the rows."""


def band_of(height: int, width: int, in_memory: int = IN_MEMORY) -> Band:
    """Returns a band for up to `height` rows of `width` pixels."""
    if height * width * _CHANNELS <= in_memory:
        return _MemoryBand(height, width)
    return _FileBand(height, width)


class _MemoryBand:
    def __init__(self, height: int, width: int) -> None:
        self._rows = np.empty((height, width, _CHANNELS), np.uint8)
        self._top = self._bottom = 0

    def move(self, top: int, bottom: int) -> None:
        kept = max(0, self._bottom - top)
        # NumPy handles overlapping memory.
        self._rows[:kept] = self._rows[self._bottom - self._top - kept : self._bottom - self._top]
        self._top, self._bottom = top, bottom

    def put(self, row: int, pixels: Pixels) -> None:
        self._rows[row - self._top : row - self._top + len(pixels)] = pixels

    def get(self, left: int, right: int) -> Pixels:
        return self._rows[: self._bottom - self._top, left:right]

    def close(self) -> None:
        self._rows = self._rows[:0]


class _FileBand:
    """A ring of rows in a file: row r lies at r modulo the height, so that no row moves.

    Read and written by position, not mapped: pages of a mapped file count as memory of the process.
    """

    def __init__(self, height: int, width: int) -> None:
        self._height, self._row_bytes = height, width * _CHANNELS
        self._top = self._bottom = 0
        try:
            # Opened for as long as the image is read. It has no name, so nothing is left behind by a process that dies.
            self._file = tempfile.TemporaryFile(prefix="densecast-")  # noqa: SIM115
        except OSError as error:
            raise self._full(error) from error

    def move(self, top: int, bottom: int) -> None:
        self._top, self._bottom = top, bottom

    def put(self, row: int, pixels: Pixels) -> None:
        try:
            for index, one in enumerate(np.ascontiguousarray(pixels)):
                rest = one.reshape(-1).data
                position = (row + index) % self._height * self._row_bytes
                while rest:
                    written = os.pwrite(self._file.fileno(), rest, position)
                    rest, position = rest[written:], position + written
        except OSError as error:
            raise self._full(error) from error

    def get(self, left: int, right: int) -> Pixels:
        columns = np.empty((self._bottom - self._top, right - left, _CHANNELS), np.uint8)
        try:
            for index, row in enumerate(columns):
                rest = row.reshape(-1).data
                position = (self._top + index) % self._height * self._row_bytes + left * _CHANNELS
                while rest:
                    count = os.preadv(self._file.fileno(), [rest], position)
                    if not count:
                        raise OSError(f"the file ends at byte {position}")
                    rest, position = rest[count:], position + count
        except OSError as error:
            raise self._full(error) from error
        return columns

    def close(self) -> None:
        self._file.close()

    def _full(self, error: OSError) -> Rejected:
        size, folder = self._height * self._row_bytes, tempfile.gettempdir()
        return Rejected(
            Reason.OUT_OF_MEMORY, f"{self._height:,} rows at a time take {size:,} bytes in {folder}: {error.strerror}"
        )
