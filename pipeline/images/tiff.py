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

_SHORT, _LONG, _LONG8 = 3, 4, 16
_VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_UNSIGNED = {1: "u1", 3: "u2", 4: "u4", 13: "u4", 16: "u8"}
_SIGNED = {6: "i1", 8: "i2", 9: "i4"}
_MAX_ENTRIES = 2**16
_MAX_CLASSIC = 2**32 - 1
_UNCOMPRESSED, _OLD_JPEG, _JPEG = 1, 6, 7
_SEPARATE_PLANES = 2
_LOSSLESS = frozenset({_UNCOMPRESSED, 5, 8, 32773, 32946})  # and LZW, deflate, PackBits, deflate's old number
_WEBP = 50001
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR = 0, 1, 2, 3, 5, 6
_UNSIGNED_SAMPLES = 1
_ALPHA = 2
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _RGB: 3, _PALETTE: 1, _CMYK: 4, _YCBCR: 3}
"""The number of samples of a pixel that are colours, by photometric interpretation."""

_MOST_SAMPLES = {
    (_WHITE_IS_ZERO, 8): 1, (_WHITE_IS_ZERO, 16): 0, (_BLACK_IS_ZERO, 8): 2, (_BLACK_IS_ZERO, 16): 1,
    (_RGB, 8): 6, (_RGB, 16): 4, (_CMYK, 8): 6, (_CMYK, 16): 4,
}  # fmt: skip
"""The most samples of a pixel that Pillow reads in both byte orders, by photometric interpretation and bits."""

_PLANE_BITS = frozenset({1, 2, 4, 8, 16})
_MAX_TILE_ROW = 2**26
"""The most pixels in a row of tiles, which a row reader has to hold."""


