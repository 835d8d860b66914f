"""Reading an image too large to be decoded whole: rows from top to bottom, at a bounded memory.

libvips decodes, with libraries of the same kin as Pillow's (libjpeg, libtiff), and sees what Pillow is shown of a file
(`pipeline.images.formats`). It is asked only where the pixels are those of `pipeline.images.decode.decode`, which
`can_stream` says; tests/pipeline/test_windows.py compares them bit by bit. Everything else is decoded whole, within
`DecodeLimits.max_pixels`: other orientations than upright, progressive JPEG and interlaced PNG (their first row
needs the last byte), CMYK, alpha multiplied in, planes stored apart, other formats.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from pipeline.images import formats
from pipeline.images.decode import DecodeLimits, ImageHeader, Pixels, grey_16, header
from pipeline.rejection import Reason, Rejected

Source: TypeAlias = bytes | str | Path

_ROWS_AT_ONCE = 64
"""Rows fetched at once: what libvips, its copy and the conversion to RGB hold besides the band."""

_TRUNCATED = ("premature end of jpeg", "premature end of input", "truncated", "not enough data", "end of file")
"""Parts of the decoders' messages about files that end early."""


def can_stream(found: ImageHeader) -> bool:
    """Whether `open_rows` reads such an image; others have to be decoded whole."""
    return found.streams


class Rows(Protocol):
    """What gives an image's rows from top to bottom."""

    def rows(self, top: int, bottom: int) -> Pixels:
        """See `RowReader.rows`."""


class RowReader:
    """The rows of an image, from top to bottom; made by `open_rows`.

    Attributes:
        height: Rows of the image.
        width: Columns.
    """

    def __init__(self, decoder: _Decoder, found: ImageHeader, *, complete: bool, release: Callable[[], None]) -> None:
        self.height, self.width = found.height, found.width
        self._decoder: _Decoder | None = decoder
        self._found, self._complete, self._release = found, complete, release
        self._band = np.empty((0, self.width, 3), np.uint8)
        self._top = self._bottom = 0  # the rows that the band holds
        self._failed: Rejected | None = None

    def rows(self, top: int, bottom: int) -> Pixels:
        """Rows [top, bottom) as uint8 [bottom - top, width, 3], RGB, read-only.

        The array is a view of the reader's own band, which the next call overwrites.

        Args:
            top: The first row; none before the last call's `top` can be had again.
            bottom: The row behind the last; not before the last call's `bottom`.

        Raises:
            Rejected: TRUNCATED, CORRUPT, OUT_OF_MEMORY.
            ValueError: The rows lie outside the image, or before those read last.
        """
        if self._decoder is None:
            raise ValueError("the image is closed")
        if not (self._top <= top < bottom <= self.height and self._bottom <= bottom):
            raise ValueError(
                f"rows {top} to {bottom} of {self.height}, after rows {self._top} to {self._bottom}: forward only"
            )
        if self._failed is not None:
            raise Rejected(self._failed.reason, self._failed.detail)
        try:
            self._advance(self._decoder, top, bottom)
        except Rejected as rejected:
            self._failed = rejected
            raise
        rows = self._band[: bottom - top]
        rows.setflags(write=False)
        return rows

    def _advance(self, decoder: _Decoder, top: int, bottom: int) -> None:
        """Makes the band hold rows [top, bottom)."""
        with _rejecting(self._found.format, complete=self._complete):
            kept = max(0, self._bottom - top)
            if bottom - top > len(self._band):
                band = np.empty((bottom - top, self.width, 3), np.uint8)
                band[:kept] = self._band[self._bottom - self._top - kept : self._bottom - self._top]
                self._band = band
            else:  # NumPy copies overlapping memory in the right order
                self._band[:kept] = self._band[self._bottom - self._top - kept : self._bottom - self._top]
            start = max(top, self._bottom)
            # Rows that no one wants are decoded and dropped: the file has one direction.
            self._top, self._bottom = top, bottom
            for row in range(start, bottom, _ROWS_AT_ONCE):
                count = min(_ROWS_AT_ONCE, bottom - row)
                self._band[row - top : row - top + count] = decoder.fetch(row, count)
            self._release()

    def close(self) -> None:
        """Lets go of decoder and band; called by `open_rows`."""
        self._decoder, self._band = None, self._band[:0]


