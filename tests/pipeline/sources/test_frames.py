"""Frames of a file as images of their own: listed, read, found again by their address."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.images.decode import DecodeLimits, decode
from pipeline.rejection import Reason, Rejected
from pipeline.settings import Frames
from pipeline.sources import ImageReference, Reader, locate
from pipeline.sources.file_types import FRAMES
from pipeline.sources.frames import is_expandable, list_frames
from pipeline.sources.listing import has_members, list_members
from pipeline.transforms.shuffle import bucket_of


@pytest.fixture(params=["gif", "webp", "tif", "png"])
def animation(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    first, *more = [Image.new("RGB", (12, 10), (level, 0, 0)) for level in (10, 100, 200)]
    path = tmp_path / f"a.{request.param}"
    options = {"lossless": True} if request.param == "webp" else {}
    first.save(path, save_all=True, append_images=more, **options)
    return path


def test_frames_are_listed_and_read(animation: Path):
    file = ImageReference(str(animation), id="7", label="cat")
    listed = list(list_frames(file))
    assert [(one.uri.removeprefix(str(animation)), one.id, one.label) for one in listed] == [
        ("", "7", "cat"),
        ("#1", "", "cat"),
        ("#2", "", "cat"),
    ]
    with Reader() as reader:
        reds = [decode(reader.read(one).data, DecodeLimits()).pixels[..., 0] for one in listed]
        assert reader.read(listed[0]).data == animation.read_bytes()
    for red, level in zip(reds, (10, 100, 200), strict=True):
        assert np.array_equal(red, np.full((10, 12), level))


def test_the_first_frame_has_the_version_of_the_file(animation: Path):
    with Reader() as reader:
        plain = reader.probe(ImageReference(str(animation)), "")
    first, second, _ = list_frames(ImageReference(str(animation)))
    assert (first.version, second.version) == (plain, f"{plain}@1")


def test_an_address_of_a_frame_is_found_again(animation: Path):
    assert locate(f"{animation}#2").offset == 2
    with pytest.raises(Rejected) as caught:
        locate(f"{animation}#3")
    assert caught.value.reason is Reason.MISSING


def test_a_file_that_changes_after_it_was_listed(animation: Path):
    *_, last = list_frames(ImageReference(str(animation)))
    Image.new("RGB", (12, 10)).save(animation)
    with Reader() as reader, pytest.raises(Rejected) as caught:
        reader.read(last)
    assert caught.value.reason is Reason.UNREADABLE


def test_a_file_with_one_frame_or_none_stays_as_it_is(tmp_path: Path):
    Image.new("RGB", (12, 10)).save(tmp_path / "one.gif")
    for name in ("one.gif", "missing.gif"):
        file = ImageReference(str(tmp_path / name))
        assert list(list_frames(file)) == [file]


def test_what_cannot_be_listed_is_rejected(tmp_path: Path):
    (tmp_path / "a.tif").write_bytes(b"II*\0\x08\0\0\0\0\0\x08\0\0\0")  # a directory that leads to itself
    (found,) = list_frames(ImageReference(str(tmp_path / "a.tif")))
    assert Rejected.parse(found.fault).reason is Reason.CORRUPT


def test_which_references_may_have_frames():
    assert is_expandable(ImageReference("/a.GIF"))
    others = [
        ImageReference("/a.jpg"),
        ImageReference("https://host/a.gif"),
        ImageReference("/b.tar#a.gif", container="/b.tar", kind="tar"),
        ImageReference("/a.gif", kind=FRAMES, container="/a.gif", offset=0),
        ImageReference("/a.gif", fault="missing"),
    ]
    assert not any(is_expandable(one) for one in others)
    assert not has_members(ImageReference("/a.gif"), Frames.FIRST)
    assert has_members(ImageReference("/a.tar"), Frames.FIRST)


def test_one_worker_reads_an_animation(animation: Path):
    buckets = {bucket_of(one.uri) for one in list_members(ImageReference(str(animation)))}
    assert len(buckets) == (3 if animation.suffix == ".tif" else 1)
