"""The pages of a column of a Parquet file, by their headers: what Arrow is about to inflate, before it does.

Arrow inflates a page whole, of any size that the page's header states, and does not compare it with the bytes that it
read. So the headers are read first.

Source: apache/parquet-format, `src/main/thrift/parquet.thrift` (PageHeader), in Thrift's compact protocol.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from pipeline.rejection import Reason, Rejected
from pipeline.sources.streams import FileStream, check_inflation, most_inflated

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_LARGEST_HEADER = 2**16
_MOST_DEPTH = 16
_INFLATION = {"UNCOMPRESSED": 1, "SNAPPY": 22, "LZ4": 256, "LZ4_RAW": 256}
"""The most bytes that a byte may inflate to, of codecs for which that is little."""

_SMALL_PAGE = 2**24
"""A column whose pages cannot inflate to more bytes is not examined."""

_MOST_VALUES = 2**24
"""The most values in a page of lists: Arrow assembles a row whole, and a run of nulls takes no bytes."""

_UNCOMPRESSED_SIZE, _COMPRESSED_SIZE, _DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2 = 2, 3, 5, 7, 8


class Page(NamedTuple):
    """What the header of a page states.

    Attributes:
        inflated: The bytes of its content.
        packed: The bytes of the same in the file.
        values: The number of its values.
    """

    inflated: int
    packed: int
    values: int


def largest_page(stream: FileStream, file: pq.ParquetFile, group: int, column: str, *, max_bytes: int) -> int:
    """Returns the most bytes that a page of a column inflates to, in one row group.

    Args:
        stream: The file; its position is kept.
        file: The same, opened by Arrow.
        group: The row group.
        column: The path of the column.
        max_bytes: The most bytes of a page, inflated.

    Raises:
        Rejected: COMPRESSION_BOMB, TOO_MANY_BYTES: a page is too large; CORRUPT: the headers cannot be read.
        StorageError: The file cannot be read.
    """
    index = next(i for i in range(len(file.schema)) if file.schema.column(i).path == column)
    chunk = file.metadata.row_group(group).column(index)
    is_list = file.schema.column(index).max_repetition_level > 0
    most = min(chunk.total_compressed_size, stream.facts.size_bytes) * _INFLATION.get(chunk.compression, max_bytes)
    if not is_list and most <= _SMALL_PAGE:
        return int(most)
    largest, inflated, position = 0, 0, stream.tell()
    for page in _pages(stream, chunk):
        check_inflation("Parquet: a page", page.packed, page.inflated)
        if page.inflated > max_bytes:
            raise Rejected(
                Reason.TOO_MANY_BYTES,
                f"Parquet: a page of {page.inflated:,} bytes, but {max_bytes:,} are allowed: write smaller pages",
            )
        if is_list and page.values > _MOST_VALUES:
            raise Rejected(Reason.COMPRESSION_BOMB, f"Parquet: a page of {page.values:,} values in lists")
        largest, inflated = max(largest, page.inflated), inflated + page.inflated
        if inflated > most_inflated(chunk.total_compressed_size):
            raise Rejected(
                Reason.COMPRESSION_BOMB,
                f"Parquet: a column of {chunk.total_compressed_size:,} bytes inflates to more than {inflated:,}",
            )
    stream.seek(position)
    return largest


def _pages(stream: FileStream, chunk: pq.ColumnChunkMetaData) -> Iterator[Page]:
    starts = [chunk.data_page_offset]
    if chunk.has_dictionary_page and chunk.dictionary_page_offset:
        starts.append(chunk.dictionary_page_offset)
    position = min(starts)
    end = position + chunk.total_compressed_size
    while position < end:
        stream.seek(position)
        head = stream.read(min(_LARGEST_HEADER, end - position))
        if not head:
            return  # cut off, which Arrow says better
        page, length = read_header(head)
        yield page
        position += length + page.packed


def read_header(head: bytes) -> tuple[Page, int]:
    """Returns a page by its header, and the bytes of the header.

    Raises:
        Rejected: CORRUPT.
    """
    reader = _Compact(head)
    try:
        fields = reader.struct()
    except (IndexError, struct.error, RecursionError) as error:
        raise Rejected(Reason.CORRUPT, "Parquet: a page header cannot be read") from error
    sizes = [fields.get(_UNCOMPRESSED_SIZE), fields.get(_COMPRESSED_SIZE)]
    inner = next((fields[kind] for kind in (_DATA_PAGE, _DICTIONARY_PAGE, _DATA_PAGE_V2) if kind in fields), {})
    values = inner.get(1, 0) if isinstance(inner, dict) else 0
    inflated, packed = (size if isinstance(size, int) else -1 for size in sizes)
    if not isinstance(values, int) or min(inflated, packed, values) < 0:
        raise Rejected(Reason.CORRUPT, "Parquet: a page header without sizes")
    return Page(inflated, packed, values), reader.position


class _Compact:
    """Reads Thrift's compact protocol: integers and structs are returned, all else is skipped."""

    def __init__(self, data: bytes) -> None:
        self._data, self.position, self._depth = data, 0, 0

    def struct(self) -> dict[int, object]:
        """Returns the fields of a struct, by number."""
        self._depth += 1
        if self._depth > _MOST_DEPTH:
            raise IndexError("too deep")
        fields: dict[int, object] = {}
        number = 0
        while header := self._byte():
            kind = header & 0x0F
            number = number + (header >> 4) if header >> 4 else self._zigzag()
            fields[number] = self._value(kind)
        self._depth -= 1
        return fields

    def _value(self, kind: int) -> object:
        if kind in (1, 2):  # a bool is in its type
            return kind == 1
        if kind == 3:
            return self._byte()
        if kind in (4, 5, 6):
            return self._zigzag()
        if kind == 12:
            return self.struct()
        if kind == 7:
            self._skip(8)
        elif kind == 8:
            self._skip(self._varint())
        elif kind in (9, 10):
            self._list()
        else:
            raise IndexError(f"type {kind}")
        return None

    def _list(self) -> None:
        header = self._byte()
        kind, size = header & 0x0F, header >> 4
        for _ in range(self._varint() if size == 15 else size):
            if kind in (1, 2):
                self._skip(1)
            else:
                self._value(kind)

    def _byte(self) -> int:
        byte = self._data[self.position]
        self.position += 1
        return byte

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self.position:
            raise IndexError("beyond the header")
        self.position += size

    def _zigzag(self) -> int:
        number = self._varint()
        return number >> 1 ^ -(number & 1)

    def _varint(self) -> int:
        number = 0
        for shift in range(0, 70, 7):
            byte = self._byte()
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
        raise IndexError("a number without an end")
