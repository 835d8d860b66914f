"""Files of other programs in place of weights: the message says what they look like."""

from __future__ import annotations

import gzip
import io
import pickle
import tarfile
import zipfile
from pathlib import Path

from conversion.errors import ReadingError
from tests.attacks.attack import SMALL, Attack, each


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("net.caffemodel"))
    return file.getvalue()


FORMATS = {
    "zip": (_zip(), "zip archive"),
    "PyTorch zip": (_zip(), "PyTorch"),
    "gzip": (gzip.compress(b"x"), "gzip"),
    "gzip bomb": (gzip.compress(bytes(1 << 20)), "gzip"),
    "bzip2": (b"BZh91AY&SY", "bzip2"),
    "xz": (b"\xfd7zXZ\x00\x00", "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd\x00", "zstd"),
    "tar": (_tar(), "tar archive"),
    "pickle": (pickle.dumps({"a": 1}), "pickle"),
    "NumPy": (b"\x93NUMPY\x01\x00v\x00", "NumPy array"),
    "ONNX": (b"\x08\x07\x12\x07pytorch\x1a\x033.0:\x00", "ONNX"),
    "PNG": (b"\x89PNG\r\n\x1a\n", "picture (PNG)"),
    "JPEG": (b"\xff\xd8\xff\xe0\x00\x10JFIF", "picture (JPEG)"),
    "safetensors": ((80).to_bytes(8, "little") + b'{"conv.weight":{"dtype":"F32"', "safetensors"),
    "program": (b"\x7fELF\x02\x01\x01", "a program"),
    "PDF": (b"%PDF-1.7", "PDF"),
}
ATTACKS = [
    *(
        Attack(name, content, ReadingError, ("looks like", word), "weights")
        for name, (content, word) in FORMATS.items()
    ),
    Attack("a definition as weights", SMALL, ReadingError, ("not weights: it is text",), "weights"),
    Attack("JSON as weights", '{"layers": []}', ReadingError, (), "weights"),
    Attack("zeros", bytes(1000), ReadingError, ("field number 0",), "weights"),
    Attack("JPEG as mean", FORMATS["JPEG"][0], ReadingError, ("picture (JPEG)",), "mean", ".binaryproto"),
    Attack("PNG as npy", FORMATS["PNG"][0], ReadingError, ("picture (PNG)",), "mean"),
    Attack("zip as labels", _zip(), ReadingError, ("zip archive",), "labels"),
    Attack("gzip as definition", gzip.compress(SMALL.encode()), ReadingError, ("gzip", "unpack"), "definition"),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
