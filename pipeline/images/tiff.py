"""TIFF directories: reads the orientation of an EXIF block, and reduces a TIFF file to its first image.

Why Pillow's reader is not enough: it warns about every odd tag (with `warnings.warn`, which a thread cannot silence for
itself before Python 3.14), it follows directories that do not affect the pixels, and it leaves rows black if a file
lists fewer strips than its image has. So Pillow sees a directory that holds only the tags that the pixels depend on,
and every value is checked.

Sources: TIFF 6.0 (Adobe, 1992), sections 2, 8 and 15; the BigTIFF design of libtiff; EXIF 2.32, section 4.6.
"""

import dataclasses
import mmap
import struct
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.rejection import Reason, Rejected

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
STRIP_OFFSETS, ORIENTATION, SAMPLES, ROWS_PER_STRIP, STRIP_BYTES, PLANAR = 273, 274, 277, 278, 279, 284
TILE_WIDTH, TILE_HEIGHT, TILE_OFFSETS, TILE_BYTES = 322, 323, 324, 325
EXTRA_SAMPLES, SAMPLE_FORMAT = 338, 339

_SINGLE = frozenset({
    WIDTH, HEIGHT, COMPRESSION, PHOTOMETRIC, 266, ORIENTATION, SAMPLES, ROWS_PER_STRIP, PLANAR, 292, 293, 317,
    TILE_WIDTH, TILE_HEIGHT, 512, 513, 514, 515, 531,
})  # fmt: skip
"""Tags with one value. Those not named above: fill order, T4 and T6 options, predictor, old JPEG, YCbCr position."""

_LISTS = frozenset({
    BITS, STRIP_OFFSETS, STRIP_BYTES, 320, TILE_OFFSETS, TILE_BYTES, EXTRA_SAMPLES, SAMPLE_FORMAT,
    347, 519, 520, 521, 529, 530, 532,
})  # fmt: skip
"""Tags with several values. Those not named above: colour map, JPEG tables, YCbCr coefficients and range."""

SHORT, _LONG, _LONG8 = 3, 4, 16
"""Types of values."""

VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
"""The bytes of a value, by its type."""

_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}
_SIGNED = {6: "i1", 8: "i2", 9: "i4"}
_MAX_ENTRIES = 2**16
_MAX_CLASSIC = 2**32 - 1


class Entry(NamedTuple):
    """The values of a tag: their type, a key of `VALUE_BYTES`, and their bytes in the order of the file."""

    kind: int
    value: bytes


