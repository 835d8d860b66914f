"""Decoding: exact pixels of every kind of file, and a typed rejection of everything else."""

import concurrent.futures
import io
import random
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngImageFile

from pipeline.images import tiff
from pipeline.images.decode import DecodeLimits, decode, header
from pipeline.images.formats import FORMATS, sniff
from pipeline.rejection import Reason, Rejected

LIMITS = DecodeLimits()
FIELD = Path(__file__).parent / "field"
H, W = 6, 9
RGB = np.random.default_rng(1).integers(0, 256, (H, W, 3), np.uint8)
GREY = RGB[..., 0]
GREY16 = np.random.default_rng(2).integers(0, 65536, (H, W), np.uint16)
BITS = GREY > 127
ALPHA = RGB[..., 1]
INDEX = GREY % 4
PALETTE = np.array([[10, 20, 30], [250, 0, 0], [0, 240, 5], [1, 2, 230]], np.uint8)


def encoded(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def three(grey):
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def eight(samples, largest=65535):
    return np.rint(samples.astype(np.float64) * 255 / largest).astype(np.uint8)


def paletted():
    image = Image.fromarray(INDEX)
    image.putpalette(PALETTE.tobytes())
    return image


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(rows, width, height, depth, colour, extra=b"", interlace=0):
    """A PNG of rows already packed, each without its filter byte."""
    ihdr = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", ihdr) + extra + chunk(b"IDAT", body[:7]) + chunk(b"IDAT", body[7:])
    ) + chunk(b"IEND", b"")


def adam7(array):
    """The rows of the seven passes of PNG's interlacing."""
    passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    parts = (array[top::down, left::right] for top, left, down, right in passes)
    return [row.tobytes() for part in parts if part.size for row in part]


def tiff_file(tags, strips, order="<", big=False, offsets_tag=273, after=b""):
    """A TIFF, its directory before its strips; `tags` is tag -> (type, values)."""
    types = {1: "B", 2: "c", 3: "H", 4: "I", 11: "f", 16: "Q"}
    width, count, entry = (8, "Q", "HHQ") if big else (4, "H", "HHI")
    tags = {**tags, offsets_tag: (4, [0] * len(strips)), offsets_tag + (6 if offsets_tag == 273 else 1): (4, [0])}
    sizes = [len(strip) for strip in strips]
    tags[offsets_tag + (6 if offsets_tag == 273 else 1)] = (4, sizes)
    start = 16 if big else 8
    directory = struct.calcsize(order + count) + len(tags) * (struct.calcsize(order + entry) + width) + width
    spill = sum(n for kind, v in tags.values() if (n := struct.calcsize(f"={len(v)}{types[kind]}")) > width)
    first = start + directory + spill
    tags[offsets_tag] = (4, [first + sum(sizes[:i]) for i in range(len(sizes))])
    entries, values = [], b""
    for tag, (kind, content) in sorted(tags.items()):
        body = struct.pack(f"{order}{len(content)}{types[kind]}", *content)
        if len(body) > width:
            field = struct.pack(order + ("Q" if big else "I"), start + directory + len(values))
            values += body
        else:
            field = body.ljust(width, b"\0")
        entries.append(struct.pack(order + entry, tag, kind, len(content)) + field)
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    link = struct.pack(order + ("Q" if big else "I"), 0)
    return b"".join([head, struct.pack(order + count, len(tags)), *entries, link, values, *strips, after])


def tiff_tags(height=H, width=W, bits=(8,), photometric=1, **more):
    tags = {256: (3, [width]), 257: (3, [height]), 258: (3, list(bits)), 259: (3, [1]), 262: (3, [photometric])}
    tags |= {277: (3, [len(bits)]), 278: (3, [height])}
    return tags | {int(tag[1:]): value for tag, value in more.items()}


def grey_tiff(array, order="<", **options):
    dtype = array.dtype.newbyteorder(order)
    height, width = array.shape
    tags = tiff_tags(height, width, (array.dtype.itemsize * 8,), **options)
    return tiff_file(tags, [array.astype(dtype).tobytes()], order)


