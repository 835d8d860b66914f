"""Writes TIFF files of every layout from an array, so that what they hold is known without a reader."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

import numpy as np

NONE, LZW, DEFLATE, PACKBITS = 1, 5, 8, 32773
GREY_INVERTED, GREY, RGB, PALETTE, CMYK = 0, 1, 2, 3, 5
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


class Layout(NamedTuple):
    """How the samples of an array lie in a TIFF file.

    Attributes:
        bits: Bits of a sample: 1, 2, 4, 8, 12, 16, 32 or 64.
        photometric: The kind of colours.
        planar: Whether every sample has its own plane.
        compression: The compression of strips and tiles.
        tile: Height and width of tiles; None for strips.
        order: "<" or ">".
        extra: The kinds of the samples after the colours: 0 unknown, 1 associated alpha, 2 alpha.
        sample_format: `UNSIGNED`, `SIGNED` or `FLOAT`.
        rows_per_strip: Rows of a strip.
        predictor: Whether samples are stored as differences from their left neighbours.
    """

    bits: int = 8
    photometric: int = RGB
    planar: bool = False
    compression: int = NONE
    tile: tuple[int, int] | None = None
    order: str = "<"
    extra: tuple[int, ...] = ()
    sample_format: int = UNSIGNED
    rows_per_strip: int = 5
    predictor: bool = False


def tiff_of(samples: np.ndarray, layout: Layout, palette: np.ndarray | None = None) -> bytes:
    """Returns a TIFF file.

    Args:
        samples: [height, width, samples], of a type that holds the layout's values.
        layout: How they are stored.
        palette: uint16 [2 ** bits, 3], for `PALETTE`.
    """
    height, width, count = samples.shape
    planes = np.moveaxis(samples, 2, 0)[..., None] if layout.planar else samples[None]
    if layout.tile:
        rows, columns = layout.tile
        padding = (0, 0), (0, -height % rows), (0, -width % columns), (0, 0)
        planes = np.pad(planes, padding)
    else:
        rows, columns = min(layout.rows_per_strip, height), width
    blocks = [
        plane[top : top + rows, left : left + columns]
        for plane in planes
        for top in range(0, plane.shape[0], rows)
        for left in range(0, plane.shape[1], columns)
    ]
    data = [_compressed(_packed(block, layout), layout) for block in blocks]
    tags = {
        256: ("H", [width]),
        257: ("H", [height]),
        258: ("H", [layout.bits] * count),
        259: ("H", [layout.compression]),
        262: ("H", [layout.photometric]),
        277: ("H", [count]),
        284: ("H", [2 if layout.planar else 1]),
        339: ("H", [layout.sample_format] * count),
    }
    if layout.extra:
        tags[338] = ("H", list(layout.extra))
    if layout.predictor:
        tags[317] = ("H", [2])
    if palette is not None:
        tags[320] = ("H", palette.T.ravel().tolist())
    if layout.tile:
        tags |= {322: ("H", [columns]), 323: ("H", [rows])}
    else:
        tags[278] = ("H", [rows])
    offsets, sizes = (324, 325) if layout.tile else (273, 279)
    tags |= {offsets: ("I", [0] * len(data)), sizes: ("I", [len(block) for block in data])}
    first = 8 + 2 + 12 * len(tags) + 4
    spill = sum(size for kind, values in tags.values() if (size := struct.calcsize(kind) * len(values)) > 4)
    tags[offsets] = ("I", [first + spill + sum(map(len, data[:index])) for index in range(len(data))])
    return _file(tags, data, layout.order)


def _file(tags: dict[int, tuple[str, list[int]]], data: list[bytes], order: str) -> bytes:
    start = 8 + 2 + 12 * len(tags) + 4
    entries, values = [], b""
    for tag, (kind, numbers) in sorted(tags.items()):
        body = struct.pack(f"{order}{len(numbers)}{kind}", *numbers)
        field = body.ljust(4, b"\0")
        if len(body) > 4:
            field = struct.pack(order + "I", start + len(values))
            values += body
        entries.append(struct.pack(order + "HHI", tag, {"H": 3, "I": 4}[kind], len(numbers)) + field)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8)
    return b"".join([head, struct.pack(order + "H", len(tags)), *entries, bytes(4), values, *data])


def _packed(block: np.ndarray, layout: Layout) -> bytes:
    """Returns the samples of a strip or tile as bytes; a row begins on a byte."""
    rows = block.reshape(block.shape[0], -1)
    if layout.predictor:
        left = np.concatenate([np.zeros_like(block[:, :1]), block[:, :-1]], axis=1)
        rows = (block - left).reshape(block.shape[0], -1)  # modulo the range of the type
    if layout.bits >= 8 and layout.bits != 12:
        return rows.astype(rows.dtype.newbyteorder(layout.order)).tobytes()
    bits = (rows.astype(np.uint16)[..., None] >> np.arange(layout.bits - 1, -1, -1)) & 1
    return np.packbits(bits.reshape(rows.shape[0], -1), axis=1).tobytes()


def _compressed(data: bytes, layout: Layout) -> bytes:
    if layout.compression == LZW:
        return _lzw(data)
    if layout.compression == DEFLATE:
        return zlib.compress(data)
    if layout.compression == PACKBITS:
        pieces = (data[start : start + 128] for start in range(0, len(data), 128))
        return b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
    return data


def _lzw(data: bytes) -> bytes:
    """Returns LZW codes of 9 bits: the table is cleared before it would need more."""
    codes = []
    for start in range(0, len(data), 250):
        codes += [256, *data[start : start + 250]]
    bits = (np.array([*codes, 257], np.uint16)[:, None] >> np.arange(8, -1, -1)) & 1
    return np.packbits(bits.ravel()).tobytes()