@dataclasses.dataclass(frozen=True)
class Directory:
    """The entries of a file's first directory that the pixels depend on.

    Attributes:
        order: "<" or ">", for `struct` and NumPy.
        entries: By tag; their values lie within the file.
    """

    order: str
    entries: dict[int, Entry]

    def integers(self, tag: int) -> npt.NDArray[np.int64]:
        """Returns the values of `tag`, int64 [n]; empty if it is absent or not of an unsigned integer type."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _UNSIGNED:
            return np.empty(0, np.int64)
        values = np.frombuffer(entry.value, np.dtype(self.order + _UNSIGNED[entry.kind]))
        # Positions beyond any file are lowered, so that the sum of two does not overflow.
        lowered: npt.NDArray[np.int64] = np.minimum(values, np.uint64(2**61)).astype(np.int64)
        return lowered

    def integer(self, tag: int, default: int) -> int:
        """Returns the first value of `tag`, or `default` if it has none."""
        values = self.integers(tag)
        return int(values[0]) if values.size else default


def exif_orientation(exif: bytes) -> int:
    """Returns the orientation, 1 to 8, of an EXIF block (with or without its "Exif" prefix); see `orientation`.

    It is 1, upright, if the block is damaged: odd metadata must not cost an image.
    """
    try:
        return orientation(read_directory(exif.removeprefix(b"Exif\0\0"), frozenset({ORIENTATION})))
    except Rejected:
        return 1


def orientation(directory: Directory) -> int:
    """Returns the orientation, 1 to 8, of a directory; 1, upright, if it has none or an invalid one.

    Integers of every size count, signed and unsigned, as for Pillow, OpenCV and libvips. EXIF asks for SHORT.
    """
    kind, value = directory.entries.get(ORIENTATION, Entry(SHORT, b""))
    dtype = (_UNSIGNED | _SIGNED).get(kind)
    if not value or dtype is None:
        return 1
    stored = int(np.frombuffer(value, np.dtype(directory.order + dtype))[0])
    return stored if 1 <= stored <= 8 else 1


def read_directory(data: bytes | mmap.mmap, tags: frozenset[int] = _SINGLE | _LISTS) -> Directory:
    """Reads the entries of the first directory whose tags are in `tags`.

    Raises:
        Rejected: TRUNCATED if the directory or one of its values is beyond the end; CORRUPT if `data` is not a TIFF.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    version = struct.unpack_from(order + "H", data, 2)[0] if order and len(data) >= 8 else 0
    if version not in (42, 43):
        raise Rejected(Reason.CORRUPT, "TIFF: not the header of a TIFF file")
    # Where the position of the first directory is, and its format (BigTIFF first); then those of its count and entries.
    position_at, position_format = (8, order + "Q") if version == 43 else (4, order + "I")
    count_format, entry_format = (order + "Q", order + "HHQ8s") if version == 43 else (order + "H", order + "HHI4s")
    entries: dict[int, Entry] = {}
    try:
        (start,) = struct.unpack_from(position_format, data, position_at)
        (count,) = struct.unpack_from(count_format, data, start)
        for index in range(min(count, _MAX_ENTRIES)):
            place = start + struct.calcsize(count_format) + index * struct.calcsize(entry_format)
            tag, kind, number, field = struct.unpack_from(entry_format, data, place)
            if tag not in tags or tag in entries or kind not in VALUE_BYTES or not number:
                continue
            inline = number * VALUE_BYTES[kind] <= len(field)
            size = (1 if tag in _SINGLE else number) * VALUE_BYTES[kind]
            (position,) = struct.unpack(position_format, field)
            value = field[:size] if inline else data[position : position + size]
            if len(value) < size:
                raise Rejected(Reason.TRUNCATED, f"TIFF: the value of tag {tag} lies beyond the end of the file")
            entries[tag] = Entry(kind, value)
    except (struct.error, OverflowError) as error:
        raise Rejected(Reason.TRUNCATED, "TIFF: the directory lies beyond the end of the file") from error
    return Directory(order, entries)


def with_one_directory(data: bytes | mmap.mmap, directory: Directory) -> tuple[bytes | memoryview, ...]:
    """Returns `data` as a TIFF, in parts, whose header leads only to `directory`: one image, no metadata.

    The contents of `data` keep their place, so the positions of the strips stay valid; the directory and its values are
    appended. The result is a classic TIFF also for a BigTIFF, because Pillow 12.3 misreads a big-endian BigTIFF.

    Raises:
        Rejected: TOO_MANY_BYTES if positions do not fit in 32 bits.
    """
    order = directory.order
    start = len(data) + len(data) % 2  # TIFF 6.0, section 2: a directory begins on a word boundary
    entries = [(tag, *_classic(directory, tag)) for tag in sorted(directory.entries) if tag != ORIENTATION]
    place = start + 2 + 12 * len(entries) + 4
    if place + sum(len(value) for _, _, value in entries) > _MAX_CLASSIC:
        raise Rejected(Reason.TOO_MANY_BYTES, f"TIFF: {len(data)} bytes; at most 4 GiB")
    listed, values = [struct.pack(order + "H", len(entries))], []
    for tag, kind, value in entries:
        field = value.ljust(4, b"\0")
        if len(value) > 4:
            field = struct.pack(order + "I", place)
            values.append(value)
            place += len(value)
        listed.append(struct.pack(order + "HHI", tag, kind, len(value) // VALUE_BYTES[kind]) + field)
    header = data[:2] + struct.pack(order + "HI", 42, start)
    return header, memoryview(data)[8:], b"".join([bytes(start - len(data)), *listed, bytes(4), *values])


def _classic(directory: Directory, tag: int) -> tuple[int, bytes]:
    """Returns type and value of `tag`, with 8-byte integers narrowed to the 4 bytes of classic TIFF."""
    kind, value = directory.entries[tag]
    if kind != _LONG8:
        return kind, value
    return _LONG, np.minimum(directory.integers(tag), _MAX_CLASSIC).astype(directory.order + "u4").tobytes()
