"""What Pillow is shown of a file: what the pixels of its first image depend on, and nothing else.

Three things come of reading the containers before Pillow does. The size and the orientation are known, and can be
refused, before anything is allocated (Pillow allocates whole canvases while it opens a WebP or a GIF). Metadata can
neither cost an image nor make Pillow warn: what it never sees it cannot stumble over. And a file that ends early is
told from one that is damaged.

JPEG, BMP and PPM pass as they are: Pillow's own parsers stop before the pixels and allocate nothing.

Facts: PNG, third edition (W3C, 2025); GIF89a specification (CompuServe, 1990); WebP container and VP8L bitstream
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
from typing import TypeAlias

from PIL.TiffImagePlugin import COMPRESSION_INFO

from pipeline.images import tiff
from pipeline.rejection import Reason, Rejected

File: TypeAlias = bytes | mmap.mmap
"""A whole file; mapped where it is too large to be read."""


_FORGET_EVERY = 2**26


def forget(data: File) -> None:
    """Lets go of the pages of a mapped file that were read: they would count as this process's memory."""
    if isinstance(data, mmap.mmap):
        data.madvise(mmap.MADV_DONTNEED)


class Joined(io.RawIOBase):
    """A file made of parts of other files, none of which is copied."""

    def __init__(self, parts: Sequence[bytes | memoryview]) -> None:
        super().__init__()
        self._parts = [memoryview(part) for part in parts]
        self._starts = [0, *itertools.accumulate(len(part) for part in self._parts)]
        self._position = 0

    def readable(self) -> bool:
        """Always."""
        return True

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As files do; also beyond the end."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        if base + offset < 0:
            raise ValueError(f"position {base + offset}")
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        """Up to `size` bytes, or the rest."""
        end = self._starts[-1] if size is None or size < 0 else min(self._position + size, self._starts[-1])
        pieces = []
        index = bisect.bisect_right(self._starts, self._position) - 1
        while self._position < end:
            start = self._starts[index]
            pieces.append(self._parts[index][self._position - start : end - start])
            self._position += len(pieces[-1])
            index += 1
        return b"".join(pieces)


@dataclasses.dataclass(frozen=True)
class Container:
    """The first image of a file.

    Attributes:
        format: Pillow's name of the format.
        parts: The file to show to Pillow, in pieces.
        size: (height, width) in pixels, as stored; None where Pillow's own parser says it at no cost.
        orientation: EXIF orientation, 1 to 8; None where Pillow's own parser keeps the EXIF block.
        complete: False where the file ends before what it announces: what then fails is truncated, not corrupt.
        largest: The highest value of a 16-bit grey sample: 65535, or 4095 in a TIFF of 12 bits.
        inverted: Whether that value is black (TIFF: WhiteIsZero), which Pillow leaves to its callers above 8 bits.
        tile: (height, width) of the tiles that have to be decoded whole; None where there are none.
        flaw: What to reject the file for, unless its size is to be refused, which is found out later; mostly None.
        streams: Whether its rows can be decoded from top to bottom, at a bounded memory, to the same pixels.
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

    @property
    def data(self) -> bytes:
        """The file to show to Pillow."""
        (first, *more) = self.parts
        return first if isinstance(first, bytes) and not more else b"".join(self.parts)


def sniff(data: File) -> str:
    """The format that the first bytes are those of, by Pillow's name; empty where of none that densecast decodes."""
    data = data[:16]
    for format_name, beginnings in _MAGIC.items():
        if data.startswith(beginnings):
            return format_name
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WEBP"
    # Two letters are too few to tell a PPM from a text: what follows must be what the format asks for.
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

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
"""The formats that densecast decodes, by Pillow's names."""


def read(data: File) -> Container:
    """Reads the container of `data`.

    Raises:
        Rejected: UNKNOWN_FORMAT, or what is wrong with the container.
        struct.error, IndexError: The file ends within a header.
    """
    format_name = sniff(data)
    if not format_name:
        raise Rejected(Reason.UNKNOWN_FORMAT, f"the file begins with the bytes {data[:12].hex(' ')}")
    reader = {"PNG": _png, "GIF": _gif, "WEBP": _webp, "TIFF": _tiff}.get(format_name)
    if reader:
        return reader(data)
    whole = (data if isinstance(data, bytes) else memoryview(data),)
    if format_name == "JPEG":
        return Container(format_name, whole, streams=_only_scan(data) > 0)
    return Container(format_name, whole, orientation=1)


