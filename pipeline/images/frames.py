"""The frames of a file: pages of a TIFF, frames of a GIF, WebP or APNG.

`frame_positions` counts them without decoding, and bounds what it reads. `page` and `frame` return one as a file of its
own, so that all rules for images hold for it: a page of a TIFF is the same file with another first directory; a frame
of an animation is a PPM with the pixels that a viewer shows. Pillow composes those: each frame is drawn over what its
predecessors left.

Sources: TIFF 6.0 (Adobe, 1992), sections 2 and 8; GIF89a specification (CompuServe, 1990); WebP container specification
(Google); PNG, third edition (W3C, 2025), section 11.3.4.
"""

import io
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, NamedTuple

import numpy as np
from PIL.ImageFile import ImageFile

from pipeline.images import formats
from pipeline.images.decode import DecodeLimits, header, rejecting
from pipeline.images.stored_image import plugin
from pipeline.rejection import Reason, Rejected

MAX_FRAMES = 2**16
"""The most frames that a file may have."""

_MAX_STEPS = 2**22
"""The most blocks, chunks or directory entries that are read to count frames."""

_REDUCED, _MASK = 1, 4  # bits of NewSubfileType
_NEW_SUBFILE_TYPE, _SUBFILE_TYPE, _OLD_REDUCED = 254, 255, 2


class _Steps:
    """Counts what was read, so that a hostile file costs little time."""

    def __init__(self) -> None:
        self._left = _MAX_STEPS

    def take(self, count: int = 1) -> None:
        self._left -= count
        if self._left < 0:
            raise Rejected(Reason.CORRUPT, f"more than {_MAX_STEPS:,} blocks lead to its frames")


class _EndOfFileError(Exception):
    pass


