"""The seeds of the targets, made from the golden cases: `python -m tests.fuzz.seeds` writes them to build/fuzz."""

from __future__ import annotations

import gzip
import hashlib
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from conversion.caffe.caffe_pb2 import DESCRIPTOR, LayerParameter, NetParameter
from conversion.caffe.reading import blob_message
from conversion.layers import registered
from tests.fuzz.harness import TARGETS, WORK, kept
from tests.support.golden_cases import GOLDEN

_LARGEST = 20_000
_OLD = ("fmt_v0", "fmt_v1_branches", "fmt_v1_sequential", "fmt_input_dim_field", "fmt_input_shape_field")
_ARRAYS = (
    np.zeros((3, 4, 4), "<f4"),
    np.asfortranarray(np.ones((1, 3, 2, 2), "<f8")),
    np.arange(3, dtype=">i2"),
    np.zeros((), "u1"),
    np.array([True]),
)


def seeds(target: str) -> Iterator[bytes]:
    """A target's seeds."""
    targets = {
        "definition": _definitions,
        "weights": _weights,
        "blob": _blobs,
        "upgrade": _old,
        "npy": _npy,
        "answer": _answers,
    }
    yield from targets[target]()


def _files(name: str) -> Iterator[Path]:
    yield from (path for path in sorted(GOLDEN.glob(f"*/*/{name}")) if path.stat().st_size <= _LARGEST)


def _definitions() -> Iterator[bytes]:
    yield from (path.read_bytes() for path in _files("net.prototxt"))


def _weights() -> Iterator[bytes]:
    yield from (path.read_bytes() for path in _files("net.caffemodel"))
    for path in _files("net.prototxt"):
        yield text_format.Parse(path.read_text(), NetParameter()).SerializeToString()


def _blobs() -> Iterator[bytes]:
    for path in _files("net.caffemodel"):
        net = NetParameter.FromString(path.read_bytes())
        for blobs in [*(layer.blobs for layer in net.layer), *(layer.blobs for layer in net.layers)]:
            yield from (blob.SerializeToString() for blob in blobs)
    yield from (blob_message(array.astype("<f4")).SerializeToString() for array in _ARRAYS)


def _old() -> Iterator[bytes]:
    for name in _OLD:
        for path in sorted((GOLDEN / "layers" / name).glob("net.*")) + sorted((GOLDEN / "nets" / name).glob("net.*")):
            if path.suffix == ".caffemodel":
                yield path.read_bytes()
            elif path.suffix == ".prototxt":
                yield text_format.Parse(path.read_text(), NetParameter()).SerializeToString()


def _npy() -> Iterator[bytes]:
    for array in _ARRAYS:
        file = io.BytesIO()
        np.save(file, array)
        yield file.getvalue()


def _answers() -> Iterator[bytes]:
    body, packed = b"\xff\xd8" + bytes(20), gzip.compress(b"\xff\xd8" + bytes(20))
    etag, moved = b'ETag: "v1"\r\n', b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: "
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 22\r\n" + etag + b"\r\n" + body
    yield b"HTTP/1.0 200 OK\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n\r\n" + body
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n16\r\n" + body + b"\r\n0\r\nX: y\r\n\r\n"
    yield b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(packed) + packed
    yield b"HTTP/1.1 304 Not Modified\r\n" + etag + b"\r\n"
    yield b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-21/22\r\nContent-Length: 22\r\n\r\n" + body
    yield b"HTTP/1.1 416 No\r\nContent-Range: bytes */22\r\nContent-Length: 0\r\n\r\n"
    yield b"HTTP/1.1 503 Busy\r\nRetry-After: 3\r\nContent-Length: 0\r\nSet-Cookie: a=b; Max-Age=5\r\n\r\n"
    yield b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body
    for target in (
        b"/b",
        b"http://[::1/x",
        b"/caf\xe9",
        b"https://host/",
        b"http://u:p@host:99999/",
        b"file:///x",
        b"//",
    ):
        yield moved + target + b"\r\n\r\n"
    for number in (b"9" * 5000, b"-1", b"+5", b"1_0", b"5, 5", b"5, 6", b"\xb2", b""):
        yield b"HTTP/1.1 200 OK\r\nContent-Length: " + number + b"\r\n\r\n" + body
        yield b"HTTP/1.1 503 Busy\r\nRetry-After: " + number + b"\r\n\r\n"
        yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + number + b"\r\n" + body
    yield b"HTTP/1.1 200 OK\r\nno colon\r\nETag: " + b'"' + b"v" * 3000 + b'"\r\n\r\n' + body


def write(target: str) -> Path:
    """Writes a target's seeds where they are missing, and what was found once; the folder."""
    folder = WORK / target
    folder.mkdir(parents=True, exist_ok=True)
    for seed in (*seeds(target), *(path.read_bytes() for path in kept(target))):
        if len(seed) <= _LARGEST:
            (folder / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    return folder


def dictionary() -> Path:
    """libFuzzer's dictionary: every field, enum value and layer type."""
    words = {"layer", "inf", "nan", "-1", "2147483647", "9223372036854775807", *registered()}
    for message in DESCRIPTOR.message_types_by_name.values():
        words.update(message.fields_by_name)
        words.update(name for enum in message.enum_types for name in enum.values_by_name)
    lines = [f'"{word}"' for word in sorted(words)]
    lines += [f'"\\x{field.number << 3 & 0x7F | 2:02x}"' for field in LayerParameter.DESCRIPTOR.fields[:11]]
    path = WORK / "words.dict"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")
    return path


if __name__ == "__main__":
    for name in TARGETS:
        write(name)
