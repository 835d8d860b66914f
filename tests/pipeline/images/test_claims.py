"""Headers that claim more than their files can hold, and images that are wide: what is rejected, and the pixels."""

from __future__ import annotations

import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import pytest

from conversion.net.geometry import AxisGeometry, ReceptiveField
from pipeline.images import row_reader, tiff_layout
from pipeline.images.band import band_of
from pipeline.images.decode import DecodeLimits, decode, header
from pipeline.images.multiscale import NeededBytes, ScaledImages, ScalingLimits, decode_scaled
from pipeline.images.resize import Scaling
from pipeline.images.row_reader import open_rows
from pipeline.maps.tiling import cut
from pipeline.rejection import Reason, Rejected
from pipeline.scoring.tiles import tiles_of
from tests.attacks.hostile_images import tiff_of_one_tile
from tests.pipeline.images.test_row_reader import STREAMED, H, W

LIMITS = DecodeLimits()


@pytest.mark.parametrize("name", STREAMED)
def test_tiles_from_a_band_in_a_file_are_those_of_decode(name: str):
    """Bit by bit, though the band moves down the image, and tiles are cut from it column by column."""
    whole = decode(STREAMED[name], LIMITS).pixels
    axis = AxisGeometry(8, 15.5, 32, 40)
    with open_rows(STREAMED[name], LIMITS, in_memory=0) as reader:
        grid = cut(reader.height, reader.width, ReceptiveField(axis, axis), tile_pixels=6000, alignment=(8, 8))
        for tile, pixels in tiles_of(reader, grid):
            np.testing.assert_array_equal(pixels, whole[tile.top : tile.bottom, tile.left : tile.right])
    assert len(grid) > 12


@pytest.mark.parametrize("in_memory", [0, 2**20])
def test_bands_that_grow_and_skip(in_memory: int):
    whole = decode(STREAMED["png"], LIMITS).pixels
    steps = [(0, 10, 0, W), (0, 10, 5, 6), (4, 40, 100, 200), (30, 41, 0, 9), (90, 95, 1, W), (91, H, 0, W)]
    with open_rows(STREAMED["png"], LIMITS, in_memory=in_memory) as reader:
        for top, bottom, left, right in steps:
            rows = reader.rows(top, bottom, left, right)
            assert not rows.flags.writeable
            np.testing.assert_array_equal(rows, whole[top:bottom, left:right])
        for left, right in [(-1, 3), (3, 3), (0, W + 1)]:
            with pytest.raises(ValueError, match="columns"):
                reader.rows(91, H, left, right)


def test_rows_are_fetched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(row_reader, "_BYTES_AT_ONCE", 3 * W * 3)
    whole = decode(STREAMED["jpeg"], LIMITS).pixels
    with open_rows(STREAMED["jpeg"], LIMITS) as reader:
        np.testing.assert_array_equal(reader.rows(0, H), whole)


def test_a_band_that_does_not_fit_on_the_disk_is_a_rejection(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(Rejected) as caught:
        band_of(100, 100, 0)
    assert caught.value.reason == Reason.OUT_OF_MEMORY
    assert "30,000 bytes" in caught.value.detail


def test_an_image_that_is_too_wide_for_rows(monkeypatch: pytest.MonkeyPatch):
    for module in ("decode", "multiscale", "row_reader"):
        monkeypatch.setattr(f"pipeline.images.{module}.MAX_WIDTH", W - 1)
    with pytest.raises(Rejected) as caught, open_rows(STREAMED["png"], LIMITS):
        pass
    assert caught.value.reason == Reason.TOO_MANY_PIXELS
    scaled = decode_scaled(STREAMED["png"], ScalingLimits(LIMITS, whole_pixels=1), Scaling())
    assert isinstance(scaled, ScaledImages)
    assert scaled.images[0].pixels is not None, "it is small enough to be decoded whole"
    with pytest.raises(Rejected, match="257 pixels; at most 256"):
        decode_scaled(STREAMED["png"], ScalingLimits(DecodeLimits(max_pixels=1000)), Scaling())


def test_more_memory_than_was_granted_is_asked_for():
    data, limits = STREAMED["png"], ScalingLimits(LIMITS)
    needed = decode_scaled(data, limits, Scaling(), 1000)
    assert needed == NeededBytes(7 * H * W + 3 * H * W)
    for granted in (needed.size, None):
        assert isinstance(decode_scaled(data, limits, Scaling(), granted), ScaledImages)


def test_30_000_by_30_000_is_admitted_and_more_is_not():
    assert _fate(_png_header(30_000, 30_000)) is None
    rejected = _fate(_png_header(30_001, 30_000))
    assert rejected is not None
    assert rejected.reason == Reason.TOO_MANY_PIXELS
    assert "at most 900000000" in rejected.detail


def _png_header(height: int, width: int) -> bytes:
    """Returns a grey PNG of one bit with data enough for its size, as far as a header is concerned."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", bytes(height * width // 8 // 1000)) + chunk(b"IEND", b"")


def _fate(data: bytes) -> Rejected | None:
    try:
        header(data, LIMITS.tiled())
    except Rejected as rejected:
        return rejected
    return None


def test_a_png_that_cannot_hold_its_pixels():
    data = _png_header(20_000, 20_000)
    assert _fate(data) is None
    short = data.replace(bytes(50_000), bytes(10), 1)
    rejected = _fate(short)
    assert rejected is not None
    assert rejected.reason == Reason.TRUNCATED
    assert "cannot hold 20,000 x 20,000 pixels" in rejected.detail


def test_a_tile_of_a_tiff_counts_once(tmp_path: Path):
    [path] = tiff_of_one_tile(tmp_path)
    rejected = _fate(path.read_bytes())
    assert rejected is not None
    assert rejected.reason == Reason.COMPRESSION_BOMB


@pytest.mark.parametrize("compression", ["none", "lzw", "deflate", "jpeg", "packbits"])
def test_tiffs_of_one_colour_are_not_bombs(compression: str, monkeypatch: pytest.MonkeyPatch):
    import pyvips

    monkeypatch.setattr(tiff_layout, "_SMALL_CLAIM", 0)
    image = pyvips.Image.black(1024, 1024, bands=3).copy(interpretation="srgb")
    data = image.write_to_buffer(".tif", compression=compression, tile=True, tile_width=512, tile_height=512)
    assert _fate(data) is None
