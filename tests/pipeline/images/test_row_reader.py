"""Rows of huge images: bit by bit those of `decode`, at a bounded memory, and the same fates."""

import gc
import io
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from conversion.net.geometry import AxisGeometry, ReceptiveField
from pipeline.images.decode import DecodeLimits, decode, header
from pipeline.images.row_reader import open_rows
from pipeline.maps.tiling import cut
from pipeline.rejection import Reason, Rejected
from pipeline.scoring.tiles import tiles_of
from tests.pipeline.images.test_decode import FILES, encoded, exif

LIMITS = DecodeLimits()
H, W = 201, 257


def picture(height: int = H, width: int = W) -> np.ndarray:
    """uint8 [h, w, 3]: smooth, so that JPEG has something to do, and no two rows alike."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


PICTURE = Image.fromarray(picture())
GREY16 = Image.fromarray(np.random.default_rng(1).integers(0, 65536, (H, W), np.uint16))
STREAMED = {
    "jpeg": encoded(PICTURE, "JPEG"),
    "jpeg-444": encoded(PICTURE, "JPEG", quality=97, subsampling=0),
    "jpeg-422": encoded(PICTURE, "JPEG", quality=50, subsampling=1),
    "jpeg-grey": encoded(PICTURE.convert("L"), "JPEG"),
    "jpeg-stored-as-rgb": encoded(PICTURE, "JPEG", keep_rgb=True),
    "jpeg-restarts": encoded(PICTURE, "JPEG", restart_marker_rows=1),
    "png": encoded(PICTURE, "PNG"),
    "png-grey-16": encoded(GREY16, "PNG"),
    "png-palette": encoded(PICTURE.quantize(200), "PNG", transparency=3),
    "tiff": encoded(PICTURE, "TIFF"),
    "tiff-lzw": encoded(PICTURE, "TIFF", compression="tiff_lzw"),
    "tiff-deflate": encoded(PICTURE, "TIFF", compression="tiff_adobe_deflate"),
    "tiff-packbits": encoded(PICTURE, "TIFF", compression="packbits"),
    "tiff-jpeg": encoded(PICTURE, "TIFF", compression="jpeg"),
    "tiff-grey-16": encoded(GREY16, "TIFF", compression="tiff_lzw"),
}
WHOLE_ONLY = {
    "jpeg-progressive": encoded(PICTURE, "JPEG", progressive=True),
    "jpeg-cmyk": encoded(PICTURE.convert("CMYK"), "JPEG"),
    "jpeg-turned": encoded(PICTURE, "JPEG", exif=exif(6)),
    "png-turned": encoded(PICTURE, "PNG", exif=exif(3)),
    "tiff-cmyk": encoded(PICTURE.convert("CMYK"), "TIFF"),
    "tiff-ycbcr": encoded(PICTURE.convert("YCbCr"), "TIFF", compression="tiff_lzw"),
    "tiff-turned": encoded(PICTURE, "TIFF", tiffinfo={274: 8}),
    "webp": encoded(PICTURE, "WEBP"),
    "gif": encoded(PICTURE, "GIF"),
    "bmp": encoded(PICTURE, "BMP"),
    "ppm": encoded(PICTURE, "PPM"),
}


def vips_tiff(**options) -> bytes:
    import pyvips

    image = pyvips.Image.new_from_memory(picture().tobytes(), W, H, 3, "uchar").copy(interpretation="srgb")
    return image.write_to_buffer(".tif", **options)


def by_rows(data, step: int = 50) -> np.ndarray:
    with open_rows(data, LIMITS) as reader:
        assert (reader.height, reader.width) == (header(data, LIMITS).height, header(data, LIMITS).width)
        return np.concatenate(
            [reader.rows(top, min(top + step, reader.height)).copy() for top in range(0, reader.height, step)]
        )


@pytest.mark.parametrize("name", STREAMED)
def test_rows_are_those_of_decode(name):
    data = STREAMED[name]
    assert header(data, LIMITS).streams
    np.testing.assert_array_equal(by_rows(data), decode(data, LIMITS).pixels)


@pytest.mark.parametrize("tile", [True, False])
@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "jpeg", "packbits"])
def test_tiled_tiffs(compression, tile):
    data = vips_tiff(compression=compression, tile=tile, tile_width=64, tile_height=48)
    assert header(data, LIMITS).streams
    np.testing.assert_array_equal(by_rows(data), decode(data, LIMITS).pixels)


@pytest.mark.parametrize("name", FILES)
def test_every_file_that_can_be_streamed_gives_the_pixels_of_decode(name):
    data = FILES[name][0] if isinstance(FILES[name], tuple) else FILES[name]
    if header(data, LIMITS).streams:
        np.testing.assert_array_equal(by_rows(data), decode(data, LIMITS).pixels)
    else:
        with pytest.raises(Rejected, match="cannot be read by rows"), open_rows(data, LIMITS):
            pass


def test_most_kinds_can_be_streamed():
    data = (value[0] if isinstance(value, tuple) else value for value in FILES.values())
    assert sum(header(one, LIMITS).streams for one in data) >= 38


@pytest.mark.parametrize("name", WHOLE_ONLY)
def test_what_cannot_be_streamed_is_said(name):
    data = WHOLE_ONLY[name]
    assert not header(data, LIMITS).streams
    assert decode(data, LIMITS).pixels.size == H * W * 3
    with pytest.raises(Rejected) as caught, open_rows(data, LIMITS):
        pass
    assert caught.value.reason == Reason.UNSUPPORTED_MODE


@given(st.sampled_from(["jpeg", "png", "tiff-lzw"]), st.lists(st.integers(0, H), min_size=1, max_size=12))
@settings(max_examples=40)
def test_rows_in_any_forward_order(name, numbers):
    """Overlapping, skipping, one row or all: the rows asked for."""
    whole = decode(STREAMED[name], LIMITS).pixels
    tops, bottoms = sorted(numbers), sorted(n * 7 % H for n in numbers)
    with open_rows(STREAMED[name], LIMITS) as reader:
        for top, bottom in zip(tops, [min(H, b + 30) for b in bottoms], strict=True):
            if top < bottom:
                rows = reader.rows(top, bottom)
                assert not rows.flags.writeable
                np.testing.assert_array_equal(rows, whole[top:bottom])


def test_rows_behind_cannot_be_had():
    with open_rows(STREAMED["jpeg"], LIMITS) as reader:
        reader.rows(50, 120)
        for top, bottom in [(40, 130), (50, 110), (130, 130), (150, H + 1), (-1, 130)]:
            with pytest.raises(ValueError, match="only forward"):
                reader.rows(top, bottom)
        reader.rows(50, 120)
    with pytest.raises(ValueError, match="closed"):
        reader.rows(60, 130)


def test_a_path_is_read_as_its_bytes(tmp_path):
    for name in ("jpeg", "png", "tiff-lzw", "tiff"):
        path = tmp_path / name
        path.write_bytes(STREAMED[name])
        np.testing.assert_array_equal(by_rows_of_path(path), decode(STREAMED[name], LIMITS).pixels)


def by_rows_of_path(path) -> np.ndarray:
    with open_rows(str(path), LIMITS) as reader:
        return reader.rows(0, reader.height).copy()


@pytest.mark.parametrize(("what", "reason"), [("none", "missing"), ("empty", "empty"), ("folder", "unreadable")])
def test_paths_that_cannot_be_read(what, reason, tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(Rejected) as caught, open_rows(tmp_path / what, LIMITS):
        pass
    assert caught.value.reason == reason


# --- tiles


@pytest.mark.parametrize("name", ["jpeg", "png-grey-16", "tiff-deflate"])
def test_tiles_hold_their_part_of_the_image(name):
    whole = decode(STREAMED[name], LIMITS).pixels
    axis = AxisGeometry(8, 15.5, 32, 40)
    with open_rows(STREAMED[name], LIMITS) as reader:
        grid = cut(reader.height, reader.width, ReceptiveField(axis, axis), tile_pixels=6000, alignment=(8, 8))
        tiles = list(tiles_of(reader, grid))
    assert [tile for tile, _ in tiles] == list(grid)
    assert len(grid) > 12
    for tile, pixels in tiles:
        assert pixels.flags.c_contiguous
        assert pixels.flags.owndata
        np.testing.assert_array_equal(pixels, whole[tile.top : tile.bottom, tile.left : tile.right])


# --- limits


def test_an_image_above_max_pixels_is_read_by_rows():
    limits = DecodeLimits(max_pixels=1000)
    data = STREAMED["jpeg"]
    with pytest.raises(Rejected):
        header(data, limits)
    assert (header(data, limits.tiled()).height, header(data, limits.tiled()).width) == (H, W)
    with open_rows(data, limits) as reader:
        assert reader.rows(0, H).shape == (H, W, 3)


def test_max_tiled_pixels_holds():
    with pytest.raises(Rejected) as caught, open_rows(STREAMED["jpeg"], DecodeLimits(1000, max_tiled_pixels=2000)):
        pass
    assert caught.value.reason == Reason.TOO_MANY_PIXELS


def test_a_tiff_whose_tiles_are_too_high_is_no_stream():
    """A reader of rows holds a row of tiles."""
    import struct

    from pipeline.images import tiff, tiff_layout

    def streams(tile_height: int) -> bool:
        entries = {
            tag: tiff.Entry(4, struct.pack("<I", value))
            for tag, value in {256: 2**16, 257: 2**16, 258: 8, 259: 1, 262: 1, 277: 1, 323: tile_height, 324: 8}.items()
        }
        return tiff_layout.streams(tiff.Directory("<", entries))

    assert streams(1024)
    assert not streams(2048)


# --- damage


def fate(function):
    try:
        return function()
    except Rejected as rejected:
        return rejected


@pytest.mark.parametrize("name", STREAMED)
def test_truncated_files_are_rejected_as_decode_does(name):
    data, choose = STREAMED[name], random.Random(name)
    for _ in range(12):
        part = data[: int(len(data) * choose.uniform(0.02, 0.98))]
        whole, rows = fate(lambda part=part: decode(part, LIMITS).pixels), fate(lambda part=part: by_rows(part))
        assert isinstance(whole, Rejected)
        assert isinstance(rows, Rejected)
        assert rows.reason == whole.reason == Reason.TRUNCATED


@pytest.mark.parametrize("name", STREAMED)
def test_damaged_files_give_the_pixels_of_decode_or_are_rejected(name, capfd):
    data, choose = STREAMED[name], random.Random(name)
    for _ in range(25):
        content = bytearray(data)
        for _ in range(choose.randint(1, 4)):
            content[choose.randrange(len(content))] = choose.randrange(256)
        damaged = bytes(content)
        rows = fate(lambda damaged=damaged: by_rows(damaged))
        if not isinstance(rows, Rejected):  # it may be refused where decode is content, never the other way round
            np.testing.assert_array_equal(rows, decode(damaged, LIMITS).pixels)
    capfd.readouterr()  # libtiff writes to standard error where Pillow calls it


def test_damage_found_by_a_checksum_is_corrupt():
    data = bytearray(STREAMED["png"])
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    rows = fate(lambda: by_rows(bytes(data)))
    assert isinstance(rows, Rejected)
    assert rows.reason == Reason.CORRUPT


@pytest.mark.parametrize("marker", [0xDB, 0xA6, 0xDA])
def test_a_marker_within_a_jpeg_would_give_grey_rows(marker):
    data = STREAMED["jpeg"]
    at = data.index(b"\xff\x00", len(data) // 2)
    damaged = data[:at] + bytes([0xFF, marker]) + data[at + 2 :]
    with pytest.raises(Rejected, match="within the image") as caught:
        by_rows(damaged)
    assert caught.value.reason == Reason.CORRUPT
    np.testing.assert_array_equal(by_rows(data + b"\xff\xd8\xff\xe0"), decode(data, LIMITS).pixels)


def test_rows_asked_for_after_a_refusal_are_refused_too():
    data = STREAMED["png"]
    with open_rows(data[: len(data) // 2], LIMITS) as reader:
        for _ in range(2):
            with pytest.raises(Rejected):
                reader.rows(0, H)


def test_what_is_left_behind_does_not_harm():
    """libvips calls back into Python objects: they must outlive it, also where a reader was dropped half way."""
    for name in ("jpeg", "png", "tiff-lzw") * 20:
        with open_rows(STREAMED[name], LIMITS) as reader:
            reader.rows(0, 3)
        del reader
        gc.collect(0)


# --- memory and imports

MEASURED = """
import resource, sys
from pipeline.images.decode import DecodeLimits
from pipeline.images.row_reader import open_rows
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with open_rows(sys.argv[1], DecodeLimits()) as reader:
    reader.rows(0, 64)
    before = peak()
    for top in range(64, reader.height, 64):
        reader.rows(top, min(top + 64, reader.height))
    print(peak() - before, reader.height * reader.width * 3 // 1024)
"""


@pytest.mark.parametrize("kind", [".jpg", ".png", ".tif"])
def test_memory_does_not_grow_with_the_height(kind, tmp_path):
    path = tmp_path / f"tall{kind}"
    options: dict[str, Any] = {"compress_level": 1} if kind == ".png" else {}
    Image.fromarray(np.resize(picture(64, 4000), (6000, 4000, 3))).save(path, **options)
    done = subprocess.run([sys.executable, "-c", MEASURED, str(path)], check=True, capture_output=True, text=True)
    grown, whole = map(int, done.stdout.split())
    assert grown < whole / 4  # KiB


def test_vips_and_the_frameworks_are_loaded_when_needed():
    heavy = "{'pyvips', 'tensorflow', 'apache_beam'}"
    program = "import sys, pipeline.images.row_reader, pipeline.images.resize; "
    program += f"print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_untrusted_loaders_are_blocked():
    by_rows(STREAMED["png"])
    import pyvips

    assert pyvips.concurrency_get() == 1
    ppm = io.BytesIO()
    PICTURE.save(ppm, "PPM")
    with pytest.raises(pyvips.Error):
        pyvips.Image.new_from_buffer(ppm.getvalue(), "")
