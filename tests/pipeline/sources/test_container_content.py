"""Containers are what they hold, whatever their names say."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import Reader, list_images, locate
from pipeline.sources.container_content import kind_by_content
from pipeline.sources.streams import FileStream
from tests.pipeline.sources.test_tfrecord import example, framed
from tests.support.listing import fates

FIELD = Path(__file__).parents[2] / "field"


def tar_of(name: str = "a.jpg", data: bytes = b"1") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return sink.getvalue()


def zip_of() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.jpg", b"1")
    return sink.getvalue()


def parquet_of() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.table({"image": [b"1"]}), sink)
    return sink.getvalue()


def tfrecord_of() -> bytes:
    return framed(example(image=b"1"))


CONTENTS: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "tar": ("tar", tar_of, "a.jpg"),
    "tar whose member looks like bzip2": ("tar", lambda: tar_of("BZh.jpg"), "BZh.jpg"),
    "tar whose member looks like zip": ("tar", lambda: tar_of("PK\x03\x04.jpg"), "PK\x03\x04.jpg"),
    "gzip": ("tar", lambda: gzip.compress(tar_of()), "a.jpg"),
    "bzip2": ("tar", lambda: bz2.compress(tar_of()), "a.jpg"),
    "xz": ("tar", lambda: lzma.compress(tar_of()), "a.jpg"),
    "zip": ("zip", zip_of, "a.jpg"),
    "parquet": ("parquet", parquet_of, "0"),
    "tfrecord": ("tfrecord", tfrecord_of, "0"),
    "packed tfrecord": ("tfrecord", lambda: gzip.compress(tfrecord_of()), "0"),
}


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize(
    "name", ["x.tar", "x.tar.gz", "x.tbz2", "x.zip", "x.parquet", "x.tfrecord.gz", "train-00000-of-01024"]
)
def test_any_content_under_any_name(tmp_path: Path, content: str, name: str) -> None:
    kind, make, member = CONTENTS[content]
    path = tmp_path / name
    path.write_bytes(make())
    assert fates(path) == {member: b"1"}
    reference = locate(f"{path}#{member}")
    assert reference.kind == kind
    with Reader() as reader:
        assert reader.read(reference).data == b"1"


@pytest.mark.parametrize("name", ["gz_named_tar.tar", "tar_named_gz.tar.gz"])
def test_files_from_the_field(name: str) -> None:
    found = fates(FIELD / name, max_bytes=10**7)
    assert found
    assert all(isinstance(data, bytes) and data for data in found.values())


@pytest.mark.parametrize(
    "name", ["a.tfrec", "a.record", "a.records", "a.record-00000-of-00010", "a.TFREC.gz", "validation-00000-of-00128"]
)
def test_the_names_of_tfrecord_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(tfrecord_of())
    assert fates(tmp_path / name) == {"0": b"1"}


@pytest.mark.parametrize(
    ("name", "content", "fate"),
    [
        ("a.tar", b"\xff\xd8\xff" + bytes(600), {"": "corrupt"}),
        ("a.zip", b"neither", {"": "corrupt"}),
        ("a.tar", gzip.compress(b"neither"), {"": "truncated"}),
        ("a.tar", gzip.compress(tar_of())[:-20], {"a.jpg": b"1", "": "truncated"}),
        ("a.tfrecord", b"", {"": "empty"}),
        ("part-00000-of-01024", b"an image, for all that its name says", {"": b"an image, for all that its name says"}),
    ],
    ids=["image.tar", "text.zip", "text.tar.gz", "half.tar.gz", "empty.tfrecord", "image"],  # gzip contains the time
)
def test_content_that_tells_nothing_is_taken_by_its_name(
    tmp_path: Path, name: str, content: bytes, fate: dict[str, bytes | str]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert fates(path) == fate
    with FileStream(str(path)) as stream:
        assert kind_by_content(stream) is None or content[:2] == b"\x1f\x8b"


def test_a_numbered_image_is_still_itself(tmp_path: Path) -> None:
    path = tmp_path / "part-00000-of-01024"
    path.write_bytes(b"an image")
    [reference] = list_images([str(path)])
    assert (reference.uri, reference.container, reference.fault) == (str(path), "", "")
    assert reference.size_bytes == 8
