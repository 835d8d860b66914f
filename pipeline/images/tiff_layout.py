"""The layout of a TIFF image: which samples its pixels have, where they lie, and which decoder reads them.

Sources: TIFF 6.0 (Adobe, 1992), sections 3 to 8, 15 and 18.
"""

import numpy as np
import numpy.typing as npt

from pipeline.images.tiff import (
    BITS,
    COMPRESSION,
    EXTRA_SAMPLES,
    HEIGHT,
    PHOTOMETRIC,
    PLANAR,
    ROWS_PER_STRIP,
    SAMPLE_FORMAT,
    SAMPLES,
    SHORT,
    STRIP_BYTES,
    STRIP_OFFSETS,
    TILE_BYTES,
    TILE_HEIGHT,
    TILE_OFFSETS,
    TILE_WIDTH,
    VALUE_BYTES,
    WIDTH,
    Directory,
    Entry,
)
from pipeline.rejection import Reason, Rejected

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
_MOST_INFLATED = 1400
"""How far LZW may inflate; deflate, PackBits and JPEG less."""

_SMALL_CLAIM = 2**26
_MAX_TILE_ROW = 2**26
"""The most pixels in a row of tiles, which a row reader has to hold."""


def check_strips(directory: Directory, data_size: int) -> Directory:
    """Compares the listed strips or tiles with those that an image of its size needs.

    Returns:
        The directory, without the entries beyond the image.

    Raises:
        Rejected: CORRUPT if fewer are listed than the image has (Pillow would leave the rest black); TRUNCATED if one
            ends beyond `data_size` bytes (the appended directory would be decoded as pixels); COMPRESSION_BOMB if they
            cannot hold the pixels.
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
    if compression in _LOSSLESS or compression == _JPEG:
        _check_claim(offsets, sizes, data_size, needed * rows * -(-columns * bits // 8))
    return directory


def _check_claim(
    offsets: npt.NDArray[np.int64], sizes: npt.NDArray[np.int64], data_size: int, pixel_bytes: int
) -> None:
    """Compares the bytes of all pixels with those that are stored.

    A strip or tile counts once, however often it is listed, and not at all if it has no bytes: a file of a megabyte can
    list one tile for any number of pixels.

    Raises:
        Rejected: COMPRESSION_BOMB: no compression that is read by rows inflates so far.
    """
    different = np.unique(offsets, return_index=True)[1]
    stored = min(int(sizes[different].sum()), data_size)
    if pixel_bytes > max(_SMALL_CLAIM, _MOST_INFLATED * stored):
        raise Rejected(
            Reason.COMPRESSION_BOMB, f"TIFF: {pixel_bytes:,} bytes of pixels in {stored:,} bytes of strips or tiles"
        )


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
                size = per_plane * VALUE_BYTES[kind]
                entries[tag] = Entry(kind, value[plane * size : (plane + 1) * size])
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


def _shorts(directory: Directory, values: list[int]) -> Entry:
    return Entry(SHORT, np.array(values, directory.order + "u2").tobytes())


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
            entries[tag] = Entry(kind, value[: needed * VALUE_BYTES[kind]])
    return Directory(directory.order, entries)
