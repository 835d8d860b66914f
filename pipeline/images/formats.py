"""Selects the parts of a file that Pillow sees: only what the pixels of its first image depend on.

Reading the container before Pillow does has three purposes. The size and the orientation are known, and an image can be
rejected, before anything is allocated (Pillow allocates a whole canvas while it opens a WebP or a GIF). Damaged
metadata neither costs an image nor makes Pillow warn, because Pillow never sees it. And a truncated file can be told
from a damaged one.

JPEG, BMP and PPM are passed on unchanged: Pillow's own parsers stop before the pixels and allocate nothing.

Sources: PNG, third edition (W3C, 2025); GIF89a specification (CompuServe, 1990); WebP container and VP8L bitstream
specifications (Google); RFC 6386, section 9.1 (VP8 frame header).
"""

import bisect
import dataclasses
import io
import itertools
import mmap
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from pipeline.images import bmp, jpeg, tiff, tiff_layout
from pipeline.rejection import Reason, Rejected

File: TypeAlias = bytes | mmap.mmap
"""A whole file; memory-mapped if it is too large to be read."""


_FORGET_EVERY = 2**26


def forget(data: File) -> None:
    """Releases the pages of a mapped file that were read: they would count as memory of this process."""
    if isinstance(data, mmap.mmap):
        data.madvise(mmap.MADV_DONTNEED)


class Joined(io.RawIOBase):
    """A file that consists of parts of other files, without copying them."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        super().__init__()
        self._parts = [memoryview(part) for part in parts]
        self._starts = [0, *itertools.accumulate(len(part) for part in self._parts)]
        self._position = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position, as files do; also beyond the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Returns up to `size` bytes, or the rest."""
        end = self._starts[-1] if size is None or size < 0 else min(self._position + size, self._starts[-1])
        pieces = []
        index = bisect.bisect_right(self._starts, self._position) - 1
        while self._position < end:
            start = self._starts[index]
            pieces.append(self._parts[index][self._position - start : end - start])
            self._position += len(pieces[-1])
            index += 1
        return b"".join(pieces)


class Canvas(NamedTuple):
    """A screen on which an image lies.

    Attributes:
        height: Rows of pixels.
        width: Columns of pixels.
        top: The row of the image's first row.
        left: The column of its first column.
        colour: RGB of the pixels around the image.
    """

    height: int
    width: int
    top: int
    left: int
    colour: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Container:
    """The first image of a file.

    Attributes:
        format: Pillow's name of the format.
        parts: The file that Pillow sees, in pieces.
        size: (height, width) in pixels, as stored; None if Pillow's own parser reads it at no cost.
        orientation: EXIF orientation, 1 to 8; None if Pillow's own parser keeps the EXIF block.
        complete: False if the file ends before its announced end: a failure then means truncated, not corrupt.
        largest: The highest value of a 16-bit grey sample: 65535, or 4095 in a TIFF with 12 bits.
        inverted: Whether zero is white (TIFF: WhiteIsZero), which Pillow leaves to its callers above 8 bits.
        tile: (height, width) of the tiles that have to be decoded whole; None if there are none.
        flaw: Why the file is rejected, unless it is rejected for its size, which is checked later; None if it is valid.
        streams: Whether the rows can be decoded from top to bottom, in bounded memory, to the same pixels.
        planes: A file for each colour, a grey image, in place of `parts`; empty if a pixel's samples are together.
        by_libvips: Whether libvips decodes the file, because Pillow does not read it.
        colours: The number of samples of a pixel that are colours, for files that libvips decodes.
        canvas: What the image lies on; None if the image is all.
        run_length: The header of a run-length encoded BMP, which Pillow does not decode; None for others.
    """

    format: str
    parts: tuple[bytes | memoryview, ...]
    size: tuple[int, int] | None = None
    orientation: int | None = None
    complete: bool = True
    largest: int = 65535
    inverted: bool = False
    tile: tuple[int, int] | None = None
    flaw: Rejected | None = None
    streams: bool = False
    planes: tuple[tuple[bytes | memoryview, ...], ...] = ()
    by_libvips: bool = False
    colours: int = 3
    canvas: Canvas | None = None
    run_length: bmp.RunLengthBitmap | None = None

    @property
    def data(self) -> bytes:
        """The file that Pillow sees."""
        (first, *more) = self.parts
        return first if isinstance(first, bytes) and not more else b"".join(self.parts)


def sniff(data: File) -> str:
    """Returns Pillow's name of the format that the first bytes show; empty if densecast does not decode it."""
    data = data[:16]
    for format_name, beginnings in _MAGIC.items():
        if data.startswith(beginnings):
            return format_name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    # Two letters do not distinguish a PPM from a text, so the bytes after them are checked as well.
    if data[:1] == b"P" and data[1:2] in b"123456f" and data[2:3] in b"\t\n\v\f\r #" and len(data) > 2:
        return "PPM"
    return ""