class _Entry(NamedTuple):
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
    entries: dict[int, _Entry]

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
    kind, value = directory.entries.get(ORIENTATION, _Entry(_SHORT, b""))
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
    entries: dict[int, _Entry] = {}
    try:
        (start,) = struct.unpack_from(position_format, data, position_at)
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
        listed.append(struct.pack(order + "HHI", tag, kind, len(value) // _VALUE_BYTES[kind]) + field)
    header = data[:2] + struct.pack(order + "HI", 42, start)
    return header, memoryview(data)[8:], b"".join([bytes(start - len(data)), *listed, bytes(4), *values])


def check_strips(directory: Directory, data_size: int) -> Directory:
    """Compares the listed strips or tiles with those that an image of its size needs.

    Returns:
        The directory, without the entries beyond the image.

    Raises:
        Rejected: CORRUPT if fewer are listed than the image has (Pillow would leave the rest black); TRUNCATED if one
            ends beyond `data_size` bytes (the appended directory would be decoded as pixels).
    """
    compression = directory.integer(COMPRESSION, _UNCOMPRESSED)
    if compression == _OLD_JPEG:
        return directory  # may list none and be one JPEG stream: libtiff handles it
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
    directory = _with_at_most(directory, tags, needed)
    offsets, sizes = (directory.integers(tag) for tag in tags)
    if offsets.size < needed:
        raise Rejected(Reason.CORRUPT, f"TIFF: {offsets.size} of {needed} strips or tiles are listed")
    if compression == _UNCOMPRESSED:  # some writers give wrong sizes or none, and all readers accept that
        first_rows = np.arange(needed) % (across * down) // across * rows
        sizes = np.minimum(rows, height - first_rows) * -(-columns * bits // 8)
    elif sizes.size < needed:
        sizes = np.ones(needed, np.int64)
    if (offsets + sizes > data_size).any():
        raise Rejected(Reason.TRUNCATED, f"TIFF: a strip or tile ends beyond the end of the file, {data_size} bytes")
    return directory


def colours(directory: Directory) -> int:
    """Returns how many samples of a pixel are colours; the samples after them are dropped."""
    return _COLOURS.get(directory.integer(PHOTOMETRIC, 0), 0)


def normalised(directory: Directory) -> Directory:
    """Returns the directory without what does not change the pixels that are used, so that readers agree on it.

    Samples after the colours are dropped, whatever they are. So they are not declared as associated alpha: Pillow and
    libvips would divide the colours by it, which OpenCV does not. One sample has one plane.

    Raises:
        Rejected: UNSUPPORTED_MODE if samples are signed or floating point numbers: no range is stated for them.
    """
    kinds = set(directory.integers(SAMPLE_FORMAT).tolist()) - {_UNSIGNED_SAMPLES}
    if kinds:
        names = {2: "signed integers", 3: "floating point numbers"}
        text = " and ".join(names.get(kind, f"of format {kind}") for kind in sorted(kinds))
        raise Rejected(Reason.UNSUPPORTED_MODE, f"TIFF: the samples are {text}; only unsigned integers are decoded")
    entries = dict(directory.entries)
    samples, extra = directory.integer(SAMPLES, 1), 0
    if colours(directory):
        extra = samples - colours(directory)
    if extra > 0:
        # The kinds that Pillow knows: unassociated alpha for grey, anything for colours.
        kinds_of_extra = [_ALPHA] if extra == colours(directory) == 1 else [0] * extra
        entries[EXTRA_SAMPLES] = _shorts(directory, kinds_of_extra)
    if samples == 1:
        entries.pop(PLANAR, None)
    return Directory(directory.order, entries)


def planes(directory: Directory) -> list[Directory]:
    """Returns a directory for each colour of an image whose samples are stored in separate planes; empty for others.

    Each is that of a grey image, whose strips are the strips of the plane. Pillow's decoder takes 16-bit samples of
    planes for 8-bit ones, and has no mode for many other kinds; libvips reads no tiles of planes.

    Args:
        directory: A directory that `check_strips` has checked.

    Raises:
        Rejected: UNSUPPORTED_MODE if the planes are not those of grey, RGB or CMYK, with samples of equal bits.
    """
    if directory.integer(PLANAR, 1) != _SEPARATE_PLANES:
        return []
    photometric, bits = directory.integer(PHOTOMETRIC, 0), set(directory.integers(BITS).tolist()) or {1}
    is_known = photometric in (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _CMYK) and len(bits) == 1 and bits <= _PLANE_BITS
    if not is_known or directory.integer(COMPRESSION, _UNCOMPRESSED) == _OLD_JPEG:
        raise Rejected(
            Reason.UNSUPPORTED_MODE,
            f"TIFF: planes of photometric interpretation {photometric} with {sorted(bits)} bits",
        )
    tags = (STRIP_OFFSETS, STRIP_BYTES) if STRIP_OFFSETS in directory.entries else (TILE_OFFSETS, TILE_BYTES)
    samples = directory.integer(SAMPLES, 1)
    per_plane = directory.integers(tags[0]).size // samples
    grey = {
        BITS: _shorts(directory, [*bits]),
        SAMPLES: _shorts(directory, [1]),
        # Pillow inverts samples of up to 8 bits.
        PHOTOMETRIC: _shorts(
            directory, [_WHITE_IS_ZERO if photometric == _WHITE_IS_ZERO and bits != {16} else _BLACK_IS_ZERO]
        ),
    }
    kept = {tag: entry for tag, entry in directory.entries.items() if tag not in (PLANAR, EXTRA_SAMPLES, SAMPLE_FORMAT)}
    found = []
    for plane in range(min(colours(directory), samples)):
        entries = {**kept, **grey}
        for tag in tags:
            if tag in kept:
                kind, value = kept[tag]
                size = per_plane * _VALUE_BYTES[kind]
                entries[tag] = _Entry(kind, value[plane * size : (plane + 1) * size])
        found.append(Directory(directory.order, entries))
    return found


def needs_libvips(directory: Directory) -> bool:
    """Returns whether Pillow does not read an image that libvips reads, with samples of a pixel stored together."""
    bits = set(directory.integers(BITS).tolist())
    photometric, samples = directory.integer(PHOTOMETRIC, 0), directory.integer(SAMPLES, 1)
    if directory.integer(PLANAR, 1) == _SEPARATE_PLANES or bits not in ({8}, {16}):
        return False
    if (photometric, min(bits)) not in _MOST_SAMPLES or samples < colours(directory):
        return False
    is_webp = directory.integer(COMPRESSION, _UNCOMPRESSED) == _WEBP
    return is_webp or samples > _MOST_SAMPLES[photometric, min(bits)]


def _shorts(directory: Directory, values: list[int]) -> _Entry:
    return _Entry(_SHORT, np.array(values, directory.order + "u2").tobytes())


def streams(directory: Directory) -> bool:
    """Returns whether libtiff, row by row, gives the same pixels as Pillow in little memory.

    This holds for samples of 8 and 16 bits that are grey (black is zero), RGB or palette indices (YCbCr only in JPEG),
    with the samples of a pixel stored together; in a `normalised` directory.
    """
    compression, photometric = directory.integer(COMPRESSION, _UNCOMPRESSED), directory.integer(PHOTOMETRIC, -1)
    bits, samples = set(directory.integers(BITS).tolist()), directory.integer(SAMPLES, 1)
    needed = _COLOURS.get(photometric, 0) if photometric != _CMYK else 0
    tile_height = directory.integer(TILE_HEIGHT, 1) if TILE_OFFSETS in directory.entries else 1
    return (
        ((compression in _LOSSLESS and photometric != _YCBCR) or (compression == _JPEG and bits == {8}))
        and (bits == {8} or (bits == {16} and photometric in (_BLACK_IS_ZERO, _RGB)))
        and samples in (needed, needed + (photometric != _PALETTE))
        and directory.integer(PLANAR, 1) != _SEPARATE_PLANES
        and tile_height * directory.integer(WIDTH, 0) <= _MAX_TILE_ROW
    )


def _planes_and_bits(directory: Directory) -> tuple[int, int]:
    """Returns the number of planes, and the bits of a pixel in one of them."""
    samples = max(1, directory.integer(SAMPLES, 1))
    bits = directory.integers(BITS)
    if directory.integer(PLANAR, 1) == _SEPARATE_PLANES:
        return samples, directory.integer(BITS, 1)
    return 1, int(bits.sum()) if bits.size == samples else samples * directory.integer(BITS, 1)


def _with_at_most(directory: Directory, tags: tuple[int, int], needed: int) -> Directory:
    """Returns the directory with at most `needed` values in each of the `tags`."""
    entries = dict(directory.entries)
    for tag in tags:
        if tag in entries:
            kind, value = entries[tag]
            entries[tag] = _Entry(kind, value[: needed * _VALUE_BYTES[kind]])
    return Directory(directory.order, entries)


def _classic(directory: Directory, tag: int) -> tuple[int, bytes]:
    """Returns type and value of `tag`, with 8-byte integers narrowed to the 4 bytes of classic TIFF."""
    kind, value = directory.entries[tag]
    if kind != _LONG8:
        return kind, value
    return _LONG, np.minimum(directory.integers(tag), _MAX_CLASSIC).astype(directory.order + "u4").tobytes()
