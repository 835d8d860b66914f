"""Caffe's files -> messages and arrays. This module interprets no layer and opens no path that a file names."""

from __future__ import annotations

import math
import os
import re
import stat
from pathlib import Path
from typing import TypeVar

import numpy as np
from google.protobuf import text_format
from google.protobuf.message import DecodeError, Message

from conversion.arrays import Array, Shape
from conversion.caffe import wire_limits
from conversion.caffe.caffe_pb2 import BlobProto, NetParameter
from conversion.caffe.own_text import with_own_fields
from conversion.caffe.sniffing import HEAD, SWAPPED, is_definition, is_text, sniff, sniff_solver
from conversion.caffe.text_limits import scan
from conversion.caffe.weights_view import STORED, StoredBlob, StoredWeights, parse_stored, raw_values
from conversion.errors import ReadingError, UnsupportedError
from conversion.limits import DEFAULT_LIMITS, Limits

PathLike = str | os.PathLike[str]
AnyMessage = TypeVar("AnyMessage", bound=Message)

# The header that numpy.save writes, with Python 2's long integers too. It is a Python literal, and never evaluated.
_NPY_HEADER = re.compile(
    r"\{'descr': '([<>|=]?[a-zA-Z]\d*)', 'fortran_order': (True|False), 'shape': \("
    r"(|N,|N(?:, ?N)++,?)\), ?\} *\n?".replace("N", "(?:0|[1-9][0-9]{0,17})L?")
)
_NPY_START = {b"\x93NUMPY" + bytes((version, 0)): 10 if version == 1 else 12 for version in (1, 2, 3)}
_ESCAPED = re.compile("[\udc80-\udcff]")  # bytes that are not UTF-8, as `surrogateescape` writes them
_EXCERPT = 160  # characters of a line or of a reason that an error quotes
_NPY_NUMBERS = re.compile(r"[<>|=]?(f[248]|[iu][1248])")


def read_definition(path: PathLike, *, limits: Limits = DEFAULT_LIMITS) -> NetParameter:
    """Reads a network definition in protobuf text form (a `.prototxt`).

    Raises:
        ReadingError: The file cannot be read, or is not a NetParameter in text form.
        UnsupportedError: It has fields that densecast does not know; they are listed, with their lines.
        LimitError: It is too large, has too many tokens or layers, or is nested too deeply.
    """
    return parse_definition(read_bytes(path, "definition_bytes", limits), where=str(path), limits=limits)