_MAGIC: dict[str, tuple[bytes, ...]] = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "BMP": (b"BM",),
}

_OTHERS = {
    "HEIC": re.compile(rb".{4}ftyp(?:heic|heix|heim|heis|hevc|hevx|mif1|msf1)", re.DOTALL),
    "AVIF": re.compile(rb".{4}ftyp(?:avif|avis)", re.DOTALL),
    "JPEG XL": re.compile(rb"\xff\x0a|\0\0\0\x0cJXL \r\n\x87\n"),
    "JPEG 2000": re.compile(rb"\0\0\0\x0cjP  \r\n\x87\n|\xff\x4f\xff\x51"),
    "JPEG XR": re.compile(rb"II\xbc[\0\x01]"),
    "PSD": re.compile(rb"8BPS"),
    "OpenEXR": re.compile(rb"\x76\x2f\x31\x01"),
    "PDF": re.compile(rb"%PDF-"),
}
"""The first bytes of formats that densecast does not decode, to name them in a rejection."""

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The formats that densecast decodes, by Pillow's names."""


def read(data: File) -> Container:
    """Reads the container of `data`, a whole file.

    Raises:
        Rejected: UNKNOWN_FORMAT, or the container is damaged or not supported.
        struct.error, IndexError: The file ends within a header.
    """
    format_name = sniff(data)
    if not format_name:
        others = [name for name, beginning in _OTHERS.items() if beginning.match(data[:16])]
        named = f"{others[0]}, which densecast does not decode: convert it to JPEG or PNG" if others else ""
        # Not the bytes themselves: the file may be none of the user's images.
        raise Rejected(Reason.UNKNOWN_FORMAT, named or "its first bytes are not those of an image")
    reader = {"PNG": _png, "GIF": _gif, "WEBP": _webp, "TIFF": _tiff}.get(format_name)
    if reader:
        return reader(data)
    whole = (data if isinstance(data, bytes) else memoryview(data),)
    if format_name == "JPEG":
        return Container(format_name, whole, streams=jpeg.only_scan(data) > 0)
    run_length = bmp.read_run_length(data) if format_name == "BMP" else None
    size = (run_length.height, run_length.width) if run_length else None
    return Container(format_name, whole, size, orientation=1, run_length=run_length)


