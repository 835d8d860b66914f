"""TIFF directories: the orientation an EXIF block states, and a TIFF file reduced to its first image.

Why not Pillow's own reader alone: it warns on every odd tag (`warnings.warn`, which no thread can silence for itself
before Python 3.14), follows directories that have nothing to do with the pixels, and leaves rows black where a file
lists fewer strips than its image has. So Pillow is shown a directory that holds only what the pixels depend on, each
value checked.

Facts: TIFF 6.0 (Adobe, 1992), sections 2, 8 and 15; the BigTIFF design of libtiff; EXIF 2.32, section 4.6.
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
"""Tags of one value: fill order, T4 and T6 options, predictor, old-style JPEG and YCbCr position besides the named."""

_LISTS = frozenset({
    BITS, STRIP_OFFSETS, STRIP_BYTES, 320, TILE_OFFSETS, TILE_BYTES, 338, 339, 347, 519, 520, 521, 529, 530, 532,
})  # fmt: skip
"""Tags of several: colour map, extra samples, sample format, JPEG tables, YCbCr's coefficients and range besides."""

_LONG, _LONG8 = 4, 16
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}
_MAX_ENTRIES = 2**16
_MAX_CLASSIC = 2**32 - 1
_UNCOMPRESSED, _OLD_JPEG, _JPEG = 1, 6, 7
_SEPARATE_PLANES = 2
_LOSSLESS = frozenset({_UNCOMPRESSED, 5, 8, 32773, 32946})  # and LZW, deflate, PackBits, deflate's old number
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _YCBCR = 0, 1, 2, 3, 6
_ASSOCIATED = 1
_MAX_TILE_ROW = 2**26
"""Pixels of a row of tiles: what a reader of rows holds at least."""


class _Entry(NamedTuple):
    kind: int
    value: bytes


@dataclasses.dataclass(frozen=True)
class Directory:
    """The first directory of a file, as far as pixels depend on it.

    Attributes:
        order: "<" or ">", for `struct` and NumPy.
        entries: By tag; their values lie within the file.
    """

    order: str
    entries: dict[int, _Entry]

    def integers(self, tag: int) -> npt.NDArray[np.int64]:
        """The values of `tag`, int64 [n]; none where it is absent or not of an unsigned integer type."""
        entry = self.entries.get(tag)
        if entry is None or entry.kind not in _UNSIGNED:
            return np.empty(0, np.int64)
        values = np.frombuffer(entry.value, np.dtype(self.order + _UNSIGNED[entry.kind]))
        # Positions beyond any file, lowered so that sums of two do not wrap around.
        lowered: npt.NDArray[np.int64] = np.minimum(values, np.uint64(2**61)).astype(np.int64)
        return lowered

    def integer(self, tag: int, default: int) -> int:
        """The first value of `tag`, or `default` where it has none."""
        values = self.integers(tag)
        return int(values[0]) if values.size else default


def orientation(exif: bytes) -> int:
    """The orientation, 1 to 8, that an EXIF block states (with or without its "Exif" prefix).

    Returns:
        1, upright, where it states none, states nonsense or is damaged: odd metadata must not cost an image.
    """
    try:
        stated = read_directory(exif.removeprefix(b"Exif\0\0"), frozenset({ORIENTATION})).integer(ORIENTATION, 1)
    except Rejected:
        return 1
    return stated if 1 <= stated <= 8 else 1