def _only_scan(data: File) -> int:
    """Where the data of a JPEG begin that has one scan, of Huffman codes; 0 where it is of another kind.

    Of several scans (progressive JPEG), a decoder holds the coefficients of all pixels.
    """
    position, components = 2, b""
    while data[position : position + 1] == b"\xff" and position + 4 <= len(data):
        marker, length = struct.unpack_from(">BH", data, position + 1)
        if marker == 0xFF:  # filler
            position += 1
            continue
        if marker in (0xC0, 0xC1):
            components = data[position + 9 : position + 10]
        elif marker == 0xDA:
            return position + 2 + length if components and data[position + 4 : position + 5] == components else 0
        position += 2 + length
    return 0


_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_END_OF_IMAGE = b"\xff\xd9"


def check_scan(data: File) -> None:
    """Looks for a marker within the data of a JPEG of one scan, where libjpeg gives grey rows and only warns.

    Pillow stumbles over it behind the last row, a reader of rows does not.

    Raises:
        Rejected: CORRUPT.
    """
    found = _MARKER.search(data, _only_scan(data))
    forget(data)
    if found and found.group() != _END_OF_IMAGE:
        raise Rejected(
            Reason.CORRUPT, f"JPEG: the marker {found.group().hex()} at byte {found.start()}, within the image"
        )


_PNG_SIGNATURE = 8
_PNG_KEPT = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})


def _png(data: File) -> Container:
    """Keeps the critical chunks: transparency is dropped anyway, and an APNG's default image is its IDAT."""
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
        kept.append(view[position:])  # a chunk cut short, or none at all: Pillow says whether it matters
    streams = data[28:29] == b"\0"  # interlaced, the first row needs the last
    return Container("PNG", tuple(kept), (height, width), tiff.orientation(exif), complete, streams=streams)


_GIF_HEADER = 13
_GIF_DISPOSAL = 0b00011100


def _gif(data: File) -> Container:
    """Keeps the palette, the transparent index and the first image.

    What Pillow would allocate while opening goes: the disposal method (it matters to later frames alone), and a screen
    smaller than its image (Pillow grows it; here the header does).
    """
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    start = position = _GIF_HEADER + ((6 << (flags & 7)) if flags & 0x80 else 0)
    control = b""
    while (kind := data[position]) != 0x2C:
        position += 1
        if kind == 0x3B:
            raise Rejected(Reason.CORRUPT, "GIF: it ends before any image")
        if kind != 0x21:
            continue  # filler between blocks, which every reader skips
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
    parts = [data[:6], struct.pack("<HH", width, height), data[10:start]]
    if len(control) == 4:
        parts += [b"\x21\xf9\x04", bytes([control[0] & ~_GIF_DISPOSAL]), control[1:], b"\0"]
    return Container("GIF", (*parts, memoryview(data)[position:]), (height, width), 1)


def _webp(data: File) -> Container:
    (announced,) = struct.unpack_from("<I", data, 4)
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (1 + int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
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
    return Container("WEBP", (whole,), (height, width), tiff.orientation(exif), complete=announced + 8 <= len(data))


def _tiff(data: File) -> Container:
    directory = tiff.read_directory(data)
    height, width = directory.integer(tiff.HEIGHT, 0), directory.integer(tiff.WIDTH, 0)
    compression = directory.integer(tiff.COMPRESSION, 1)
    if compression not in COMPRESSION_INFO:
        raise Rejected(Reason.UNSUPPORTED_MODE, f"TIFF: compression {compression}")
    if height < 1 or width < 1:
        raise Rejected(Reason.CORRUPT, f"TIFF: {height} rows and {width} columns")
    flaw = None
    try:
        directory = tiff.check_strips(directory, len(data))
    except Rejected as rejected:
        flaw = rejected
    stated = directory.integer(tiff.ORIENTATION, 1)
    tile = (directory.integer(tiff.TILE_HEIGHT, 1), directory.integer(tiff.TILE_WIDTH, 1))
    return Container(
        "TIFF",
        tiff.with_one_directory(data, directory),
        (height, width),
        stated if 1 <= stated <= 8 else 1,
        largest=4095 if directory.integer(tiff.BITS, 1) == 12 else 65535,
        inverted=directory.integer(tiff.PHOTOMETRIC, 0) == 0,
        tile=tile if tiff.TILE_OFFSETS in directory.entries else None,
        flaw=flaw,
        streams=tiff.streams(directory),
    )
