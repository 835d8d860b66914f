"""The seeds of the targets, made from the golden cases: `python -m tests.fuzz.seeds` writes them to build/fuzz."""

from __future__ import annotations

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
    yield from {"definition": _definitions, "weights": _weights, "blob": _blobs, "upgrade": _old, "npy": _npy}[target]()


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
