"""Frames of a file: each is the image that Pillow shows, and counting them costs little whatever the file says."""

import contextlib
import io
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.images import frames
from pipeline.images.decode import DecodeLimits, decode
from pipeline.images.frames import count_frames, frame, frame_positions, page
from pipeline.rejection import Reason, Rejected

FORMATS: dict[str, dict[str, Any]] = {
    "GIF": {},
    "WEBP": {"lossless": True},
    "PNG": {},
    "TIFF": {},
    "BigTIFF": {"big_tiff": True},
}


def pictures(count: int) -> list[Image.Image]:
    generator = np.random.default_rng(count)
    return [Image.fromarray(generator.integers(0, 256, (9, 14, 3), np.uint8)) for _ in range(count)]


def saved(format_name: str, count: int = 4, **options: Any) -> bytes:
    first, *more = pictures(count)
    file = io.BytesIO()
    more_frames = {"save_all": True, "append_images": more} if more else {}
    first.save(file, format_name.removeprefix("Big"), **FORMATS[format_name], **more_frames, **options)
    return file.getvalue()


def positions(data: bytes) -> list[int]:
    return frame_positions(io.BytesIO(data))


@pytest.mark.parametrize("format_name", FORMATS)
def test_each_frame_is_what_pillow_shows(format_name: str):
    data = saved(format_name)
    found = positions(data)
    assert len(found) == 4
    for index in (1, 3, 2):  # back as well
        alone = page(data, found[index]) if "TIFF" in format_name else frame(data, index)
        with Image.open(io.BytesIO(data)) as image:
            image.seek(index)
            assert np.array_equal(decode(alone, DecodeLimits()).pixels, image.convert("RGB"))


@pytest.mark.parametrize("format_name", FORMATS)
def test_a_file_with_one_frame(format_name: str):
    data = saved(format_name, 1)
    assert len(positions(data)) <= 1
    assert count_frames(data) == 1


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0", b"BM" + bytes(60), b"text"])
def test_other_files_count_as_one(data: bytes):
    assert count_frames(data) == 1


def test_an_animation_besides_the_default_image_of_a_png():
    data = saved("PNG", default_image=True)
    assert len(positions(data)) == 4
    with Image.open(io.BytesIO(data)) as image:
        image.seek(3)


@pytest.mark.parametrize("format_name", FORMATS)
def test_of_a_file_that_is_cut_off_the_frames_that_begin_count(format_name: str):
    data = saved(format_name)
    found = positions(data)
    counts = [len(positions(data[:length])) for length in range(16, len(data), 5)]
    assert counts == sorted(counts)
    if "TIFF" not in format_name:  # a directory of a TIFF may lie behind its pixels
        assert len(positions(data[: found[2]])) == 2


@pytest.mark.parametrize(("tag", "value"), [(254, 1), (254, 4), (255, 2)])
def test_reduced_copies_and_masks_are_not_frames(tag: int, value: int):
    data = saved("TIFF", 2)
    second = positions(data)[1]
    (count,) = struct.unpack_from("<H", data, second)
    copy = bytearray(data)
    struct.pack_into("<HHII", copy, second + 2, tag, 4, 1, value)  # over an entry
    assert count > 0
    assert len(positions(bytes(copy))) == 1


def test_directories_that_lead_in_a_circle():
    data = bytearray(saved("TIFF", 2))
    first, second = positions(bytes(data))
    (count,) = struct.unpack_from("<H", data, second)
    struct.pack_into("<I", data, second + 2 + 12 * count, first)
    with pytest.raises(Rejected, match="leads back"):
        positions(bytes(data))
    assert count_frames(bytes(data)) == 1


def test_more_frames_than_anybody_lists(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "MAX_FRAMES", 3)
    with pytest.raises(Rejected, match="more than 3 frames") as caught:
        positions(saved("GIF"))
    assert caught.value.reason is Reason.CORRUPT


def test_filler_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(frames, "_MAX_STEPS", 1000)
    with pytest.raises(Rejected, match="1,000 blocks"):
        positions(b"GIF89a" + bytes(2000))


def test_a_frame_that_is_missing_or_larger_than_allowed(monkeypatch: pytest.MonkeyPatch):
    data = saved("GIF")
    with pytest.raises(Rejected) as caught:
        frame(data, 4)
    assert caught.value.reason is Reason.TRUNCATED
    monkeypatch.setattr(frames, "DecodeLimits", lambda: DecodeLimits(max_pixels=100))
    with pytest.raises(Rejected) as caught:
        frame(data, 1)
    assert caught.value.reason is Reason.TOO_MANY_PIXELS


@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_damaged_bytes_are_counted_or_rejected(format_name: str, draw: st.DataObject):
    data = bytearray(saved(format_name))
    for _ in range(draw.draw(st.integers(1, 4))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    with contextlib.suppress(Rejected):  # any other error fails the test
        assert len(set(positions(bytes(data)))) == len(positions(bytes(data)))