_PNG_SIGNATURE = 8
_PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""The samples of a pixel, by the colour type."""

_MOST_DEFLATED = 1032
"""No byte of deflated data holds more bytes (258 for a code of two bits)."""

_PNG_SPARE = 2**20
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})


def _png(data: File) -> Container:
    """Keeps the critical chunks: transparency is dropped in any case, and the default image of an APNG is its IDAT."""
    if data[12:16] != b"IHDR":
        raise Rejected(Reason.CORRUPT if len(data) >= 16 else Reason.TRUNCATED, "PNG: no IHDR chunk at the beginning")
    width, height = struct.unpack_from(">II", data, 16)
    view = memoryview(data)
    kept: list[bytes | memoryview] = [view[:_PNG_SIGNATURE]]
    exif = b""
    position, kind, complete = _PNG_SIGNATURE, b"", True
    while kind != b"IEND":
        if position + 12 > len(data):
            complete = False
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        complete = end <= len(data) or not kind.isalpha()
        if end > len(data) or not kind.isalpha():
            break
        if kind in _PNG_KEPT and (kind != b"IHDR" or position == _PNG_SIGNATURE):
            kept.append(view[position:end])
        elif kind == b"eXIf":
            exif = exif or data[position + 8 : end - 4]
        if position // _FORGET_EVERY != end // _FORGET_EVERY:
            forget(data)
        position = end
    if kind != b"IEND" and (kind in _PNG_KEPT or not kind.isalpha()):
        kept.append(view[position:])  # a truncated chunk, or not a chunk at all: Pillow decides whether it matters
    streams = data[28:29] == b"\0"  # if interlaced, the first row needs the last byte
    row_bytes = -(-width * data[24] * _PNG_SAMPLES.get(data[25], 1) // 8)
    flaw = None
    if height * row_bytes > _MOST_DEFLATED * sum(map(len, kept)) + _PNG_SPARE:
        flaw = Rejected(Reason.TRUNCATED, f"PNG: {len(data):,} bytes cannot hold {height:,} x {width:,} pixels")
    return Container(
        "PNG", tuple(kept), (height, width), tiff.exif_orientation(exif), complete, flaw=flaw, streams=streams
    )


_GIF_HEADER = 13
_GIF_DISPOSAL = 0b00011100


def _gif(data: File) -> Container:
    """Keeps the palette, the transparent index and the first image.

    Pillow sees a screen as large as the image, so that it allocates no other while it opens the file. The disposal
    method, for which it also would, only matters to later frames. A screen that is too small is enlarged. What the
    image leaves free has the background colour, as the specification says and OpenCV does.
    """
    width, height, flags, background = struct.unpack_from("<HHBB", data, 6)
    start = position = _GIF_HEADER + ((6 << (flags & 7)) if flags & 0x80 else 0)
    control = b""
    parts: list[bytes | memoryview]
    while (kind := data[position]) != 0x2C:
        position += 1
        if kind == 0x3B:
            raise Rejected(Reason.CORRUPT, "GIF: it ends before any image")
        if kind != 0x21:
            continue  # filler between blocks, which all readers skip
        label, block = data[position], position + 1
        if label == 0xF9 and data[block] >= 4:
            control = data[block + 1 : block + 5]
        while data[block]:
            block += 1 + data[block]
        position = block + 1
    left, top, columns, rows = struct.unpack_from("<4H", data, position + 1)
    width, height = max(width, left + columns), max(height, top + rows)
    if max(width, height) > 0xFFFF:
        raise Rejected(Reason.CORRUPT, f"GIF: an image that reaches row {top + rows}, column {left + columns}")
    colours = data[_GIF_HEADER:start]
    colour = tuple(colours[3 * background : 3 * background + 3]) or (0, 0, 0)
    parts = [data[:6], struct.pack("<HH", columns, rows), data[10:start]]
    if len(control) == 4:
        parts += [b"\x21\xf9\x04", bytes([control[0] & ~_GIF_DISPOSAL]), control[1:], b"\0"]
    parts += [b"\x2c", struct.pack("<4H", 0, 0, columns, rows), memoryview(data)[position + 9 :]]
    canvas = Canvas(height, width, top, left, colour=colour)
    return Container("GIF", tuple(parts), (height, width), 1, canvas=canvas)


def _webp(data: File) -> Container:
    """Keeps the file as it is, and reads size and orientation."""
    (announced,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[start : start + 3], "little") for start in (24, 27))
    elif kind == b"VP8L":
        (packed,) = struct.unpack_from("<I", data, 21)
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise Rejected(Reason.CORRUPT if len(data) >= 16 else Reason.TRUNCATED, "WEBP: no image at the beginning")
    exif = b""
    position = 12
    while position + 8 <= len(data):
        chunk, length = struct.unpack_from("<4sI", data, position)
        if chunk == b"EXIF":
            exif = exif or data[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    whole = data if isinstance(data, bytes) else memoryview(data)
    return Container(
        "WEBP", (whole,), (height, width), tiff.exif_orientation(exif), complete=announced + 8 <= len(data)
    )


def _tiff(data: File) -> Container:
    """Keeps a directory with only the tags that the pixels depend on."""
    from PIL.TiffImagePlugin import COMPRESSION_INFO  # slow to import; most decoder processes see no TIFF

    directory = tiff.read_directory(data)
    height, width = directory.integer(tiff.HEIGHT, 0), directory.integer(tiff.WIDTH, 0)
    compression = directory.integer(tiff.COMPRESSION, 1)
    if compression not in COMPRESSION_INFO:
        raise Rejected(Reason.UNSUPPORTED_MODE, f"TIFF: compression {compression}")
    if height < 1 or width < 1:
        raise Rejected(Reason.CORRUPT, f"TIFF: {height} rows and {width} columns")
    directory = tiff_layout.normalised(directory)
    flaw, planes = None, []
    try:
        directory = tiff_layout.check_strips(directory, len(data))
        planes = tiff_layout.planes(directory)
    except Rejected as rejected:
        flaw = rejected
    tile = (directory.integer(tiff.TILE_HEIGHT, 1), directory.integer(tiff.TILE_WIDTH, 1))
    return Container(
        "TIFF",
        tiff.with_one_directory(data, directory),
        (height, width),
        tiff.orientation(directory),
        largest=4095 if directory.integer(tiff.BITS, 1) == 12 else 65535,
        inverted=directory.integer(tiff.PHOTOMETRIC, 0) == 0,
        tile=tile if tiff.TILE_OFFSETS in directory.entries else None,
        flaw=flaw,
        streams=tiff_layout.streams(directory),
        planes=tuple(tiff.with_one_directory(data, plane) for plane in planes),
        by_libvips=tiff_layout.needs_libvips(directory),
        colours=tiff_layout.colours(directory),
    )