def tiled(order="<"):
    """RGB in tiles of 16 x 16, as large as TIFF 6.0 allows at least."""
    padded = np.zeros((16, 32, 3), np.uint8)
    padded[:6, :20] = np.resize(RGB, (6, 20, 3))
    tags = tiff_tags(6, 20, bits=(8, 8, 8), photometric=2, t322=(3, [16]), t323=(3, [16]))
    del tags[278]
    tiles = [padded[:, :16].tobytes(), padded[:, 16:].tobytes()]
    return tiff_file(tags, tiles, order, offsets_tag=324), padded[:6, :20]


def twelve_bits():
    values = np.array([[0, 1, 8, 9], [2047, 2048, 4094, 4095]], np.uint32)
    pairs = values[:, ::2] << 12 | values[:, 1::2]
    rows = b"".join(int(pair).to_bytes(3, "big") for pair in pairs.ravel())
    return tiff_file(tiff_tags(2, 4, bits=(12,)), [rows]), eight(values, 4095)


def animated(kind, **options):
    images = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
    return encoded(images[0], kind, save_all=True, append_images=images[1:], **options)


def exif(orientation, kind=3):
    body = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}[kind]
    value = struct.pack("<" + body, orientation).ljust(4, b"\0")
    return b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHI", 0x0112, kind, 1) + value + b"\0\0\0\0"


IMAGE = Image.fromarray(RGB)
CMYK = Image.fromarray(np.dstack([RGB, GREY]), "CMYK")

