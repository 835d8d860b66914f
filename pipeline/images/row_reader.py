"""Reads an image that is too large to be decoded whole: rows from top to bottom, in bounded memory.

libvips decodes, and is used only if its pixels equal those of `pipeline.images.decode.decode`
(`ImageHeader.streams`); tests/pipeline/images/test_row_reader.py compares them bit by bit. All other images are decoded
whole, up to `DecodeLimits.max_pixels`: images that are not upright, progressive JPEG and interlaced PNG (their first
row needs the last byte), CMYK, separate planes, other formats.

Memory does not grow with the width: rows that take many bytes are kept in a file (`pipeline.images.band`), are fetched
a few at a time, and are handed out in columns. libvips itself holds some rows, so an image may have at most `MAX_WIDTH`
columns.
"""

from __future__ import annotations

import contextlib
import functools
import io
import mmap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol, TypeAlias

from pipeline.images import formats, jpeg, libvips
from pipeline.images.band import IN_MEMORY, Band, band_of
from pipeline.images.decode import MAX_WIDTH, DecodeLimits, ImageHeader, header, too_wide
from pipeline.images.samples import Pixels
from pipeline.rejection import Reason, Rejected

Source: TypeAlias = bytes | str | Path

_CACHED_ROWS = 544
"""The rows that libvips keeps of what it decodes, whatever is fetched: 34 strips of 16 rows (8.18, one thread)."""

_ROWS_AT_ONCE = 64
"""The most rows per fetch: this many rows are held by libvips, in a copy and as RGB, besides the band."""

_BYTES_AT_ONCE = 2**22
"""The most bytes per fetch, as RGB; but at least a row."""


