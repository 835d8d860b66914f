"""The rows of a huge image, decoded in a process of its own: the caller's half, and what answers it in the child."""

from __future__ import annotations

import contextlib

from pipeline.images.decode import DecodeLimits, Pixels
from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.images.row_reader import RowReader, open_rows
from pipeline.rejection import Reason, Rejected

_FUNCTION = "pipeline.images.row_reader_isolated:rows"


class Bands:
    """The rows of an image, from top to bottom, as `RowReader` gives them; a context manager.

    Args:
        data: The image file.
        limits: `max_tiled_pixels` counts.
        timeout_s: Seconds that the decoding of one band may take.
    """

    def __init__(self, data: bytes, limits: DecodeLimits, timeout_s: float) -> None:
        self._data, self._limits = data, limits
        self._decoder = IsolatedDecoder(timeout_s, function=_FUNCTION)

    def rows(self, top: int, bottom: int) -> Pixels:
        """See `RowReader.rows`; DECODER_HUNG and DECODER_DIED besides."""
        # The file travels once; the child keeps it.
        data, self._data = self._data, b""
        band: Pixels = self._decoder.call(data, self._limits, top, bottom)
        return band

    def __enter__(self) -> Bands:
        return self

    def __exit__(self, *exception: object) -> None:
        self._decoder.close()


class _Image:
    """The image of this process, which serves one."""

    def __init__(self) -> None:
        self._opened = contextlib.ExitStack()
        self._strips: RowReader | None = None

    def strips(self, data: bytes, limits: DecodeLimits) -> RowReader:
        if data:
            self._opened.close()
            self._strips = self._opened.enter_context(open_rows(data, limits))
        if self._strips is None:
            raise Rejected(Reason.DECODER_DIED, "in the middle of the image")
        return self._strips


_image = _Image()


def rows(data: bytes, limits: DecodeLimits, top: int, bottom: int) -> Pixels:
    """Rows [top, bottom) of the image in `data`, or of the last one where `data` is empty; runs in the child."""
    return _image.strips(data, limits).rows(top, bottom)
