"""What cannot be read as an image may be any file: nothing of its content gets into the table."""

from __future__ import annotations

import gzip
import io
import zipfile
from pathlib import Path

import pytest

from pipeline.images.decode import DecodeLimits, decode
from pipeline.rejection import Rejected
from pipeline.sources import Reader, match

SECRET = b"tell-nobody"

IMAGES = {
    "text": SECRET + b"\n" * 100,
    "a long token": b"P6\n" + SECRET * 9,
    "a wrong token": b"P6\n" + SECRET[:8] + b" 1 255\n",
    "a plain value": b"P3 1 1 255 " + SECRET[:4] + b" 0 0",
    "a jpeg": b"\xff\xd8" + SECRET * 9,
    "a bitmap": b"BM" + SECRET * 9,
    "a gif": b"GIF89a" + SECRET * 9,
    "a png": b"\x89PNG\r\n\x1a\n" + SECRET * 9,
    "a tiff": b"II*\0\x08\0\0\0" + SECRET * 9,
}
CONTAINERS = {
    "a.tar.gz": SECRET * 100,
    "b.tar.gz": gzip.compress(SECRET * 100),
    "c.tar": SECRET * 100,
    "d.zip": SECRET * 100,
    "e.parquet": SECRET * 100,
    "f.tfrecord": SECRET * 100,
    "g.tfrecord.gz": SECRET * 100,
}


def reveals(text: str) -> bool:
    """Whether four bytes of the content stand in a text, as they are or in hex."""
    pieces = [SECRET[start : start + 4] for start in range(len(SECRET) - 3)]
    plain = text.replace(" ", "")
    return any(piece.decode() in text or piece.hex() in plain for piece in pieces)


@pytest.mark.parametrize("name", IMAGES)
def test_an_image(name: str):
    with pytest.raises(Rejected) as caught:
        decode(IMAGES[name], DecodeLimits())
    assert not reveals(str(caught.value))


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container(name: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(CONTAINERS[name])
    references = list(match(str(path)))
    assert references
    with Reader() as reader:
        for reference in references:
            with pytest.raises(Rejected) as caught:
                reader.read(reference)
            assert not reveals(str(caught.value))


def test_a_member(tmp_path: Path):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.jpg", SECRET * 9)
    (tmp_path / "a.zip").write_bytes(packed.getvalue().replace(SECRET, SECRET[::-1], 1))
    [reference] = match(str(tmp_path / "a.zip"))
    with Reader() as reader, pytest.raises(Rejected) as caught:
        reader.read(reference)
    assert not reveals(str(caught.value))