LOSSLESS = {
    "png-grey": (encoded(Image.fromarray(GREY), "PNG"), three(GREY), "L"),
    "png-grey-alpha": (encoded(Image.fromarray(np.dstack([GREY, ALPHA])), "PNG"), three(GREY), "LA"),
    "png-grey-key": (
        png([row.tobytes() for row in GREY], W, H, 8, 0, chunk(b"tRNS", struct.pack(">H", GREY[0, 0]))),
        three(GREY),
        "L",
    ),
    "png-bits": (encoded(Image.fromarray(BITS), "PNG"), three(BITS * 255), "1"),
    "png-grey-2-bits": (png([b"\x1b", b"\xe4"], 4, 2, 2, 0), three([[0, 85, 170, 255], [255, 170, 85, 0]]), "L"),
    "png-grey-4-bits": (png([b"\x0f\x70"], 3, 1, 4, 0), three([[0, 255, 119]]), "L"),
    "png-grey-16": (encoded(Image.fromarray(GREY16), "PNG"), three(eight(GREY16)), "I;16"),
    "png-grey-alpha-16": (png([b"\x12\xff\x00\x00\x80\x80\xff\xff"], 2, 1, 16, 4), three([[0x12, 0x80]]), "RGBA"),
    "png-palette": (encoded(paletted(), "PNG"), PALETTE[INDEX], "P"),
    "png-palette-one-transparent": (encoded(paletted(), "PNG", transparency=1), PALETTE[INDEX], "P"),
    "png-palette-alphas": (encoded(paletted(), "PNG", transparency=b"\0\x40\x80\xc0"), PALETTE[INDEX], "P"),
    "png-rgb": (encoded(IMAGE, "PNG"), RGB, "RGB"),
    "png-rgb-interlaced": (png(adam7(RGB), W, H, 8, 2, interlace=1), RGB, "RGB"),
    "png-rgb-16": (png([bytes(range(12))], 2, 1, 16, 2), np.array([[[0, 2, 4], [6, 8, 10]]], np.uint8), "RGB"),
    "png-rgba": (encoded(Image.fromarray(np.dstack([RGB, ALPHA])), "PNG"), RGB, "RGBA"),
    "png-animated": (animated("PNG"), RGB, "RGB"),
    "webp": (encoded(IMAGE, "WEBP", lossless=True), RGB, "RGB"),
    "webp-alpha": (
        encoded(Image.fromarray(np.dstack([RGB, ALPHA])), "WEBP", lossless=True, exact=True),
        RGB,
        "RGBA",
    ),
    "webp-animated": (animated("WEBP", lossless=True), RGB, "RGB"),
    "bmp": (encoded(IMAGE, "BMP"), RGB, "RGB"),
    "bmp-palette": (encoded(paletted(), "BMP"), PALETTE[INDEX], "P"),
    "bmp-grey": (encoded(Image.fromarray(GREY), "BMP"), three(GREY), "L"),
    "bmp-bits": (encoded(Image.fromarray(BITS), "BMP"), three(BITS * 255), "1"),
    "bmp-alpha": (encoded(Image.fromarray(np.dstack([RGB, ALPHA])), "BMP"), RGB, "RGB"),
    "gif": (encoded(paletted(), "GIF"), PALETTE[INDEX], "P"),
    "gif-transparent": (encoded(paletted(), "GIF", transparency=2), PALETTE[INDEX], "P"),
    "gif-grey": (encoded(Image.fromarray(GREY), "GIF"), three(GREY), "P"),
    "gif-animated": (
        encoded(paletted(), "GIF", save_all=True, append_images=[paletted().transpose(0)], disposal=2),
        PALETTE[INDEX],
        "P",
    ),
    **{
        f"tiff-{compression}": (encoded(IMAGE, "TIFF", compression=compression), RGB, "RGB")
        for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "tiff_deflate", "packbits")
    },
    "tiff-group4": (encoded(Image.fromarray(BITS), "TIFF", compression="group4"), three(BITS * 255), "1"),
    "tiff-bits": (encoded(Image.fromarray(BITS), "TIFF"), three(BITS * 255), "1"),
    "tiff-grey": (grey_tiff(GREY), three(GREY), "L"),
    "tiff-grey-white-is-zero": (grey_tiff(GREY, photometric=0), three(255 - GREY), "L"),
    "tiff-grey-alpha": (encoded(Image.fromarray(np.dstack([GREY, ALPHA])), "TIFF"), three(GREY), "LA"),
    "tiff-palette": (encoded(paletted(), "TIFF"), PALETTE[INDEX], "P"),
    "tiff-rgba": (encoded(Image.fromarray(np.dstack([RGB, ALPHA])), "TIFF"), RGB, "RGB"),
    "tiff-cmyk": (encoded(CMYK, "TIFF"), np.asarray(CMYK.convert("RGB")), "CMYK"),
    "tiff-grey-16": (grey_tiff(GREY16), three(eight(GREY16)), "I;16"),
    "tiff-grey-16-big-endian": (grey_tiff(GREY16, ">"), three(eight(GREY16)), "I;16B"),
    "tiff-grey-16-lzw": (
        encoded(Image.fromarray(GREY16), "TIFF", compression="tiff_lzw"),
        three(eight(GREY16)),
        "I;16",
    ),
    "tiff-grey-16-white-is-zero": (grey_tiff(GREY16, photometric=0), three(255 - eight(GREY16)), "L"),
    "tiff-grey-12": (twelve_bits()[0], three(twelve_bits()[1]), "I;16"),
    "tiff-rgb-16": (
        tiff_file(tiff_tags(1, 2, bits=(16,) * 3, photometric=2), [bytes(range(12))]),
        np.array([[[1, 3, 5], [7, 9, 11]]], np.uint8),
        "RGB",
    ),
    "tiff-planes": (
        tiff_file(
            tiff_tags(bits=(8, 8, 8), photometric=2, t284=(3, [2])), [RGB[..., band].tobytes() for band in range(3)]
        ),
        RGB,
        "RGB",
    ),
    "tiff-strips": (
        tiff_file(tiff_tags(bits=(8, 8, 8), photometric=2, t278=(3, [4])), [RGB[:4].tobytes(), RGB[4:].tobytes()], ">"),
        RGB,
        "RGB",
    ),
    "tiff-too-many-strips": (
        tiff_file(tiff_tags(bits=(8, 8, 8), photometric=2), [RGB.tobytes(), b"x", b"y"]),
        RGB,
        "RGB",
    ),
    "tiff-tiles": (*tiled(), "RGB"),
    "tiff-tiles-big-endian": (*tiled(">"), "RGB"),
    "bigtiff": (tiff_file(tiff_tags(bits=(8, 8, 8), photometric=2), [RGB.tobytes()], big=True), RGB, "RGB"),
    "bigtiff-big-endian": (tiff_file(tiff_tags(), [GREY.tobytes()], ">", big=True), three(GREY), "L"),
    "bigtiff-lzw": (encoded(IMAGE, "TIFF", big_tiff=True, compression="tiff_lzw"), RGB, "RGB"),
    "tiff-pages": (animated("TIFF"), RGB, "RGB"),
    "ppm": (encoded(IMAGE, "PPM"), RGB, "RGB"),
    "ppm-plain": (
        b"P3 # a comment\n2 1 255\n1 2 3 254 255 0",
        np.array([[[1, 2, 3], [254, 255, 0]]], np.uint8),
        "RGB",
    ),
    "pgm": (encoded(Image.fromarray(GREY), "PPM"), three(GREY), "L"),
    "pgm-plain": (b"P2\n3 1\n10\n0 5 10", three([[0, 128, 255]]), "L"),
    "pgm-16": (b"P5 %d %d 65535\n" % (W, H) + GREY16.astype(">u2").tobytes(), three(eight(GREY16)), "I"),
    "pgm-10-bits": (b"P5 2 1 1023\n\x00\x00\x03\xff", three([[0, 255]]), "I"),
    "pbm": (encoded(Image.fromarray(BITS), "PPM"), three(BITS * 255), "1"),
    "pbm-plain": (b"P1 2 1\n1 0", three([[0, 255]]), "1"),
}