class _Decoder:
    """libvips, reading a stream as rows are fetched."""

    def __init__(self, stream: formats.Joined, found: ImageHeader) -> None:
        vips = _vips()
        source = vips.SourceCustom()
        source.on_read(stream.read)
        source.on_seek(stream.seek)
        load = {"JPEG": "jpegload_source", "PNG": "pngload_source", "TIFF": "tiffload_source"}[found.format]
        image = getattr(vips.Image, load)(source, access="sequential", fail_on="error")
        if (image.height, image.width) != (found.height, found.width) or image.format not in ("uchar", "ushort"):
            raise Rejected(
                Reason.CORRUPT, f"{found.format}: {image.height} x {image.width} {image.format} by another reader"
            )
        self._width, self._bands = image.width, image.bands
        self._dtype = np.dtype({"uchar": np.uint8, "ushort": np.uint16}[image.format])
        self._region = vips.Region.new(image)
        # libvips calls back into this object as long as there is a region: it must go last.
        self._source = source

    def fetch(self, row: int, count: int) -> Pixels:
        """uint8 [count, width, 3] from `row` on."""
        fetched = self._region.fetch(0, row, self._width, count)
        samples = np.frombuffer(fetched, self._dtype).reshape(count, self._width, self._bands)
        if samples.dtype == np.uint16:
            if self._bands == 1:
                return grey_16(samples[..., 0])
            samples = (samples >> 8).astype(np.uint8)  # as Pillow does; see `decode`
        # Alpha is dropped, grey repeated.
        return np.repeat(samples[..., :1], 3, axis=2) if self._bands < 3 else samples[..., :3]


@contextlib.contextmanager
def open_rows(source: Source, limits: DecodeLimits) -> Iterator[RowReader]:
    """Opens an image for reading by rows.

    Args:
        source: The bytes of a whole file, or the path of one, which is mapped and not read.
        limits: `max_tiled_pixels` counts, not `max_pixels`.

    Raises:
        Rejected: All that `header` refuses; UNSUPPORTED_MODE where the image cannot be read by rows (`can_stream`);
            MISSING or UNREADABLE where there is no such path; TRUNCATED, CORRUPT, OUT_OF_MEMORY.
    """
    with _opened(source) as data:
        found = header(data, limits.tiled())
        if not can_stream(found):
            raise Rejected(
                Reason.UNSUPPORTED_MODE,
                f"{found.format} of mode {found.mode}, orientation {found.orientation}: cannot be read by rows",
            )
        if found.format == "JPEG":
            formats.check_scan(data)
        container = formats.read(data)
        with contextlib.closing(formats.Joined(container.parts)) as stream:
            with _rejecting(found.format, complete=container.complete):
                release = functools.partial(formats.forget, data)
                strips = RowReader(_Decoder(stream, found), found, complete=container.complete, release=release)
            with contextlib.closing(strips):
                yield strips


@contextlib.contextmanager
def _opened(source: Source) -> Iterator[formats.File]:
    if isinstance(source, bytes):
        yield source
        return
    try:
        with Path(source).open("rb") as file:
            if not file.seek(0, io.SEEK_END):
                raise Rejected(Reason.EMPTY)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError as error:
        raise Rejected(Reason.MISSING, str(error)) from error
    except (OSError, ValueError) as error:
        raise Rejected(Reason.UNREADABLE, str(error)) from error
    # Not closed: views of it may be alive in a traceback. It goes with the last of them.
    yield mapped


@contextlib.contextmanager
def _rejecting(format_name: str, *, complete: bool) -> Iterator[None]:
    """Turns what libvips raises into `Rejected`."""
    try:
        yield
    except MemoryError as error:
        raise Rejected(Reason.OUT_OF_MEMORY, f"{format_name}: the rows do not fit in memory") from error
    except _vips().Error as error:
        text = str(error.detail or error.message)
        if "out of memory" in text.lower():
            raise Rejected(Reason.OUT_OF_MEMORY, f"{format_name}: {text}") from error
        early = not complete or any(part in text.lower() for part in _TRUNCATED)
        raise Rejected(Reason.TRUNCATED if early else Reason.CORRUPT, f"{format_name}: {text}") from error


@functools.cache
def _vips() -> Any:
    """pyvips, set up: only loaders that are fuzzed, no cache of operations, no threads but the caller's."""
    # Warnings of decoders about odd metadata: what matters is raised.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    import pyvips

    pyvips.block_untrusted_set(True)
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    return pyvips
