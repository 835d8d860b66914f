"""One image in twelve formats, and seeded ways to damage a file."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HEIGHT, WIDTH = 47, 61
_Y, _X = np.mgrid[:HEIGHT, :WIDTH]
PIXELS = np.dstack([4 * _X, 5 * _Y, (_X * _Y) % 256]).astype(np.uint8)
PIXELS[10:30, 10:40] = np.random.default_rng(12).integers(0, 256, (20, 30, 3), np.uint8)


def _saved(kind, image=None, **options):
    stream = io.BytesIO()
    (image or Image.fromarray(PIXELS)).save(stream, kind, **options)
    return stream.getvalue()


def _frames():
    return {"save_all": True, "append_images": [Image.fromarray(PIXELS[::-1].copy())]}


def _interlaced_png():
    """Adam7's seven passes, each row with its filter byte (PNG, third edition, section 8)."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    rows = [row for top, left, down, right in passes for row in PIXELS[top::down, left::right]]
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 1)),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in chunks
    )


def _tiled_bigtiff(side=32):
    """BigTIFF, its tiles compressed by deflate one by one (TIFF 6.0, section 15; the BigTIFF design of 2007)."""
    rows, columns = -(-HEIGHT // side), -(-WIDTH // side)
    padded = np.zeros((rows * side, columns * side, 3), np.uint8)
    padded[:HEIGHT, :WIDTH] = PIXELS
    tiles = [
        zlib.compress(padded[y * side : (y + 1) * side, x * side : (x + 1) * side].tobytes())
        for y in range(rows)
        for x in range(columns)
    ]
    short, long8 = 3, 16
    tags = [(256, short, [WIDTH]), (257, short, [HEIGHT]), (258, short, [8, 8, 8]), (259, short, [8])]
    tags += [(262, short, [2]), (277, short, [3]), (322, short, [side]), (323, short, [side])]
    lengths = [len(tile) for tile in tiles]
    spilled = 16 + 8 + 20 * (len(tags) + 2) + 8
    first = spilled + 2 * 8 * len(tiles)
    offsets = [first + sum(lengths[:i]) for i in range(len(tiles))]
    entries = [
        struct.pack("<HHQ", tag, kind, len(values)) + struct.pack(f"<{len(values)}H", *values).ljust(8, b"\0")
        for tag, kind, values in tags
    ]
    entries += [
        struct.pack("<HHQQ", 324, long8, len(tiles), spilled),
        struct.pack("<HHQQ", 325, long8, len(tiles), spilled + 8 * len(tiles)),
    ]
    header = b"II" + struct.pack("<HHHQ", 43, 8, 0, 16) + struct.pack("<Q", len(entries))
    table = struct.pack(f"<{2 * len(tiles)}Q", *offsets, *lengths)
    return b"".join([header, *entries, struct.pack("<Q", 0), table, *tiles])


def _cmyk():
    return Image.fromarray(np.dstack([255 - PIXELS, np.zeros((HEIGHT, WIDTH), np.uint8)]), "CMYK")


LOSSLESS = {
    "PNG": _saved("PNG"),
    "interlaced PNG": _interlaced_png(),
    "animated PNG": _saved("PNG", **_frames()),
    "lossless WebP": _saved("WEBP", lossless=True),
    "BMP": _saved("BMP"),
    "LZW TIFF in strips": _saved("TIFF", compression="tiff_lzw", tiffinfo={278: 16}),
    "BigTIFF in tiles": _tiled_bigtiff(),
    "PPM": _saved("PPM"),
}
"""Format -> a file of exactly `PIXELS`."""
FILES = LOSSLESS | {
    "JPEG": _saved("JPEG", quality=90),
    "progressive CMYK JPEG": _saved("JPEG", _cmyk(), progressive=True),
    "lossy WebP": _saved("WEBP", quality=80),
    "animated GIF": _saved("GIF", **_frames()),  # 256 colours
}
"""Format -> a file of `PIXELS`, or of something like them."""


def _flip_bits(data, random):
    damaged = bytearray(data)
    for _ in range(random.choice([1, 3, 20])):
        damaged[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def _flip_header_bits(data, random):
    damaged = bytearray(data)
    for _ in range(random.choice([1, 2, 5])):
        damaged[random.randrange(min(len(data), 250))] ^= 1 << random.randrange(8)
    return bytes(damaged)


def _truncate(data, random):
    return data[: random.randrange(len(data))]


def _swap_blocks(data, random):
    size = random.choice([1, 8, 64, 200])
    first, second = sorted(random.randrange(len(data) - 200) for _ in range(2))
    second = max(second, first + size)
    middle = data[first + size : second]
    return data[:first] + data[second : second + size] + middle + data[first : first + size] + data[second + size :]


def _overwritten(data, random, values):
    """A number somewhere in the header becomes one of `values`."""
    value, at = random.choice(values), random.randrange(2, 120)
    return data[:at] + value + data[at + len(value) :]


def _huge_number(data, random):
    return _overwritten(data, random, [b"\xff\xff", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x7f\xff\xff\xff", b"99999"])


def _zero(data, random):
    return _overwritten(data, random, [b"\0", b"\0\0", b"\0\0\0\0", b"0"])


def _insert(data, random):
    at = random.randrange(len(data))
    return data[:at] + random.randbytes(random.choice([1, 4, 100])) + data[at:]


def _remove(data, random):
    at = random.randrange(len(data))
    return data[:at] + data[at + random.choice([1, 4, 100]) :]


MUTATIONS = {
    "flip bits": _flip_bits,
    "flip bits of the header": _flip_header_bits,
    "truncate": _truncate,
    "swap blocks": _swap_blocks,
    "huge number": _huge_number,
    "zero": _zero,
    "insert": _insert,
    "remove": _remove,
}
"""Kind of damage -> function of the file and a random.Random."""