JPEG = {
    "jpeg": encoded(IMAGE, "JPEG"),
    "jpeg-progressive": encoded(IMAGE, "JPEG", progressive=True, subsampling=0),
    "jpeg-grey": encoded(Image.fromarray(GREY), "JPEG"),
    "jpeg-cmyk": encoded(CMYK, "JPEG"),
    "tiff-jpeg": encoded(IMAGE, "TIFF", compression="jpeg"),
    "webp-lossy": encoded(IMAGE, "WEBP"),
}

FILES = {name: data for name, (data, _, _) in LOSSLESS.items()} | JPEG


@pytest.mark.parametrize("name", LOSSLESS)
def test_pixels_are_exact(name):
    data, expected, mode = LOSSLESS[name]
    image = decode(data, LIMITS)
    assert image.pixels.dtype == np.uint8
    assert image.pixels.flags.c_contiguous
    assert not image.pixels.flags.writeable
    np.testing.assert_array_equal(image.pixels, expected)
    assert (image.format, image.mode, image.orientation) == (sniff(data), mode, 1)


@pytest.mark.parametrize("name", JPEG)
def test_lossy_formats_give_the_pixels_of_pillow(name):
    expected = np.asarray(Image.open(io.BytesIO(JPEG[name])).convert("RGB"))
    np.testing.assert_array_equal(decode(JPEG[name], LIMITS).pixels, expected)


@pytest.mark.parametrize("name", FILES)
def test_the_header_says_what_decoding_gives(name):
    found, image = header(FILES[name], LIMITS), decode(FILES[name], LIMITS)
    assert (found.height, found.width) == image.pixels.shape[:2]
    assert (found.format, found.mode, found.orientation) == (image.format, image.mode, image.orientation)


def test_cmyk_jpeg_is_inverted_back():
    data = encoded(Image.new("CMYK", (16, 16), (200, 127, 127, 40)), "JPEG", quality=100)
    expected = [(255 - 40) * (255 - ink) / 255 for ink in (200, 127, 127)]
    assert np.abs(decode(data, LIMITS).pixels - expected).max() <= 2


def test_ycck_jpeg_goes_through_its_colour_transform():
    data = bytearray(encoded(Image.new("CMYK", (16, 16), (200, 127, 127, 40)), "JPEG", quality=100))
    # The same bytes, said to be YCCK: stored are 55, 128, 128, 215, so Y is 55 without chroma, and C, M, Y are 55.
    data[data.index(b"Adobe") + 11] = 2
    assert np.abs(decode(bytes(data), LIMITS).pixels - (255 - 40) * (255 - 55) / 255).max() <= 2