def parse_definition(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> NetParameter:
    """Returns the definition in a file's content; raises as `read_definition` does."""
    refuse_other_formats(data, where)
    text = _decoded(data, where)
    unknown, error_at = scan(text, limits, where=where)
    if unknown and not error_at:
        text = with_own_fields(text, unknown, limits, where=where)
        unknown, error_at = scan(text, limits, where=where)
    message = NetParameter()
    if unknown and not error_at:
        look = sniff_solver(unknown, text, where)
        if look:
            raise ReadingError(f"not a network definition: {look.what}", where=where, remedy=look.remedy)
        raise _unknown_fields(unknown, where)
    if unknown:
        raise _no_definition(error_at, where)
    try:
        text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise _no_definition(_explained(error, text), where) from error
    if not message.layer and not message.layers:
        raise ReadingError("it has no layers", where=where, why="it must be a NetParameter in text form")
    return message


def _decoded(data: bytes, where: str) -> str:
    r"""Returns a definition's text; bytes that are not UTF-8 as `\\xb7`, which in a string stands for `\xb7`.

    Caffe reads bytes: a comment may have any, and a name matches that of the weights byte by byte. `weights_view` gives
    such names the same form.

    Raises:
        ReadingError: It is binary.
    """
    text = data.decode("utf-8-sig", "surrogateescape")  # Caffe's parser skips a byte order mark too
    if not _ESCAPED.search(text):
        return text
    if not is_text(data):
        raise ReadingError("not text: it has binary values", where=where, remedy=SWAPPED)
    return _ESCAPED.sub(lambda match: f"\\\\x{ord(match[0]) - 0xDC00:02x}", text)


def parse_weights(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> NetParameter:
    """Parses trained weights in binary form (the content of a `.caffemodel`) into a message.

    Raises:
        ReadingError: It is not a NetParameter in binary form, or has no layers.
        LimitError: It has too many layers or fields.
    """
    message = _parse(data, NetParameter(), where, limits)
    if not message.layer and not message.layers:
        raise ReadingError("it has no layers", where=where, remedy="give the .caffemodel that Caffe saved")
    return message


def stored_weights(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> StoredWeights:
    """Returns the blobs of a `.caffemodel`'s content as views of it; raises as `parse_weights` does."""
    _refuse_definition(data, where)
    refuse_other_formats(data, where)
    wire_limits.check(data, NetParameter.DESCRIPTOR, limits, where=where, only=STORED)
    return parse_stored(data, where=where, limits=limits)


def read_blob(path: PathLike, *, limits: Limits = DEFAULT_LIMITS) -> Array:
    """Reads one blob in binary form (a mean `.binaryproto`) as float32; raises ReadingError or LimitError."""
    return parse_blob(read_bytes(path, "mean_bytes", limits), where=str(path), limits=limits)


def parse_blob(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> Array:
    """Returns the blob in a file's content; raises as `read_blob` does."""
    return blob_array(_parse(data, BlobProto(), where, limits), where=where, limits=limits)


def read_npy(path: PathLike, *, limits: Limits = DEFAULT_LIMITS) -> Array:
    """Reads a NumPy array of numbers (`.npy`); the header must fit the size of the file.

    Raises:
        ReadingError: The file cannot be read, is not such an array, or is truncated.
        LimitError: It is too large or has too many axes.
    """
    return parse_npy(read_bytes(path, "mean_bytes", limits), where=str(path), limits=limits)


def parse_npy(data: bytes, *, where: str, limits: Limits = DEFAULT_LIMITS) -> Array:
    """Returns the array in a file's content; raises as `read_npy` does."""
    start = _NPY_START.get(data[:8], 0)
    body = start + int.from_bytes(data[8:start], "little")
    if not 0 < start <= len(data):
        look = sniff(data)
        raise ReadingError(
            f"not a NumPy array{f': it looks like {look.what}' if look else ''}",
            where=where,
            remedy=look.remedy if look else "give a .npy that numpy.save wrote",
        )
    header = _NPY_HEADER.fullmatch(data[start : min(body, start + 4096)].decode("latin-1"))
    if header is None:
        raise ReadingError("not a NumPy array: its header is not one that numpy.save writes", where=where)
    if not _NPY_NUMBERS.fullmatch(header[1]):
        raise ReadingError(
            f"not a NumPy array of numbers: an array of {header[1]}", where=where, why="a mean is made of real numbers"
        )
    shape = tuple(int(dim) for dim in re.findall("[0-9]+", header[3]))
    limits.check("axes", len(shape), f"an array of {len(shape)} axes", where=where)
    dtype = np.dtype(header[1])
    needed, available = math.prod(shape) * dtype.itemsize, len(data) - body
    if needed != available or 0 in shape:
        raise ReadingError(
            f"not a complete NumPy array: shape {shape} needs {needed:,} bytes, the file has {available:,}",
            where=where,
            remedy="the file is damaged or truncated: fetch it again",
        )
    return np.frombuffer(data, dtype, offset=body).reshape(shape, order="F" if header[2] == "True" else "C")


def blob_shape(blob: BlobProto) -> Shape:
    """Returns the shape a blob states: `shape`, or the four legacy dimensions; () where it states none."""
    if blob.HasField("shape"):
        return tuple(blob.shape.dim)
    if any(blob.HasField(field) for field in ("num", "channels", "height", "width")):
        return (blob.num, blob.channels, blob.height, blob.width)
    return ()


def blob_array(blob: BlobProto | StoredBlob, *, where: str, limits: Limits = DEFAULT_LIMITS) -> Array:
    """Returns a blob's values as a float32 array of the shape it states.

    Args:
        blob: A message with `data` (packed or not), `double_data` or NVCaffe's `raw_data`; or a message with the shape
            only, and the values.
        where: File and layer, for errors.
        limits: Its `axes` and `elements` are checked.

    Raises:
        ReadingError: The number of values disagrees with the shape, or a dimension is below 1.
        LimitError: It has too many axes or values.
    """
    if isinstance(blob, StoredBlob):
        blob, stored = blob
    else:
        stored = None
    limits.check("axes", len(blob.shape.dim), f"a blob of {len(blob.shape.dim)} axes", where=where)
    shape = blob_shape(blob)
    if min(shape, default=1) < 1:
        raise ReadingError(f"a blob of shape {shape}", where=where, why="every dimension must be at least 1")
    if stored is None and blob.HasField("raw_data"):
        stored = raw_values(blob, where=where)
    field, width = ("double_data", 8) if blob.double_data else ("data", 4)
    count, available = math.prod(shape), len(getattr(blob, field)) if stored is None else stored.size
    if available != count:
        raise ReadingError(
            f"a blob of shape {shape} needs {count} values, the file has {available}",
            where=where,
            remedy="the file is damaged or truncated: fetch it again",
        )
    limits.check("elements", count, f"a blob of {count:,} values", where=where)
    values = _values(blob, field, np.dtype(f"<f{width}")) if stored is None else stored
    with np.errstate(over="ignore"):  # a double beyond float32 becomes infinite; callers refuse that
        return values.astype(np.float32, copy=False).reshape(shape)


def blob_message(array: Array) -> BlobProto:
    """Returns a BlobProto with `shape` and packed `data` for an array: the reverse of `blob_array`."""
    # Filled through the wire form: a repeated field takes Python floats one by one, a hundred times more slowly.
    values = np.ascontiguousarray(array, dtype="<f4")
    field = BlobProto.DESCRIPTOR.fields_by_name["data"].number
    blob = BlobProto.FromString(bytes([field << 3 | 2]) + _varint(values.nbytes) + values.tobytes())
    blob.shape.dim.extend(array.shape)
    return blob


def _values(blob: BlobProto, field: str, dtype: np.dtype[np.generic]) -> Array:
    """Returns a repeated field as an array, without a Python object per value.

    Serialised alone, the field is a header and the raw values.
    """
    alone = BlobProto()
    getattr(alone, field).MergeFrom(getattr(blob, field))
    data = alone.SerializeToString()
    header = len(data) - len(getattr(blob, field)) * dtype.itemsize
    return np.frombuffer(data, dtype, offset=header)


def _varint(value: int) -> bytes:
    """Returns Protobuf's base-128 form of a length."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_bytes(path: PathLike, limit: str, limits: Limits) -> bytes:
    """Reads a regular file that is no larger than the limit of that name; raises ReadingError or LimitError."""
    where = str(path)
    try:
        status = Path(path).stat()
        if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
            raise ReadingError(
                "not a regular file", where=where, why="a pipe or a device may never end", remedy="save it as a file"
            )
        with open(path, "rb") as file:
            limits.check(limit, status.st_size, f"{status.st_size:,} bytes", where=where)
            data = file.read() if status.st_size else file.read(1 << 20)  # files of the kernel state no size
    except OSError as error:
        raise ReadingError(f"cannot be read: {error.strerror}", where=where) from error
    except ValueError as error:  # a NUL in the path
        raise ReadingError(f"cannot be read: {error}", where=repr(where)) from error
    limits.check(limit, len(data), f"{len(data):,} bytes", where=where)
    return data


def _parse(data: bytes, message: AnyMessage, where: str, limits: Limits) -> AnyMessage:
    """Parses a file in binary form after its size has been checked."""
    refuse_other_formats(data, where)
    wire_limits.check(data, message.DESCRIPTOR, limits, where=where)
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise ReadingError(
            f"damaged: {error}", where=where, why=f"it must be a complete {message.DESCRIPTOR.name} in binary form"
        ) from error
    return message


def check_weights_file(path: PathLike) -> None:
    """Checks by its first bytes that a file may be weights; HDF5 is one of their formats.

    Raises:
        ReadingError: It cannot be read, or is of another kind.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(HEAD) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError as error:
        raise ReadingError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the path") from error
    if not head.startswith(b"\x89HDF"):
        _refuse_definition(head, str(path))
        refuse_other_formats(head, str(path))


def _refuse_definition(data: bytes, where: str) -> None:
    if is_definition(data):
        raise ReadingError("not weights: it is text, as a definition is", where=where, remedy=SWAPPED)


def refuse_other_formats(data: bytes, where: str) -> None:
    """Raises ReadingError if the data is a web page, a git-lfs pointer, an archive, ...; the message names it."""
    look = sniff(data)
    if look:
        raise ReadingError(f"not a Caffe file: it looks like {look.what}", where=where, remedy=look.remedy)


def _no_definition(what: str, where: str) -> ReadingError:
    return ReadingError(
        f"not a Caffe network definition: {what}", where=where, why="it must be a NetParameter in text form"
    )


def _unknown_fields(unknown: list[str], where: str) -> UnsupportedError:
    return UnsupportedError(
        "unknown fields: " + "; ".join(unknown),
        where=where,
        why="ignoring a field could change what the net computes",
        remedy="correct misspelt ones, and remove those that only training uses; what a fork of Caffe added to its "
        "layers must stay, since without it the net would be another one",
    )


def _explained(error: text_format.ParseError, text: str) -> str:
    """Returns the parser's message with an excerpt of its line: a line can be a megabyte."""
    line, column = error.GetLine(), error.GetColumn()
    if line is None or column is None:
        return str(error)[:_EXCERPT]
    whole = text.split("\n")[line - 1] if line > 0 else ""
    # It starts with "line:column : 'the whole line': "; the line is left out if the previous token is wrong.
    reason = str(error).removeprefix(f"{line}:{column} : ").removeprefix(f"'{whole}': ")
    around = whole[max(column - 1 - _EXCERPT // 4, 0) :][: _EXCERPT // 2]
    return f"{line}:{column}: {reason[:_EXCERPT]} in {around.strip()!r}"