def read_directory(data: bytes | mmap.mmap, tags: frozenset[int] = _SINGLE | _LISTS) -> Directory:
    """Reads those of the first directory's entries that are among `tags`.

    Raises:
        Rejected: TRUNCATED where the directory or a value of it lies beyond the end; CORRUPT where `data` is no TIFF.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    version = struct.unpack_from(order + "H", data, 2)[0] if order and len(data) >= 8 else 0
    if version not in (42, 43):
        raise Rejected(Reason.CORRUPT, "TIFF: not the header of a TIFF file")
    # Where the first directory's position is (BigTIFF first), and of what type; its number of entries; one entry.
    at, position_format = (8, order + "Q") if version == 43 else (4, order + "I")
    count_format, entry_format = (order + "Q", order + "HHQ8s") if version == 43 else (order + "H", order + "HHI4s")
    entries: dict[int, _Entry] = {}
    try:
        (start,) = struct.unpack_from(position_format, data, at)
        (count,) = struct.unpack_from(count_format, data, start)
        for index in range(min(count, _MAX_ENTRIES)):
            place = start + struct.calcsize(count_format) + index * struct.calcsize(entry_format)
            tag, kind, number, field = struct.unpack_from(entry_format, data, place)
            if tag not in tags or tag in entries or kind not in _VALUE_BYTES or not number:
                continue
            inline = number * _VALUE_BYTES[kind] <= len(field)
            size = (1 if tag in _SINGLE else number) * _VALUE_BYTES[kind]
            (position,) = struct.unpack(position_format, field)
            value = field[:size] if inline else data[position : position + size]
            if len(value) < size:
                raise Rejected(Reason.TRUNCATED, f"TIFF: the value of tag {tag} lies beyond the end of the file")
            entries[tag] = _Entry(kind, value)
    except (struct.error, OverflowError) as error:
        raise Rejected(Reason.TRUNCATED, "TIFF: the directory lies beyond the end of the file") from error
    return Directory(order, entries)


def with_one_directory(data: bytes | mmap.mmap, directory: Directory) -> tuple[bytes | memoryview, ...]:
    """`data` as a TIFF, in parts, whose header leads to `directory` alone: no other image, no metadata, no orientation.

    What `data` holds stays where it is, so the positions of the strips stay valid; the directory and its values are
    appended. Classic also where `data` is a BigTIFF, which Pillow 12.3 misreads if it is big-endian.

    Raises:
        Rejected: TOO_MANY_BYTES where positions do not fit in 32 bits.
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
        listed.append(struct.pack(order + "HHI", tag, kind, len(value) // _VALUE_BYTES[kind]) + field)
    header = data[:2] + struct.pack(order + "HI", 42, start)
    return header, memoryview(data)[8:], b"".join([bytes(start - len(data)), *listed, bytes(4), *values])


def check_strips(directory: Directory, data_size: int) -> Directory:
    """Compares the strips or tiles listed with those that the image's size asks for.

    Returns:
        The directory, less what is listed beyond the image.

    Raises:
        Rejected: CORRUPT where fewer are listed than the image has (Pillow would leave the rest black); TRUNCATED where
            one ends beyond `data_size` bytes (where our own directory would be taken for pixels).
    """
    compression = directory.integer(COMPRESSION, _UNCOMPRESSED)
    if compression == _OLD_JPEG:
        return directory  # may list none, and be one JPEG stream: libtiff sorts it out
    height, width = directory.integer(HEIGHT, 0), directory.integer(WIDTH, 0)
    if STRIP_OFFSETS in directory.entries:
        tags, rows, columns = (STRIP_OFFSETS, STRIP_BYTES), directory.integer(ROWS_PER_STRIP, height), width
    else:
        tags = (TILE_OFFSETS, TILE_BYTES)
        rows, columns = directory.integer(TILE_HEIGHT, 0), directory.integer(TILE_WIDTH, 0)
    rows = min(rows, height)
    if rows < 1 or columns < 1:
        raise Rejected(Reason.CORRUPT, f"TIFF: strips or tiles of {rows} rows and {columns} columns")
    across, down = -(-width // columns), -(-height // rows)
    planes, bits = _planes_and_bits(directory)
    needed = across * down * planes
    directory = _less_beyond(directory, tags, needed)
    offsets, sizes = (directory.integers(tag) for tag in tags)
    if offsets.size < needed:
        raise Rejected(Reason.CORRUPT, f"TIFF: {offsets.size} strips or tiles are listed of {needed}")
    if compression == _UNCOMPRESSED:  # some writers state the sizes wrongly or not at all, and no reader minds
        first_rows = np.arange(needed) % (across * down) // across * rows
        sizes = np.minimum(rows, height - first_rows) * -(-columns * bits // 8)
    elif sizes.size < needed:
        sizes = np.ones(needed, np.int64)
    if (offsets + sizes > data_size).any():
        raise Rejected(Reason.TRUNCATED, f"TIFF: a strip or tile ends beyond the end of the file, {data_size} bytes")
    return directory


def streams(directory: Directory) -> bool:
    """Whether rows decoded by libtiff one after another are the pixels that Pillow gives, and take little memory.

    So it is for whole samples of 8 and 16 bits, black to white, RGB or by palette (YCbCr in JPEG alone), alpha not
    multiplied in, all samples of a pixel in one place.
    """
    compression, photometric = directory.integer(COMPRESSION, _UNCOMPRESSED), directory.integer(PHOTOMETRIC, -1)
    bits, samples = set(directory.integers(BITS).tolist()), directory.integer(SAMPLES, 1)
    colours = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _YCBCR: 3}.get(photometric, 0)
    tile_height = directory.integer(TILE_HEIGHT, 1) if TILE_OFFSETS in directory.entries else 1
    return (
        ((compression in _LOSSLESS and photometric != _YCBCR) or (compression == _JPEG and bits == {8}))
        and (bits == {8} or (bits == {16} and photometric in (_BLACK_IS_ZERO, _RGB)))
        and samples in (colours, colours + (photometric != _PALETTE))
        and set(directory.integers(SAMPLE_FORMAT).tolist()) <= {1}
        and _ASSOCIATED not in directory.integers(EXTRA_SAMPLES)
        and directory.integer(PLANAR, 1) != _SEPARATE_PLANES
        and tile_height * directory.integer(WIDTH, 0) <= _MAX_TILE_ROW
    )


def _planes_and_bits(directory: Directory) -> tuple[int, int]:
    """The planes stored apart, and the bits of a pixel in one of them."""
    samples = max(1, directory.integer(SAMPLES, 1))
    bits = directory.integers(BITS)
    if directory.integer(PLANAR, 1) == _SEPARATE_PLANES:
        return samples, directory.integer(BITS, 1)
    return 1, int(bits.sum()) if bits.size == samples else samples * directory.integer(BITS, 1)


def _less_beyond(directory: Directory, tags: tuple[int, int], needed: int) -> Directory:
    entries = dict(directory.entries)
    for tag in tags:
        if tag in entries:
            kind, value = entries[tag]
            entries[tag] = _Entry(kind, value[: needed * _VALUE_BYTES[kind]])
    return Directory(directory.order, entries)


def _classic(directory: Directory, tag: int) -> tuple[int, bytes]:
    """Type and value of `tag`, 8-byte integers narrowed to the 4 bytes that classic TIFF has."""
    kind, value = directory.entries[tag]
    if kind != _LONG8:
        return kind, value
    return _LONG, np.minimum(directory.integers(tag), _MAX_CLASSIC).astype(directory.order + "u4").tobytes()