def test_every_16_bit_value_is_rounded_and_none_is_clipped():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    pixels = decode(encoded(Image.fromarray(values), "PNG"), LIMITS).pixels
    np.testing.assert_array_equal(pixels, three(eight(values)))


@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3))))
def test_png_round_trip_is_exact(array):
    np.testing.assert_array_equal(decode(encoded(Image.fromarray(array), "PNG"), LIMITS).pixels, array)


# Orientation

UPRIGHT = {
    1: "abc def", 2: "cba fed", 3: "fed cba", 4: "def abc", 5: "ad be cf", 6: "da eb fc", 7: "fc eb da", 8: "cf be ad",
}  # fmt: skip
LETTERS = np.frombuffer(b"abcdef", np.uint8).reshape(2, 3)


def oriented(kind, orientation):
    image = Image.fromarray(three(LETTERS))
    if kind == "TIFF":
        return encoded(image, kind, tiffinfo={274: orientation})
    return encoded(image, kind, exif=exif(orientation), **({"lossless": True} if kind == "WEBP" else {}))


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_orientation_is_applied(kind, orientation):
    data = oriented(kind, orientation)
    image = decode(data, LIMITS)
    assert [bytes(row).decode() for row in image.pixels[..., 0]] == UPRIGHT[orientation].split()
    assert image.orientation == orientation
    assert image.pixels.flags.c_contiguous
    assert (header(data, LIMITS).height, header(data, LIMITS).width) == image.pixels.shape[:2]


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_orientation_of_jpeg_is_applied(orientation):
    data = encoded(IMAGE, "JPEG", exif=exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    np.testing.assert_array_equal(decode(data, LIMITS).pixels, expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_is_none_is_upright(kind, orientation):
    assert decode(oriented(kind, orientation), LIMITS).orientation == 1


@pytest.mark.parametrize(
    "block", [*(exif(6, kind) for kind in (1, 4, 6, 8, 9)), exif(6)[6:], exif(6) + b"more", exif(6)[:-4]]
)
def test_exif_blocks_that_state_an_orientation(block):
    assert tiff.exif_orientation(block) == 6


@pytest.mark.parametrize("block", [b"", b"Exif\0\0", exif(6)[:20], b"junk" * 9, b"Exif\0\0II*\0\xff\xff\xff\xff"])
def test_damaged_exif_is_upright(block):
    assert tiff.exif_orientation(block) == 1
    assert decode(encoded(IMAGE, "PNG", exif=block), LIMITS).orientation == 1


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_refused_size_is_that_of_the_upright_image(kind):
    with pytest.raises(Rejected, match="too-many-pixels: 3 x 2 is 6 pixels; at most 5"):
        decode(oriented(kind, 6), DecodeLimits(max_pixels=5))


# What is refused


def refusal(data, limits=LIMITS):
    with pytest.raises(Rejected) as caught:
        decode(data, limits)
    if caught.value.reason not in (Reason.TRUNCATED, Reason.CORRUPT):
        with pytest.raises(Rejected) as from_header:
            header(data, limits)
        assert from_header.value.reason == caught.value.reason
    return caught.value


def test_empty():
    assert refusal(b"").reason == Reason.EMPTY


@pytest.mark.parametrize("data", [b"\0", b"hello, world", b"P6", b"Pluto", b"%PDF-1.7", b"RIFF\0\0\0\0WAVE", b"<svg/>"])
def test_unknown_format(data):
    refused = refusal(data)
    assert refused.reason == Reason.UNKNOWN_FORMAT
    assert data[:12].hex(" ") not in refused.detail, "a file that is not an image may be a secret"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0"),
        ("AVIF", encoded(IMAGE, "AVIF")),
        ("JPEG 2000", encoded(IMAGE, "JPEG2000")),
        ("JPEG XL", b"\xff\x0a\xfa\x1f"),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ],
)
def test_a_format_that_is_not_decoded_is_named(name, data):
    refused = refusal(data)
    assert (refused.reason, refused.detail.partition(",")[0]) == (Reason.UNKNOWN_FORMAT, name)


