"""Images in Parquet files: a column of encoded bytes, as in data sets of the Hugging Face hub."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, NamedTuple, cast

from pipeline.rejection import Reason, Rejected
from pipeline.sources.members import Members
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import LOOKBACK, FileStream

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "img")
"""The columns that may hold images: the first one that is binary, or a struct with binary `bytes`, is used."""

ID_COLUMNS = ("id", "__key__", "path")
"""The columns that may hold ids: the first one that exists is used, or else the `path` of a struct of an image."""

_IDS_AT_ONCE = 4096
_MOST_KEPT = 64
_ROWS_OF_ANY_FILE = 10_000
"""The number of rows that a file may declare, if it has fewer bytes than that; else it may declare one row per byte."""


class _Columns(NamedTuple):
    """The columns of a file.

    Attributes:
        image: The path of the column of image bytes.
        id: The path of the column of ids; empty where there is none.
    """

    image: str
    id: str


def list_parquet(stream: FileStream) -> Iterator[ImageReference]:
    """Yields the rows of a file in order, named by their number from 0. Reads the ids, not the images.

    Raises:
        StorageError: The file cannot be read.
    """
    members = Members(stream.path, "parquet", stream.facts.version)
    try:
        for row, key in enumerate(_keys(stream)):
            yield members.numbered(row, offset=row, size=-1, key=key, fault=None)
    except Rejected as rejected:
        yield members.lost(rejected)


def _keys(stream: FileStream) -> Iterator[str]:
    """Yields the ids of all rows; empty ones where the file has no ids.

    Raises:
        Rejected: The file is damaged, or has no column of images.
    """
    with _damage("in its footer"):
        file = _open(stream)
    columns = _columns(file.schema_arrow)
    declared = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    if declared > max(stream.facts.size_bytes, _ROWS_OF_ANY_FILE):
        raise Rejected(Reason.COMPRESSION_BOMB, f"Parquet: {declared:,} rows in {stream.facts.size_bytes:,} bytes")
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        with _damage(f"in the ids of row group {group}"):
            batches = _ids(file, group, columns.id) if columns.id else _no_ids(rows)
        count = 0
        while True:
            with _damage(f"in the ids of row group {group}"):
                keys = next(batches, None)
            if keys is None:
                break
            count += len(keys)
            yield from keys
        if count != rows:
            raise Rejected(Reason.CORRUPT, f"Parquet: row group {group} has {count:,} ids for {rows:,} rows")


class OpenParquet:
    """Reads the rows of a Parquet file, one at a time. Reading is cheap in the order of the file only.

    It decodes at most one page at a time, whatever the size of a row group. It keeps the last rows, up to
    `streams.LOOKBACK` bytes, so that threads may read slightly out of order.
    """

    def __init__(self, stream: FileStream) -> None:
        with _damage("in its footer"):
            self._file = _open(stream)
        self._column = _columns(self._file.schema_arrow).image
        self._rows: Iterator[pa.RecordBatch] = iter(())
        self._next = 0
        self._group_end = 0
        self._kept: collections.OrderedDict[int, bytes | None] = collections.OrderedDict()

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """Returns the bytes of a row.

        Raises:
            Rejected: EMPTY: the row has no bytes; TOO_MANY_BYTES; CORRUPT; UNREADABLE: the row no longer exists.
            StorageError: The file cannot be read.
        """
        if reference.offset not in self._kept:
            self._go_to(reference.offset)
        data = self._kept[reference.offset]
        if data is None:
            raise Rejected(Reason.EMPTY, "the row has no bytes")
        if len(data) > max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"{len(data):,} bytes")
        return data

    def close(self) -> None:
        """Drops the rows that are kept."""
        self._kept.clear()
        self._rows = iter(())
        self._next = self._group_end = 0

    def _go_to(self, row: int) -> None:
        if not self._next <= row < self._group_end:
            self._open_group_of(row)
        while self._next <= row:
            with _damage(f"at row {self._next:,}"):
                values = next(self._rows).column(0)
                # The column is the struct that holds the bytes, or the bytes themselves.
                value = values[0].as_py()
            self._keep(value.get("bytes") if isinstance(value, dict) else value)

    def _keep(self, data: bytes | None) -> None:
        self._kept[self._next] = data
        self._next += 1
        total = sum(len(kept or b"") for kept in self._kept.values())
        while len(self._kept) > 1 and (total > LOOKBACK or len(self._kept) > _MOST_KEPT):
            _, dropped = self._kept.popitem(last=False)
            total -= len(dropped or b"")

    def _open_group_of(self, row: int) -> None:
        metadata = self._file.metadata
        first = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if first <= row < first + rows:
                with _damage(f"in row group {group}"):
                    self._rows = self._file.iter_batches(
                        1, row_groups=[group], columns=[self._column], use_threads=False
                    )
                self._kept.clear()
                self._next, self._group_end = first, first + rows
                return
            first += rows
        raise Rejected(Reason.UNREADABLE, f"the file has {first:,} rows now")


def _open(stream: FileStream) -> pq.ParquetFile:
    import pyarrow.parquet as pq

    stream.seek(0)
    # With these settings pages are read one by one, not whole column chunks.
    return pq.ParquetFile(cast("IO[bytes]", stream), buffer_size=2**20, pre_buffer=False)


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        raise Rejected(Reason.CORRUPT, f"Parquet, {where}: {error or type(error).__name__}") from error


def _columns(schema: pa.Schema) -> _Columns:
    """Returns the columns of images and ids.

    Raises:
        Rejected: The schema has no column of images.
    """
    import pyarrow as pa

    def is_bytes(kind: pa.DataType) -> bool:
        return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))

    def is_text(kind: pa.DataType) -> bool:
        return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind))

    kinds = {name: schema.field(name).type for name in dict.fromkeys(schema.names) if schema.names.count(name) == 1}
    image = ""
    inner = ""
    for name in (name for name in IMAGE_COLUMNS if name in kinds):
        kind = kinds[name]
        if is_bytes(kind):
            image = name
            break
        fields = {field.name: field.type for field in kind} if pa.types.is_struct(kind) else {}
        if "bytes" in fields and is_bytes(fields["bytes"]):
            image = f"{name}.bytes"
            inner = f"{name}.path" if "path" in fields and is_text(fields["path"]) else ""
            break
    if not image:
        raise Rejected(Reason.UNKNOWN_FORMAT, f"Parquet: no column of images among {', '.join(schema.names) or 'none'}")
    return _Columns(image, next((name for name in ID_COLUMNS if name in kinds and is_text(kinds[name])), inner))


def _ids(file: pq.ParquetFile, group: int, column: str) -> Iterator[list[str]]:
    """Yields the ids of the rows of a row group in batches."""
    field = column.rpartition(".")[2]
    for batch in file.iter_batches(_IDS_AT_ONCE, row_groups=[group], columns=[column], use_threads=False):
        values = (item.get(field) if isinstance(item, dict) else item for item in batch.column(0).to_pylist())
        yield ["" if value is None else str(value) for value in values]


def _no_ids(rows: int) -> Iterator[list[str]]:
    for first in range(0, rows, _IDS_AT_ONCE):
        yield [""] * min(_IDS_AT_ONCE, rows - first)
