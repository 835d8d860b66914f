"""Caffe's files -> messages and arrays. Nothing here interprets a layer, and no path inside a file is ever opened."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf import text_format, unknown_fields
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError, Message

from conversion.caffe_pb2 import BlobProto, NetParameter
from conversion.errors import ReadingError, UnsupportedError
from conversion.layers.base import Array, Shape

PathLike = str | os.PathLike[str]


def read_definition(path: PathLike) -> NetParameter:
    """Reads a network definition in protobuf text form (a `.prototxt`).

    Raises:
        ReadingError: The file cannot be read, or is not a NetParameter in text form.
        UnsupportedError: It has fields that densecast does not know; all of them are listed, with their lines.
    """
    try:
        text = _read_bytes(path).decode("utf-8-sig")  # Caffe's parser skips a byte order mark too
    except UnicodeDecodeError as error:
        raise ReadingError(
            f"not text: {error}", where=str(path), remedy="give the .prototxt first and the .caffemodel second"
        ) from error
    message = NetParameter()
    try:
        text_format.Parse(text, message, allow_unknown_field=True)
        unknown = list(_unknown_text_fields(text))
    except text_format.ParseError as error:
        raise ReadingError(
            f"not a Caffe network definition: {error}", where=str(path), why="it must be a NetParameter in text form"
        ) from error
    except RecursionError as error:
        raise ReadingError("not a Caffe network definition: nested too deeply", where=str(path)) from error
    if unknown:
        raise UnsupportedError(
            "unknown fields: " + "; ".join(unknown),
            where=str(path),
            why="a field that is ignored could change what the net computes",
            remedy="remove those that only training uses; a layer from a fork of Caffe cannot be converted",
        )
    if not message.layer and not message.layers:
        raise ReadingError("no layers in it", where=str(path), why="it must be a NetParameter in text form")
    return message


def read_weights(path: PathLike) -> NetParameter:
    """Reads trained weights in binary form (a `.caffemodel`).

    Raises:
        ReadingError: The file cannot be read, or is not a NetParameter in binary form.
    """
    data = _read_bytes(path)
    message = NetParameter()
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ReadingError(
            f"not a Caffe model: {error}", where=str(path), why="it must be a NetParameter in binary form, complete"
        ) from error
    if not message.layer and not message.layers:
        raise ReadingError("no layers in it", where=str(path), remedy="give the .caffemodel that Caffe saved")
    return message


def read_blob(path: PathLike) -> Array:
    """Reads one blob in binary form (a mean `.binaryproto`) as float32; raises ReadingError."""
    message = BlobProto()
    try:
        message.ParseFromString(_read_bytes(path))
    except DecodeError as error:
        raise ReadingError(f"not a Caffe blob: {error}", where=str(path)) from error
    return blob_array(message, where=str(path))


def blob_shape(blob: BlobProto) -> Shape:
    """The shape a blob states: `shape`, or the four legacy dimensions; () where it states none."""
    if blob.HasField("shape"):
        return tuple(blob.shape.dim)
    if any(blob.HasField(field) for field in ("num", "channels", "height", "width")):
        return (blob.num, blob.channels, blob.height, blob.width)
    return ()


def blob_array(blob: BlobProto, *, where: str) -> Array:
    """A blob's values as a float32 array of the shape it states.

    Args:
        blob: `data` (packed or not) or `double_data`.
        where: File and layer, for errors.

    Raises:
        ReadingError: The number of values disagrees with the shape, or a dimension is below 1.
    """
    shape = blob_shape(blob)
    if min(shape, default=1) < 1:
        raise ReadingError(f"a blob of shape {shape}", where=where, why="every dimension must be at least 1")
    values = (
        _values(blob, "double_data", np.dtype("<f8")) if blob.double_data else _values(blob, "data", np.dtype("<f4"))
    )
    count = 1
    for dim in shape:
        count *= dim
    if values.size != count:
        raise ReadingError(
            f"a blob of shape {shape} needs {count} values, the file holds {values.size}",
            where=where,
            remedy="the file is damaged or truncated: fetch it again",
        )
    return values.astype(np.float32, copy=False).reshape(shape)


def blob_message(array: Array) -> BlobProto:
    """The reverse of `blob_array`: a BlobProto with `shape` and packed `data`."""
    # Filled through the wire form: a repeated field takes Python floats one by one, a hundred times slower.
    values = np.ascontiguousarray(array, dtype="<f4")
    field = BlobProto.DESCRIPTOR.fields_by_name["data"].number
    blob = BlobProto.FromString(bytes([field << 3 | 2]) + _varint(values.nbytes) + values.tobytes())
    blob.shape.dim.extend(array.shape)
    return blob


def _values(blob: BlobProto, field: str, dtype: np.dtype[Any]) -> Array:
    """A repeated field as an array without boxing each value: serialised alone, it is a header and the raw values."""
    alone = BlobProto()
    getattr(alone, field).MergeFrom(getattr(blob, field))
    data = alone.SerializeToString()
    header = len(data) - len(getattr(blob, field)) * dtype.itemsize
    return np.frombuffer(data, dtype, offset=header)


def _varint(value: int) -> bytes:
    """Protobuf's base-128 form of a length."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def unknown_binary_fields(message: Message) -> Iterator[int]:
    """Numbers of the fields of a parsed message, at its own level, that our schema lacks."""
    yield from (field.field_number for field in unknown_fields.UnknownFieldSet(message))


def _read_bytes(path: PathLike) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ReadingError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _unknown_text_fields(text: str) -> Iterator[str]:
    """Walks a definition in text form and names every field that our schema lacks, with its line."""
    # As text_format.Parse splits: splitlines() also breaks at form feeds and the like, in the middle of a comment.
    tokenizer = text_format.Tokenizer(text.split("\n"))
    yield from _unknown_in(tokenizer, NetParameter.DESCRIPTOR, "")


def _unknown_in(tokenizer: Any, descriptor: Descriptor | None, closing: str) -> Iterator[str]:
    while not tokenizer.AtEnd() and not (closing and tokenizer.TryConsume(closing)):
        line = tokenizer.ParseError("").GetLine()
        name = tokenizer.ConsumeIdentifier()
        field: FieldDescriptor | None = descriptor.fields_by_name.get(name) if descriptor else None
        if descriptor and field is None:
            yield f"{name} (in {descriptor.name}, line {line})"
        tokenizer.TryConsume(":")
        yield from _skip_value(tokenizer, field.message_type if field else None)
        if not tokenizer.TryConsume(","):
            tokenizer.TryConsume(";")


def _skip_value(tokenizer: Any, descriptor: Descriptor | None) -> Iterator[str]:
    for opening, closing in (("{", "}"), ("<", ">")):
        if tokenizer.TryConsume(opening):
            yield from _unknown_in(tokenizer, descriptor, closing)
            return
    if tokenizer.TryConsume("["):
        while not tokenizer.TryConsume("]"):
            yield from _skip_value(tokenizer, descriptor)
            tokenizer.TryConsume(",")
        return
    if tokenizer.TryConsume("-"):  # a negative number is two tokens
        tokenizer.NextToken()
        return
    quoted = tokenizer.token[:1] in ("'", '"')
    tokenizer.NextToken()
    while quoted and tokenizer.token[:1] in ("'", '"'):  # adjacent strings are one value
        tokenizer.NextToken()
