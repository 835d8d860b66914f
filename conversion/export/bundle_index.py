"""Reads the index of a TensorFlow checkpoint: where in its data file each tensor lies.

The index is a sorted table of LevelDB's form without compression (tensorflow/core/lib/io/table_format.txt). Its values
are `BundleEntryProto` messages. TensorFlow has no public function that tells the places.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from conversion.errors import ConversionError
from conversion.layers.layout import import_tensorflow

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48
_RESTARTS = 4  # bytes of each restart point of a block, and of their count


class Place(NamedTuple):
    """Where a tensor lies in the data file, in bytes."""

    offset: int
    size: int


def bundle_places(path: Path) -> list[Place]:
    """Returns the places of all tensors of a checkpoint of one data file.

    Raises:
        ConversionError: The index has another form than that which TensorFlow 2.21 writes.
    """
    import_tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf.tensor_bundle_pb2 import BundleEntryProto, BundleHeaderProto

    data = path.read_bytes()
    if len(data) < _FOOTER or not data.endswith(_MAGIC):
        raise _unknown(path)
    try:
        footer = data[-_FOOTER:]
        _, at = _handle(footer, 0)
        index, _ = _handle(footer, at)
        entries = [
            entry
            for _, handle in _entries(_block(data, index))
            for entry in _entries(_block(data, _handle(handle, 0)[0]))
        ]
        header = BundleHeaderProto.FromString(entries[0][1])
        places = [BundleEntryProto.FromString(value) for key, value in entries if key]
    except (IndexError, DecodeError) as error:
        raise _unknown(path) from error
    if header.num_shards != 1 or header.endianness != BundleHeaderProto.LITTLE or entries[0][0]:
        raise _unknown(path)
    return [Place(place.offset, place.size) for place in places]


def _block(data: bytes, place: Place) -> bytes:
    """Returns the entries of a block, without its restart points."""
    end = place.offset + place.size
    if data[end] != 0:  # the type of compression follows the block
        raise IndexError("a compressed block")
    block = data[place.offset : end]
    restarts = int.from_bytes(block[-_RESTARTS:], "little")
    return block[: len(block) - _RESTARTS * (restarts + 1)]


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yields keys and values; a key states only what differs from the one before."""
    at, key = 0, b""
    while at < len(block):
        shared, at = _varint(block, at)
        more, at = _varint(block, at)
        length, at = _varint(block, at)
        key = key[:shared] + block[at : at + more]
        at += more
        yield key, block[at : at + length]
        at += length


def _handle(data: bytes, at: int) -> tuple[Place, int]:
    offset, at = _varint(data, at)
    size, at = _varint(data, at)
    return Place(offset, size), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Returns a number of protobuf's variable length, and where the next one begins."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _unknown(path: Path) -> ConversionError:
    return ConversionError(
        "the checkpoint of the SavedModel has a form that densecast does not know",
        where=str(path),
        why="another version of TensorFlow than 2.21 wrote it",
        remedy="install the version that constraints.txt states",
    )