@pytest.mark.parametrize("name", ["png-rgb", "jpeg", "webp", "bmp", "gif", "tiff-raw", "ppm"])
def test_format_not_allowed(name):
    own = sniff(FILES[name])
    others = tuple(kind for kind in FORMATS if kind != own)
    assert refusal(FILES[name], DecodeLimits(formats=others)).reason == Reason.FORMAT_NOT_ALLOWED
    decode(FILES[name], DecodeLimits(formats=(own,)))


@pytest.mark.parametrize("limits", [{"formats": ("EPS",)}, {"formats": ()}, {"max_pixels": 0}, {"max_tiled_pixels": 0}])
def test_limits_that_make_no_sense(limits):
    with pytest.raises(ValueError, match=next(iter(limits))):
        DecodeLimits(**limits)


@pytest.mark.parametrize("name", FILES)
def test_too_many_pixels(name):
    pixels = decode(FILES[name], LIMITS).pixels
    exactly = pixels.shape[0] * pixels.shape[1]
    if "tiles" not in name:  # whose padded tiles count
        assert decode(FILES[name], DecodeLimits(max_pixels=exactly)).pixels.shape == pixels.shape
    if exactly > 1:
        assert refusal(FILES[name], DecodeLimits(max_pixels=exactly - 1)).reason == Reason.TOO_MANY_PIXELS


BOMBS = {
    "png": png([], 100_000, 100_000, 8, 2),
    "png-header-alone": png([], 100_000, 100_000, 8, 2)[:33],
    "gif": b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\0;",
    "gif-disposal": b"GIF89a\x01\0\x01\0\0\0\0!\xf9\x04\x08\0\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\x08\0;",
    "bmp": b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 100_000, 100_000, 1, 24, 0, 0, 0, 0, 0, 0),
    "tiff": tiff_file(tiff_tags(65535, 65535, bits=(8, 8, 8), photometric=2), [b"x"]),
    "tiff-one-tile": tiff_file(
        {tag: value for tag, value in tiff_tags(t322=(4, [2**16]), t323=(4, [2**16])).items() if tag != 278},
        [b"x"],
        offsets_tag=324,
    ),
    "webp-extended": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2,
    "webp-lossless": b"RIFF\x16\0\0\0WEBPVP8L\x05\0\0\0\x2f\xff\xff\xff\x0f\0",
    "jpeg": b"\xff\xd8\xff\xc0\0\x11\x08\xff\xdc\xff\xdc\x03\x01\x22\0\x02\x11\x01\x03\x11\x01\xff\xda\0\x02",
    "ppm": b"P6 100000 100000 255\n",
    "pgm-plain": b"P2 100000 100000 255\n1 2 3",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_from_their_header(name, monkeypatch):
    monkeypatch.setattr(Image, "new", None)  # nothing allocates pixels
    monkeypatch.setattr("PIL.Image.core.fill", None)
    assert refusal(BOMBS[name]).reason == Reason.TOO_MANY_PIXELS


@pytest.mark.parametrize(
    "data",
    [
        b"Pf 1 1 -1.0\n\0\0\0\0",
        grey_tiff(GREY.astype(np.float32), t339=(3, [3])),
        grey_tiff(GREY.astype(np.int32), t339=(3, [2])),
        grey_tiff(GREY.astype(np.uint32)),
        grey_tiff(GREY.astype(np.int16), t339=(3, [2])),
        grey_tiff(GREY.astype(np.float64), t339=(3, [3])),
        tiff_file(tiff_tags(bits=(8, 8, 8), photometric=8), [RGB.tobytes()]),
        grey_tiff(GREY, t259=(3, [34712])),
        BOMBS["bmp"].replace(struct.pack("<ii", 100_000, 100_000), struct.pack("<ii", 1, 1)).replace(b"\x18", b"\x40"),
        BOMBS["jpeg"].replace(b"\x11\x08\xff\xdc\xff\xdc", b"\x11\x0c\0\x08\0\x08"),
    ],
    ids=["pfm", "float", "int32", "uint32", "int16", "double", "lab", "jpeg-2000-in-tiff", "bmp-64", "jpeg-12-bits"],
)
def test_unsupported_mode(data):
    assert refusal(data).reason == Reason.UNSUPPORTED_MODE


