"""The learned blobs of a weights file as views of its bytes, without a message or a copy.

`reading.parse_weights` makes a message, which takes the file's size in memory once more. A network needs only the name
and the blobs of each layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from google.protobuf.message import DecodeError

from conversion.arrays import Array
from conversion.caffe.caffe_pb2 import (
    DOUBLE,
    FLOAT,
    FLOAT16,
    BlobProto,
    BlobShape,
    LayerParameter,
    NetParameter,
    Type,
    V0LayerParameter,
    V1LayerParameter,
)
from conversion.caffe.wire_limits import LENGTH, Walk
from conversion.errors import NetworkError, ReadingError
from conversion.limits import DEFAULT_LIMITS, Limits

_NET = NetParameter.DESCRIPTOR.fields_by_name
_V0_IN_V1 = V1LayerParameter.DESCRIPTOR.fields_by_name["layer"].number
_BLOB = BlobProto.DESCRIPTOR.fields_by_name
_DTYPES: dict[int, np.dtype[np.generic]] = {
    _BLOB["data"].number: np.dtype("<f4"),
    _BLOB["double_data"].number: np.dtype("<f8"),
}
_DIFFS = tuple(_BLOB[field].number for field in ("diff", "double_diff", "raw_diff"))
_RAW_DATA = _BLOB["raw_data"].number
_NOT_PARSED = frozenset({*_DTYPES, *_DIFFS, _RAW_DATA})  # values: a message would copy them
# NVCaffe (caffe.proto of 0.16 and later): the types that weights are stored in.
_RAW: dict[Type, np.dtype[np.generic]] = {DOUBLE: np.dtype("<f8"), FLOAT: np.dtype("<f4"), FLOAT16: np.dtype("<f2")}
STORED = frozenset(
    message.DESCRIPTOR
    for message in (NetParameter, LayerParameter, V1LayerParameter, V0LayerParameter, BlobProto, BlobShape)
)
"""The messages that are read of a weights file; forks put others under the numbers of ours."""
_Span = tuple[int, int]


class StoredBlob(NamedTuple):
    """One blob: its message, and its values.

    Attributes:
        message: Has its shape, and its values if these are not in one piece in the file.
        values: A view of the file's bytes, float16, float32 or float64; None if `message` has them.
    """

    message: BlobProto
    values: Array | None


class StoredWeights(NamedTuple):
    """The layers of a weights file with blobs, in order; two layers may have one name."""

    layers: list[tuple[str, Sequence[StoredBlob]]]

    def items(self) -> list[tuple[str, Sequence[StoredBlob]]]:
        """Returns (layer name, blobs) pairs, as a mapping does."""
        return self.layers


def parse_stored(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> StoredWeights:
    """Returns the layers with blobs of a `.caffemodel`'s content, which `wire_limits.check` has passed.

    Raises:
        ReadingError: It has no layers, or a blob is damaged.
        LimitError: A layer's name is too long.
        NetworkError: Layers of the old form and of the current one are mixed.
    """
    walk = Walk(data, NetParameter.DESCRIPTOR, limits, where)
    current: list[_Layer] = []
    old: list[_Layer] = []
    for number, kind, _, at, end in walk.fields(0, len(data)):
        if kind == LENGTH and number == _NET["layer"].number:
            current.append(_layer(walk, [(at, end)], LayerParameter))
        elif kind == LENGTH and number == _NET["layers"].number:
            inner = [span[3:] for span in walk.fields(at, end) if span[:2] == (_V0_IN_V1, LENGTH)]
            old.append(_layer(walk, inner, V0LayerParameter) if inner else _layer(walk, [(at, end)], V1LayerParameter))
    if current and old:
        raise NetworkError("both `layer` and `layers`", where=where, why="a net has one form or the other (Caffe)")
    if not current and not old:
        raise ReadingError("it has no layers", where=where, remedy="give the .caffemodel that Caffe saved")
    return StoredWeights(
        [(layer.name, [_blob(walk, *span) for span in layer.blobs]) for layer in current + old if layer.blobs]
    )


class _Layer(NamedTuple):
    name: str
    blobs: list[_Span]


def _layer(
    walk: Walk, spans: Sequence[_Span], message: type[LayerParameter | V1LayerParameter | V0LayerParameter]
) -> _Layer:
    """Returns a layer's name and the places of its blobs; protobuf joins a message that is in several pieces."""
    numbers = {field: message.DESCRIPTOR.fields_by_name[field].number for field in ("name", "blobs")}
    name, blobs = b"", []
    for span in spans:
        for number, kind, _, at, end in walk.fields(*span):
            if kind == LENGTH and number == numbers["name"]:
                walk.limits.check("name_length", end - at, f"a layer name of {end - at:,} bytes", where=walk.where)
                name = walk.data[at:end]
            elif kind == LENGTH and number == numbers["blobs"]:
                blobs.append((at, end))
    return _Layer(name.decode("utf-8", "backslashreplace"), blobs)


