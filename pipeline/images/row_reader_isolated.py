"""The rows of a huge image, decoded in a child process: the caller's side, and the function that runs in the child."""

from __future__ import annotations

import contextlib
from typing import Self

import numpy as np

from pipeline.images.decode import DecodeLimits
from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.images.row_reader import RowReader, open_rows
from pipeline.images.samples import Pixels
from pipeline.rejection import Reason, Rejected

_FUNCTION = "pipeline.images.row_reader_isolated:rows"


class IsolatedRowReader:
    """Reads the rows of an image from top to bottom, as `RowReader` does, in a child process; a context manager.

    Args:
        data: The image file.
        limits: The size limit is `max_tiled_pixels`.
        timeout_s: Seconds that one call of `rows` may take.
        grey: See `pipeline.images.decode.decode`.
    """

    def __init__(self, data: bytes, limits: DecodeLimits, timeout_s: float, *, grey: bool = False) -> None:
        self._data, self._limits, self._grey = data, limits, grey
        self._decoder = IsolatedDecoder(timeout_s, function=_FUNCTION)

    def rows(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> Pixels:
        """See `RowReader.rows`; also raises Rejected with DECODER_HUNG and DECODER_DIED."""
        # The file is sent once; the child keeps it.
        data, self._data = self._data, b""
        columns: Pixels = self._decoder.call(data, self._limits, (top, bottom), (left, right), grey=self._grey)
        return columns

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._decoder.close()


class _Image:
    """The image that this child process reads; there is one at a time."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()
        self._reader: RowReader | None = None

    def reader(self, data: bytes, limits: DecodeLimits, *, grey: bool) -> RowReader:
        if data:
            self._opened.close()
            self._reader = self._opened.enter_context(open_rows(data, limits, grey=grey))
        if self._reader is None:
            raise Rejected(Reason.DECODER_DIED, "while the image was read")
        return self._reader


_image = _Image()


def rows(
    data: bytes,
    limits: DecodeLimits,
    rows: tuple[int, int],
    columns: tuple[int, int | None],
    *,
    grey: bool = False,
) -> Pixels:
    """Returns rows and columns of the image in `data`, or of the last image if `data` is empty. Runs in the child."""
    return np.ascontiguousarray(_image.reader(data, limits, grey=grey).rows(*rows, *columns))