@pytest.mark.parametrize(
    "data",
    [
        png([], 0, 5, 8, 2),
        b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"no header first"),
        png([row.tobytes() for row in RGB], W, H, 8, 2).replace(b"IDAT", b"IDAT\xff", 1),
        png([row.tobytes() for row in RGB], W, H, 7, 2),
        b"GIF89a\x05\0\x05\0\0\0\0;",
        b"GIF89a\x01\0\x01\0\0\0\0,\xff\xff\0\0\xff\xff\x01\0\0\x08\0;",
        tiff_file(tiff_tags(t278=(3, [2])), [RGB[:2].tobytes()]),
        tiff_file(tiff_tags(t278=(3, [0])), [RGB.tobytes()]),
        tiff_file(tiff_tags(0, 0), [b""]),
        b"RIFF\x04\0\0\0WEBPJUNK\0\0\0\0",
    ],
    ids=[
        "png-no-columns", "png-no-header", "png-length", "png-depth", "gif-no-image", "gif-too-far", "tiff-few-strips",
        "tiff-no-rows-in-strip", "tiff-no-pixel", "webp-no-image",
    ],
)  # fmt: skip
def test_corrupt(data):
    assert refusal(data).reason == Reason.CORRUPT


def test_out_of_memory(monkeypatch):
    def load(self):
        raise MemoryError

    monkeypatch.setattr(PngImageFile, "load", load)
    with pytest.raises(Rejected, match="out-of-memory: PNG"):
        decode(FILES["png-rgb"], LIMITS)