class _File:
    """A file that is read forward and by position."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.steps = _Steps()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        if len(data) < size:
            raise _EndOfFileError
        return data

    def skip(self, size: int) -> None:
        self._file.seek(size, io.SEEK_CUR)

    def seek(self, position: int) -> None:
        self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


def frame_positions(file: BinaryIO) -> list[int]:
    """Returns where the frames of a file begin, in bytes; at most one position if it has no more than one frame.

    A file that is cut off has the frames that begin in it. Reduced copies and masks in a TIFF do not count as frames.

    Args:
        file: The file, which is read from its start.

    Raises:
        Rejected: CORRUPT: there are more than `MAX_FRAMES` frames; or directories that lead to each other.
    """
    file.seek(0)
    reader = _READERS.get(formats.sniff(file.read(16)))
    if reader is None:
        return [0]
    file.seek(0)
    found: list[int] = []
    try:
        for position in reader(_File(file)):
            found.append(position)
            if len(found) > MAX_FRAMES:
                raise Rejected(Reason.CORRUPT, f"more than {MAX_FRAMES:,} frames")
    except _EndOfFileError:  # whoever reads the last frame says that it is cut off
        pass
    return found


def count_frames(data: bytes) -> int:
    """Returns the number of frames of a file whose first frame can be decoded, at least 1."""
    try:
        return max(len(frame_positions(io.BytesIO(data))), 1)
    except Rejected:  # more than anybody would list
        return 1


def _gif(file: _File) -> Iterator[int]:
    flags = file.read(13)[10]
    if flags & 0x80:
        file.skip(6 << (flags & 7))
    while (kind := file.read(1)) != b"\x3b":
        file.steps.take()
        if kind == b"\x2c":
            yield file.tell() - 1
            flags = file.read(9)[8]
            file.skip((6 << (flags & 7)) if flags & 0x80 else 0)
            file.skip(1)  # the size of the first code
        elif kind == b"\x21":
            file.skip(1)  # the label
        else:
            continue  # filler between blocks, which all readers skip
        while size := file.read(1)[0]:
            file.steps.take()
            file.skip(size)


def _webp(file: _File) -> Iterator[int]:
    file.skip(12)
    while True:
        position = file.tell()
        kind, length = struct.unpack("<4sI", file.read(8))
        if kind == b"ANMF":
            yield position
        file.steps.take()
        file.skip(length + length % 2)


def _png(file: _File) -> Iterator[int]:
    """Yields the default image, and the frames besides it; the first frame may be the default image."""
    file.skip(8)
    animated = seen_pixels = False
    while True:
        position = file.tell()
        length, kind = struct.unpack(">I4s", file.read(8))
        animated |= kind == b"acTL"
        if kind == b"IDAT" and not seen_pixels:
            seen_pixels = True
            yield position
            if not animated:
                return
        elif kind == b"fcTL" and seen_pixels:
            yield position
        elif kind == b"IEND":
            return
        file.steps.take()
        file.skip(length + 4)


class _Layout(NamedTuple):
    """How the directories of a TIFF are stored: where the first position is; formats of positions, counts, entries."""

    first_at: int
    position: str
    number: str
    entry: str


def _tiff(file: _File) -> Iterator[int]:
    order = {b"II": "<", b"MM": ">"}[file.read(2)]
    big = struct.unpack(order + "H", file.read(2))[0] == 43
    layout = _Layout(8, "Q", "Q", "HHQ8s") if big else _Layout(4, "I", "H", "HHI4s")
    file.seek(layout.first_at)
    seen: set[int] = set()
    while position := _number(file, order + layout.position):
        if position in seen:
            raise Rejected(Reason.CORRUPT, "TIFF: a directory leads back to an earlier one")
        seen.add(position)
        file.seek(position)
        count = _number(file, order + layout.number)
        file.steps.take(count)
        entries = file.read(count * struct.calcsize(order + layout.entry))
        if len(seen) == 1 or not _is_copy(entries, order, layout):
            yield position


def _number(file: _File, kind: str) -> int:
    number: int = struct.unpack(kind, file.read(struct.calcsize(kind)))[0]
    return number


def _is_copy(entries: bytes, order: str, layout: _Layout) -> bool:
    """Returns whether a directory is of a reduced copy or a mask of another image."""
    for tag, kind, _, field in struct.iter_unpack(order + layout.entry, entries):
        value = struct.unpack_from(order + ("H" if kind == 3 else "I"), field)[0]
        if tag == _NEW_SUBFILE_TYPE and value & (_REDUCED | _MASK):
            return True
        if tag == _SUBFILE_TYPE and value == _OLD_REDUCED:
            return True
    return False


_READERS: dict[str, Callable[[_File], Iterator[int]]] = {"GIF": _gif, "WEBP": _webp, "PNG": _png, "TIFF": _tiff}


def page(data: bytes, position: int) -> bytes:
    """Returns a TIFF whose first directory is the one at `position`.

    Args:
        data: A whole TIFF file.
        position: One of `frame_positions`.
    """
    order = "<" if data[:2] == b"II" else ">"
    if struct.unpack_from(order + "H", data, 2)[0] == 43:
        return data[:8] + struct.pack(order + "Q", position) + data[16:]
    return data[:4] + struct.pack(order + "I", position) + data[8:]


def frame(data: bytes, index: int) -> bytes:
    """Returns a frame of an animation as a binary PPM, 8 bits a sample: as a viewer shows it, without its transparency.

    The process keeps the animation, so that frames are cheap in their order.

    Args:
        data: A whole GIF, WebP or PNG file.
        index: The number of the frame, from 0.

    Raises:
        Rejected: As `pipeline.images.decode.decode`, within the default of `DecodeLimits`; TRUNCATED if the file has no
            such frame.
    """
    limits = DecodeLimits()
    header(data, limits)  # what Pillow opens, it allocates
    with rejecting(data):
        image = _opened.image(data)
        image.seek(index)
        if image.width * image.height > limits.max_pixels:
            raise Rejected(Reason.TOO_MANY_PIXELS, f"a frame of {image.height} x {image.width}")
        image.load()
        # If its info has a transparency, convert() looks for that colour in the palette and warns.
        image.info.pop("transparency", None)
        pixels = np.asarray(image.convert("RGB"))
        height, width = pixels.shape[:2]
        return b"P6 %d %d 255\n" % (width, height) + pixels.tobytes()


class _Opened:
    """The animation that was opened last."""

    def __init__(self) -> None:
        self._data = b""
        self._image: ImageFile | None = None

    def image(self, data: bytes) -> ImageFile:
        image = self._image
        if image is None or data != self._data:
            self._data, self._image = b"", None
            image = plugin(formats.sniff(data))(io.BytesIO(data), "")
            self._data, self._image = data, image
        return image


_opened = _Opened()
