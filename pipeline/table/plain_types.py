"""Makes Arrow read the parts of other programs by their Parquet types.

arrow-rs, which delta-rs and Polars write with, keeps its own Arrow types in the footer of a file, under the key
`ARROW:schema`. Arrow then reads texts as `string_view`, and its filters fail on them: "no kernel matching input types
(string, string_view)". Without that key Arrow goes by the Parquet types, which the schema of a Delta table determines.
Arrow has no option for that, so the key gets another name here, of the same length; no other byte differs.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

_NAME = b"ARROW:schema"
_OTHER_NAME = b"arrow_schema"
# As Thrift's compact protocol writes an entry: field 1, a text of 12 bytes; then field 2, a text.
_KEY = b"\x18\x0c" + _NAME + b"\x18"
_TAIL = struct.Struct("<I4s")
_MAGIC = b"PAR1"


class _Footer(NamedTuple):
    """The end of a Parquet file.

    Attributes:
        begin: The position of its first byte in the file.
        data: The footer, its length and the mark of the format.
        key: The position of the key's name in `data`.
    """

    begin: int
    data: bytes
    key: int


def plain_metadata(file: pa.NativeFile) -> pq.FileMetaData | None:
    """Returns the metadata to read a file with; None where the file has no Arrow types, or its footer is damaged."""
    footer = _footer(file)
    if footer is None:
        return None
    data = footer.data
    renamed = data[: footer.key] + _OTHER_NAME + data[footer.key + len(_NAME) :]
    return pq.read_metadata(pa.BufferReader(renamed))


def plain_content(path: Path) -> pa.Buffer:
    """Returns the content of a local file as a buffer without Arrow types; its pages are loaded when they are read."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # a change does not reach the file
    footer = _footer(pa.BufferReader(pa.py_buffer(content)))
    if footer is not None:
        begin = footer.begin + footer.key
        content[begin : begin + len(_NAME)] = _OTHER_NAME
    return pa.py_buffer(content)


def _footer(file: pa.NativeFile) -> _Footer | None:
    """Returns the end of a file whose footer has Arrow types; None where it has none, or cannot be read."""
    size = file.size()
    file.seek(max(size - _TAIL.size, 0))
    tail = file.read(_TAIL.size)
    if len(tail) < _TAIL.size:
        return None
    length, magic = _TAIL.unpack(tail)
    if magic != _MAGIC or length > size - _TAIL.size:
        return None
    begin = size - _TAIL.size - length
    file.seek(begin)
    data = file.read(length + _TAIL.size)
    try:
        entries = pq.read_metadata(pa.BufferReader(data)).metadata
    except (pa.ArrowException, OSError, ValueError):  # the reader of the file meets the damage again, and reports it
        return None
    # The entries stand behind the statistics, which may hold any text: so it is the last occurrence.
    place = data.rfind(_KEY) if _NAME in (entries or {}) else -1
    return None if place < 0 else _Footer(begin, data, place + _KEY.index(_NAME))