def attempt(data, limits=LIMITS):
    """The pixels, or the rejection: anything else that is raised fails the test."""
    try:
        return decode(data, limits).pixels
    except Rejected as rejected:
        return rejected


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_gives_its_pixels_or_is_rejected(name):
    data = FILES[name]
    whole = decode(data, LIMITS).pixels
    if name.endswith("plain"):  # nothing tells that the last number of a text is cut short
        data = data[: data.rindex(b" ") + 1]
    for cut in {0, 1, 2, 3, 8, 12, 16, 20, 30, *range(0, len(data), max(1, len(data) // 23)), *range(-9, 0)}:
        outcome = attempt(data[:cut])
        if isinstance(outcome, Rejected):
            allowed = {Reason.TRUNCATED, Reason.CORRUPT, Reason.UNKNOWN_FORMAT, Reason.EMPTY}
            assert outcome.reason in allowed, f"cut at {cut}: {outcome}"
        else:
            np.testing.assert_array_equal(outcome, whole, err_msg=f"cut at {cut}")


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(("plain", "pages"))])
def test_half_a_file_is_truncated(name):
    assert refusal(FILES[name][: len(FILES[name]) // 2]).reason == Reason.TRUNCATED


@pytest.mark.parametrize("name", FILES)
def test_mutated_files_give_pixels_or_are_rejected(name):
    randomly = random.Random(name)
    limits = DecodeLimits(max_pixels=10**6)
    for _ in range(20):
        data = bytearray(FILES[name])
        for _ in range(randomly.choice([1, 1, 3, 9])):
            at = randomly.randrange(min(len(data), randomly.choice([60, len(data)])))
            data[at : at + randomly.choice([0, 1, 1, 1, 4])] = randomly.randbytes(randomly.choice([0, 1, 1, 1, 4]))
        outcome = attempt(bytes(data), limits)
        assert not isinstance(outcome, Rejected) or outcome.detail or outcome.reason == Reason.EMPTY


# Pillow's warnings and global limit: warnings are errors in these tests


def corrupt_exif():
    block = b"Exif\0\0II*\0\x08\0\0\0\x02\0" + struct.pack("<HHII", 0x0112, 3, 1, 6)
    return block + struct.pack("<HHII", 0x010F, 2, 4000, 9000) + b"\0\0\0\0"


def many_entries():
    tags = tiff_tags(t266=(3, [1, 2, 3]), t274=(3, [6, 6, 6]), t305=(2, [b"x"] * 9))
    return tiff_file(tags, [GREY.tobytes()])


MP_BLOCK = b"MPF\0II*\0\x08\0\0\0\x01\0\x01\xb0\x04\0\x01\0\0\0\x02\0\0\0\0\0\0\0"
ODD = {
    "jpeg-exif": encoded(IMAGE, "JPEG", exif=corrupt_exif()).replace(b"JFIF", b"JFXX"),
    "jpeg-mpo": FILES["jpeg"][:2] + b"\xff\xe2" + struct.pack(">H", len(MP_BLOCK) + 2) + MP_BLOCK + FILES["jpeg"][2:],
    "png-animation": png([row.tobytes() for row in RGB], W, H, 8, 2, chunk(b"acTL", bytes(8))),
    "png-palette-alphas": FILES["png-palette-alphas"],
    "tiff-many-entries": many_entries(),
    "tiff-value-beyond-the-end": tiff_file(tiff_tags(t33432=(2, [b"x"] * 9)), [GREY.tobytes()]).replace(
        struct.pack("<HHI", 33432, 2, 9), struct.pack("<HHI", 33432, 2, 9999)
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_pillow_would_warn_and_decode_does_not(name):
    with pytest.warns(UserWarning):  # noqa: PT030 - what it says is Pillow's business
        Image.open(io.BytesIO(ODD[name])).convert("RGB")
    before = list(warnings.filters)
    decode(ODD[name], LIMITS)
    assert warnings.filters == before


def test_decoding_in_threads_neither_warns_nor_disagrees():
    names = list(FILES | ODD) * 2
    alone = {name: decode((FILES | ODD)[name], LIMITS).pixels for name in FILES | ODD}
    before = list(warnings.filters)
    with concurrent.futures.ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda name: decode((FILES | ODD)[name], LIMITS).pixels, names))
    for name, pixels in zip(names, together, strict=True):
        np.testing.assert_array_equal(pixels, alone[name])
    assert warnings.filters == before


@pytest.mark.parametrize("name", FILES)
def test_the_global_limit_of_pillow_does_not_interfere(name, monkeypatch):
    expected = decode(FILES[name], LIMITS).pixels
    for limit in (1, expected.shape[0] * expected.shape[1] - 1 or 1):  # it would raise; it would warn
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        np.testing.assert_array_equal(decode(FILES[name], LIMITS).pixels, expected)
    assert limit == Image.MAX_IMAGE_PIXELS


GIF = (FIELD / "g_offset.gif").read_bytes()


def test_around_the_image_of_a_gif_is_the_background_colour():
    """A screen of 48 x 64 with a red image of 10 x 20 on it, and green in the background; as OpenCV reads it."""
    expected = np.zeros((48, 64, 3), np.uint8)
    expected[...] = (0, 255, 0)
    expected[20:30, 30:50] = (255, 0, 0)
    np.testing.assert_array_equal(decode(GIF, LIMITS).pixels, expected)
    for index, colour in ((0, (0, 0, 0)), (3, (0, 0, 255)), (9, (0, 0, 0))):
        pixels = decode(GIF[:11] + bytes([index]) + GIF[12:], LIMITS).pixels
        assert (tuple(pixels[0, 0]), tuple(pixels[29, 49])) == (colour, (255, 0, 0))


def test_a_gif_whose_image_is_larger_than_its_screen():
    pixels = decode(GIF[:6] + struct.pack("<HH", 35, 20) + GIF[10:], LIMITS).pixels
    assert pixels.shape == (30, 50, 3)
    assert (header(GIF, LIMITS).height, header(GIF, LIMITS).width) == (48, 64)