class Rows(Protocol):
    """Gives the rows of an image from top to bottom."""

    def rows(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> Pixels:
        """See `RowReader.rows`."""


class RowReader:
    """The rows of an image, from top to bottom; made by `open_rows`.

    Attributes:
        height: Rows of pixels of the image.
        width: Columns of pixels.
    """

    def __init__(
        self,
        decoder: libvips.Rows,
        head: ImageHeader,
        *,
        complete: bool,
        release: Callable[[], None],
        in_memory: int = IN_MEMORY,
    ) -> None:
        self.height, self.width = head.height, head.width
        self._decoder: libvips.Rows | None = decoder
        self._head, self._complete, self._release = head, complete, release
        self._in_memory = in_memory
        self._at_once = max(1, min(_ROWS_AT_ONCE, _BYTES_AT_ONCE // (3 * self.width)))
        self._band: Band | None = None
        self._capacity = 0  # rows that fit in the band
        self._top = self._bottom = 0  # the band holds rows [_top, _bottom)
        self._failed: Rejected | None = None

    def rows(self, top: int, bottom: int, left: int = 0, right: int | None = None) -> Pixels:
        """Returns columns [left, right) of rows [top, bottom) as RGB, uint8 [bottom - top, right - left, 3], read-only.

        The array may be a view of the reader's buffer, which the next call overwrites. Further columns of the same rows
        are not decoded again.

        Args:
            top: The first row; not less than the last call's `top`.
            bottom: The row after the last; not less than the last call's `bottom`.
            left: The first column.
            right: The column after the last; None for the width.

        Raises:
            Rejected: TRUNCATED, CORRUPT, OUT_OF_MEMORY.
            ValueError: The rows are outside the image, or are before those of the last call; or the reader is closed.
        """
        if self._decoder is None:
            raise ValueError("the image is closed")
        if not (self._top <= top < bottom <= self.height and self._bottom <= bottom):
            raise ValueError(
                f"rows {top} to {bottom} of {self.height} after rows {self._top} to {self._bottom}: only forward"
            )
        right = self.width if right is None else right
        if not 0 <= left < right <= self.width:
            raise ValueError(f"columns {left} to {right} of {self.width}")
        if self._failed is not None:
            raise Rejected(self._failed.reason, self._failed.detail)
        try:
            columns = self._advance(self._decoder, top, bottom).get(left, right)
        except Rejected as rejected:
            self._failed = rejected
            raise
        columns.setflags(write=False)
        return columns

    def _advance(self, decoder: libvips.Rows, top: int, bottom: int) -> Band:
        """Reads on until the band holds rows [top, bottom), and returns it."""
        with libvips.rejecting(self._head.format, complete=self._complete):
            band = self._band_for(top, bottom)
            start = max(top, self._bottom)
            band.move(top, bottom)
            # Skipped rows are decoded and dropped: the file is read in one direction.
            self._top, self._bottom = top, bottom
            for row in range(start, bottom, self._at_once):
                band.put(row, decoder.fetch(row, min(self._at_once, bottom - row)))
            if start < bottom:
                self._release()
            return band

    def _band_for(self, top: int, bottom: int) -> Band:
        """Returns a band with room for rows [top, bottom), which holds what was read of them."""
        if self._band is not None and bottom - top <= self._capacity:
            return self._band
        old, self._capacity = self._band, bottom - top
        new = self._band = band_of(self._capacity, self.width, self._in_memory)
        if old is not None:
            if self._bottom > top:
                old.move(top, self._bottom)
                new.move(top, self._bottom)
                new.put(top, old.get(0, self.width))
            old.close()
        return new

    def close(self) -> None:
        """Releases decoder and band; called by `open_rows`."""
        self._decoder = None
        if self._band is not None:
            self._band.close()
        self._band = None


@contextlib.contextmanager
def open_rows(
    source: Source, limits: DecodeLimits, *, grey: bool = False, in_memory: int = IN_MEMORY
) -> Iterator[RowReader]:
    """Opens an image for reading by rows.

    Args:
        source: The bytes of a whole file, or the path of a file, which is memory-mapped.
        limits: The size limit is `max_tiled_pixels`, not `max_pixels`.
        grey: See `decode`.
        in_memory: Rows of more bytes are kept in a temporary file.

    Raises:
        Rejected: `header` rejects the file; UNSUPPORTED_MODE if the image cannot be read by rows
            (`ImageHeader.streams`); TOO_MANY_PIXELS if it is wider than `MAX_WIDTH`; MISSING or UNREADABLE if there is
            no such path; TRUNCATED, CORRUPT, OUT_OF_MEMORY.
    """
    with _opened(source) as data:
        head = header(data, limits.tiled(), grey=grey)
        if not head.streams:
            raise Rejected(
                Reason.UNSUPPORTED_MODE,
                f"{head.format} of mode {head.mode}, orientation {head.orientation}: cannot be read by rows",
            )
        if head.width > MAX_WIDTH:
            raise too_wide(head.width)
        container = formats.read(data)
        parts, complete, colours = container.parts, container.complete, None
        if head.format == "JPEG":
            parts, complete = _parts_of_jpeg(data, limits, grey=grey)
            colours = 1 if grey else None
        with contextlib.closing(formats.Joined(parts)) as stream:
            with libvips.rejecting(head.format, complete=complete):
                release = functools.partial(formats.forget, data)
                # Where the end is missing, a warning says whether pixels are missing too.
                size = (head.height, head.width)
                rows = libvips.Rows(stream, head.format, size, colours, warnings=not complete)
                if rows.row_bytes > 3 * MAX_WIDTH:
                    raise Rejected(
                        Reason.TOO_MANY_PIXELS, f"rows of {rows.row_bytes:,} bytes; at most {3 * MAX_WIDTH:,}"
                    )
                reader = RowReader(rows, head, complete=complete, release=release, in_memory=in_memory)
            with contextlib.closing(reader):
                yield reader


def memory_of(width: int) -> int:
    """Returns the bytes that reading an image of a width by rows takes at most, besides the file."""
    return _CACHED_ROWS * 3 * width + IN_MEMORY


def _parts_of_jpeg(
    data: formats.File, limits: DecodeLimits, *, grey: bool
) -> tuple[tuple[bytes | memoryview, ...], bool]:
    """Returns the parts of a JPEG that libvips sees, with an end marker, and whether the file has one itself."""
    marker, position = jpeg.marker_in_scan(data)
    formats.forget(data)
    if marker not in (b"", jpeg.END):
        raise Rejected(Reason.CORRUPT, f"JPEG: the marker {marker.hex()} at byte {position}, within the image")
    parts = (jpeg.luma_parts(data) if grey else None) or (data if isinstance(data, bytes) else memoryview(data),)
    if not marker and limits.strict:
        raise Rejected(Reason.TRUNCATED, "JPEG: no end marker")
    return (parts, True) if marker else ((*parts, jpeg.END), False)


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
    # Not closed, because a traceback may still refer to views of it. It is freed with the last of them.
    yield mapped
