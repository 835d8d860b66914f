"""TIFF files of every layout hold what was written: right pixels, or a typed rejection."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import pyvips
import tifffile
from PIL import Image

from pipeline.images import tiff
from pipeline.images.decode import DecodeLimits, decode, header
from pipeline.images.row_reader import open_rows
from pipeline.rejection import Reason, Rejected
from tests.support import tiff_files
from tests.support.tiff_files import Layout, tiff_of

LIMITS = DecodeLimits()
H, W = 21, 37
FIELD = Path(__file__).parent / "field"


class Colours(NamedTuple):
    photometric: int
    samples: int
    extra: tuple[int, ...] = ()


KINDS = {
    "grey": Colours(tiff_files.GREY, 1),
    "grey inverted": Colours(tiff_files.GREY_INVERTED, 1),
    "grey inverted and alpha": Colours(tiff_files.GREY_INVERTED, 2, (2,)),
    "grey and alpha": Colours(tiff_files.GREY, 2, (2,)),
    "grey and associated alpha": Colours(tiff_files.GREY, 2, (1,)),
    "grey of three samples": Colours(tiff_files.GREY, 3),
    "grey and two more": Colours(tiff_files.GREY, 3, (0, 0)),
    "palette": Colours(tiff_files.PALETTE, 1),
    "rgb": Colours(tiff_files.RGB, 3),
    "rgb of four samples": Colours(tiff_files.RGB, 4),
    "rgb and alpha": Colours(tiff_files.RGB, 4, (2,)),
    "rgb and associated alpha": Colours(tiff_files.RGB, 4, (1,)),
    "rgb and another": Colours(tiff_files.RGB, 4, (0,)),
    "rgb, alpha and another": Colours(tiff_files.RGB, 5, (2, 0)),
    "cmyk": Colours(tiff_files.CMYK, 4),
    "cmyk and alpha": Colours(tiff_files.CMYK, 5, (2,)),
}
COUNTS = {tiff_files.RGB: 3, tiff_files.CMYK: 4}


def layouts(bits: int, colours: Colours, *, planar: bool) -> Iterator[Layout]:
    """Every compression, strips and tiles, both byte orders, and differences where they are usual."""
    compressions = (tiff_files.NONE, tiff_files.LZW, tiff_files.DEFLATE, tiff_files.PACKBITS)
    for compression, tile, order in itertools.product(compressions, (None, (16, 32)), "<>"):
        layout = Layout(bits, colours.photometric, planar, compression, tile, order, colours.extra)
        yield layout
        if bits in (8, 16) and compression in (tiff_files.LZW, tiff_files.DEFLATE):
            yield layout._replace(predictor=True)


def random_samples(bits: int, colours: Colours) -> np.ndarray:
    dtype = np.uint8 if bits <= 8 else np.uint16
    return np.random.default_rng(bits).integers(0, 2**bits, (H, W, colours.samples)).astype(dtype)


def expected(samples: np.ndarray, bits: int, photometric: int, palette: np.ndarray) -> np.ndarray:
    """The pixels by the rules of `decode`, from the samples that were written."""
    if photometric == tiff_files.PALETTE:
        return (palette[samples[..., 0]] >> 8).astype(np.uint8)
    kept = samples[..., : COUNTS.get(photometric, 1)].astype(np.int64)
    high_byte = bits == 16 and samples.shape[2] > 1
    eight = (kept >> 8 if high_byte else np.rint(kept * 255 / (2**bits - 1))).astype(np.uint8)
    if photometric == tiff_files.CMYK:
        return np.asarray(Image.fromarray(eight, "CMYK").convert("RGB"))
    eight = 255 - eight if photometric == tiff_files.GREY_INVERTED else eight
    return np.repeat(eight, 3, axis=2) if eight.shape[2] == 1 else eight


def is_accepted(bits: int, colours: Colours, *, planar: bool) -> bool:
    return colours.samples == 1 or planar or bits in (8, 16)


@pytest.mark.parametrize("planar", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize(
    ("kind", "bits"), [(kind, bits) for kind in KINDS for bits in (1, 2, 4, 8, 16) if (kind, bits) != ("palette", 16)]
)
def test_pixels_are_those_that_were_written(kind: str, bits: int, planar: bool) -> None:
    colours = KINDS[kind]
    samples = random_samples(bits, colours)
    palette = np.random.default_rng(3).integers(0, 256, (2 ** min(bits, 8), 3)).astype(np.uint16) * 257
    is_palette = colours.photometric == tiff_files.PALETTE
    for layout in layouts(bits, colours, planar=planar):
        data = tiff_of(samples, layout, palette if is_palette else None)
        if not is_accepted(bits, colours, planar=planar):
            with pytest.raises(Rejected) as raised:
                decode(data, LIMITS)
            assert raised.value.reason is Reason.UNSUPPORTED_MODE
            continue
        right = expected(samples, bits, colours.photometric, palette)
        np.testing.assert_array_equal(decode(data, LIMITS).pixels, right, str(layout))
        assert (header(data, LIMITS).height, header(data, LIMITS).width) == (H, W)
        if header(data, LIMITS).streams:
            with open_rows(data, LIMITS) as reader:
                np.testing.assert_array_equal(reader.rows(0, H), right, str(layout))


@pytest.mark.parametrize("planar", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("kind", ["grey", "rgb", "rgb and alpha", "cmyk"])
def test_another_reader_sees_the_same_samples_in_these_files(kind: str, bits: int, planar: bool) -> None:
    """tifffile, which shares no code with libtiff, Pillow and libvips."""
    samples = random_samples(bits, KINDS[kind])
    for layout in layouts(bits, KINDS[kind], planar=planar):
        if layout.compression == tiff_files.LZW:
            continue  # tifffile needs another package for it
        read = tifffile.imread(io.BytesIO(tiff_of(samples, layout)))
        read = np.moveaxis(read, 0, 2) if planar and samples.shape[2] > 1 else read
        np.testing.assert_array_equal(read.reshape(samples.shape), samples, str(layout))


@pytest.mark.parametrize("planar", [False, True], ids=["together", "planes"])
@pytest.mark.parametrize(("photometric", "samples"), [("minisblack", 1), ("rgb", 3), ("separated", 4)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_tifffile_writes_is_read(photometric: str, samples: int, dtype: type, planar: bool) -> None:
    bits = np.dtype(dtype).itemsize * 8
    values = random_samples(bits, Colours(0, samples))
    stream = io.BytesIO()
    stored = np.moveaxis(values, 2, 0) if planar else values
    layout = {"photometric": photometric, "planarconfig": "separate" if planar else "contig"} if samples > 1 else {}
    tifffile.imwrite(stream, stored if samples > 1 else values[..., 0], tile=(16, 16), compression="zlib", **layout)
    number = {"minisblack": tiff_files.GREY, "rgb": tiff_files.RGB, "separated": tiff_files.CMYK}[photometric]
    right = expected(values, bits, number, np.empty(0))
    np.testing.assert_array_equal(decode(stream.getvalue(), LIMITS).pixels, right)


@pytest.mark.parametrize("samples", [3, 4])
@pytest.mark.parametrize("tile", [False, True])
def test_webp_in_a_tiff(samples: int, tile: bool) -> None:
    values = random_samples(8, Colours(tiff_files.RGB, samples))
    image = pyvips.Image.new_from_array(values, interpretation="srgb")
    size = {"tile_width": 16, "tile_height": 16} if tile else {}
    data = image.tiffsave_buffer(compression="webp", lossless=True, tile=tile, **size)
    # WebP may change the colours of pixels that are wholly transparent.
    seen = values[..., 3] > 0 if samples == 4 else np.ones((H, W), bool)
    np.testing.assert_array_equal(decode(data, LIMITS).pixels[seen], values[..., :3][seen])


def test_a_compression_that_no_decoder_here_has_is_named() -> None:
    data = tiff_of(random_samples(16, KINDS["grey and alpha"]), Layout(16, tiff_files.GREY, compression=50000))
    with pytest.raises(Rejected, match=r"ZSTD|not configured") as raised:
        decode(data, LIMITS)
    assert raised.value.reason is Reason.UNSUPPORTED_MODE


def test_the_planar_file_of_a_report() -> None:
    pixels = decode((FIELD / "planar16_min.tif").read_bytes(), LIMITS).pixels
    assert pixels.tolist() == [[[10, 50, 90], [20, 60, 100]], [[30, 70, 110], [40, 80, 120]]]


@pytest.mark.parametrize("sample_format", [tiff_files.SIGNED, tiff_files.FLOAT])
@pytest.mark.parametrize("photometric", [tiff_files.GREY, tiff_files.RGB])
@pytest.mark.parametrize("planar", [False, True])
def test_samples_without_a_stated_range_are_refused(sample_format: int, photometric: int, planar: bool) -> None:
    dtypes = (
        [np.int8, np.int16, np.int32] if sample_format == tiff_files.SIGNED else [np.float16, np.float32, np.float64]
    )
    for dtype in dtypes:
        samples = np.ones((4, 5, COUNTS.get(photometric, 1)), dtype)
        layout = Layout(np.dtype(dtype).itemsize * 8, photometric, planar, sample_format=sample_format)
        with pytest.raises(Rejected, match="only unsigned integers are decoded") as raised:
            decode(tiff_of(samples, layout), LIMITS)
        assert raised.value.reason is Reason.UNSUPPORTED_MODE


def test_planes_of_other_colours_are_refused() -> None:
    for photometric in (6, 8):  # YCbCr, Lab
        data = tiff_of(random_samples(8, KINDS["rgb"]), Layout(8, photometric, planar=True))
        with pytest.raises(Rejected, match="planes of photometric interpretation") as raised:
            decode(data, LIMITS)
        assert raised.value.reason is Reason.UNSUPPORTED_MODE


def test_truncated_planes_are_refused() -> None:
    data = tiff_of(random_samples(16, KINDS["rgb"]), Layout(16, planar=True, compression=tiff_files.DEFLATE))
    for size in (len(data) - 1, len(data) // 2):
        with pytest.raises(Rejected) as raised:
            decode(data[:size], LIMITS)
        assert raised.value.reason is Reason.TRUNCATED


def test_damaged_planes_are_refused() -> None:
    data = bytearray(tiff_of(random_samples(16, KINDS["rgb"]), Layout(16, planar=True, compression=tiff_files.DEFLATE)))
    offsets = tiff.read_directory(bytes(data)).integers(tiff.STRIP_OFFSETS)
    data[offsets[-1] + 20 : offsets[-1] + 40] = bytes(20)  # in the last plane
    with pytest.raises(Rejected):
        decode(bytes(data), LIMITS)
