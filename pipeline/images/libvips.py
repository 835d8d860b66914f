"""libvips, configured once, and the rows of an image that it decodes.

libvips decodes with the same libraries as Pillow (libjpeg, libpng, libtiff), and gives rows while it reads. It sees the
same parts of a file (`pipeline.images.formats`).
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline.images import formats
from pipeline.images.samples import Pixels, grey_16, high_byte, to_rgb
from pipeline.rejection import Reason, Rejected

_TRUNCATED = ("premature end of jpeg", "premature end of input", "truncated", "not enough data", "end of file")
"""Parts of the decoders' messages about truncated files."""


class Rows:
    """An image that libvips reads from a stream while rows are fetched, from top to bottom.

    Args:
        stream: The file.
        format_name: JPEG, PNG or TIFF.
        size: (height, width) of the image, by its header.
        colours: The number of samples of a pixel that are colours: 1 (grey), 3 (RGB) or 4 (CMYK); those after them are
            dropped. None: 1 if there are less than three, otherwise 3.
        warnings: Whether the decoder's warnings make it fail.

    Attributes:
        row_bytes: The bytes of a row, as it is decoded.

    Raises:
        Rejected: libvips sees an image of another size or of other samples. Call it within `rejecting`.
    """

    def __init__(
        self,
        stream: formats.Joined,
        format_name: str,
        size: tuple[int, int],
        colours: int | None = None,
        *,
        warnings: bool = False,
    ) -> None:
        vips = load_libvips()
        source = vips.SourceCustom()
        source.on_read(stream.read)
        source.on_seek(stream.seek)
        load = {"JPEG": "jpegload_source", "PNG": "pngload_source", "TIFF": "tiffload_source"}[format_name]
        image = getattr(vips.Image, load)(source, access="sequential", fail_on="error")
        if (image.height, image.width) != size or image.format not in ("uchar", "ushort"):
            raise Rejected(
                Reason.CORRUPT, f"{format_name}: {image.height} x {image.width} {image.format} by another reader"
            )
        self._width, self._bands = image.width, image.bands
        self._colours = colours or (1 if self._bands < 3 else 3)
        self._dtype = np.dtype({"uchar": np.uint8, "ushort": np.uint16}[image.format])
        self.row_bytes = image.width * image.bands * self._dtype.itemsize
        self._region = vips.Region.new(image)
        # libvips calls back into the source while the region exists, so the source must be freed last.
        self._source = source
        self._warns = warnings
        if warnings:
            _warnings(vips)

    def fetch(self, row: int, count: int) -> Pixels:
        """Returns `count` rows from `row` on as RGB, uint8 [count, width, 3]."""
        fetched = self._region.fetch(0, row, self._width, count)
        if self._warns and (text := _warnings(load_libvips())):
            raise load_libvips().Error(text)
        samples = np.frombuffer(fetched, self._dtype).reshape(count, self._width, self._bands)
        if self._bands == 1 and samples.dtype == np.uint16:
            return grey_16(samples[..., 0])
        return to_rgb(high_byte(samples[..., : self._colours]))


def warnings_of_jpeg(data: bytes) -> str:
    """Returns what libjpeg complains of while it decodes a whole JPEG; empty if it does not."""
    vips = load_libvips()
    _warnings(vips)
    try:
        vips.Image.jpegload_buffer(data, access="sequential", fail_on="none").avg()
    except vips.Error as error:
        return str(error.detail)
    return _warnings(vips)


def _warnings(vips: Any) -> str:
    """Returns and clears the messages that libvips has gathered in this process.

    `fail_on` is not enough: libvips looks at warnings before it reads rows, so it does not see those of the last ones.
    """
    return str(vips.Error("").detail)


@contextlib.contextmanager
def rejecting(format_name: str, *, complete: bool) -> Iterator[None]:
    """Turns the exceptions of libvips into `Rejected`.

    Args:
        format_name: The format of the file, for the message.
        complete: False if the file ends before its announced end.
    """
    try:
        yield
    except MemoryError as error:
        raise Rejected(Reason.OUT_OF_MEMORY, f"{format_name}: the rows do not fit in memory") from error
    except load_libvips().Error as error:
        text = str(error.detail or error.message)
        if "out of memory" in text.lower():
            raise Rejected(Reason.OUT_OF_MEMORY, f"{format_name}: {text}") from error
        if "not configured" in text:  # libtiff's words for a compression that it was built without
            raise Rejected(Reason.UNSUPPORTED_MODE, f"{format_name}: {text}") from error
        early = not complete or any(part in text.lower() for part in _TRUNCATED)
        raise Rejected(Reason.TRUNCATED if early else Reason.CORRUPT, f"{format_name}: {text}") from error


@functools.cache
def load_libvips() -> Any:
    """Returns pyvips, configured: only fuzzed loaders, no operation cache, no threads except the caller's."""
    # Decoders warn about odd metadata. Whatever matters is raised as an error.
    logging.getLogger("pyvips").setLevel(logging.ERROR)
    import pyvips

    pyvips.block_untrusted_set(True)
    pyvips.cache_set_max(0)
    pyvips.concurrency_set(1)
    return pyvips