def _blob(walk: Walk, start: int, stop: int) -> StoredBlob:
    """Returns a blob, its values as a view where they are packed in one piece."""
    parts = list(walk.fields(start, stop))
    values = [part for part in parts if part[0] in _DTYPES]
    raw = [part for part in parts if part[:2] == (_RAW_DATA, LENGTH)]
    rest = b"".join(walk.data[p[2] : p[4]] for p in parts if p[0] not in _NOT_PARSED)
    view = None
    if len(values) == 1 and values[0][1] == LENGTH:
        number, _, _, at, end = values[0]
        dtype = _DTYPES[number]
        if (end - at) % dtype.itemsize:
            raise walk.truncated(at, f"{end - at:,} bytes are not a whole number of values")
        view = np.frombuffer(walk.data, dtype, (end - at) // dtype.itemsize, at)
    else:
        rest += b"".join(walk.data[p[2] : p[4]] for p in values)
    try:
        message = BlobProto.FromString(rest)
    except DecodeError as error:
        raise ReadingError(f"damaged: {error}", where=walk.where, why=walk.why) from error
    if raw:
        *_, at, end = raw[-1]  # the last of a field that is given twice, as protobuf has it
        both = bool(values)
        return StoredBlob(message, raw_values(message, memoryview(walk.data)[at:end], where=walk.where, both=both))
    return StoredBlob(message, view)


def raw_values(
    blob: BlobProto, content: bytes | memoryview | None = None, *, where: str, both: bool | None = None
) -> Array:
    """Returns the values of a blob in `raw_data`, as NVCaffe stores them, without a copy.

    Args:
        blob: The message, with `raw_data_type`.
        content: The bytes; by default the message's own.
        where: File and layer, for errors.
        both: Whether the blob has values in another field too; by default what the message has.

    Raises:
        ReadingError: The type is missing or not a floating one, the bytes are not a whole number of values, or the blob
            has values in another field too.
    """
    if not blob.HasField("raw_data_type"):
        raise ReadingError("a blob of raw_data without raw_data_type", where=where, why="NVCaffe states both")
    if blob.raw_data_type not in _RAW:
        raise ReadingError(
            f"a blob of raw_data of type {Type.Name(blob.raw_data_type)}",
            where=where,
            why="weights are DOUBLE, FLOAT or FLOAT16",
        )
    if blob.data or blob.double_data if both is None else both:
        raise ReadingError("a blob with raw_data and with data", where=where, why="only one of them can be its values")
    dtype = _RAW[blob.raw_data_type]
    content = blob.raw_data if content is None else content
    if len(content) % dtype.itemsize:
        raise ReadingError(
            f"raw_data of {len(content):,} bytes is not a whole number of values",
            where=where,
            remedy="the file is damaged or truncated: fetch it again",
        )
    values: Array = np.frombuffer(content, dtype)
    return values
