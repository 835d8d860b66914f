"""Images in Parquet files: a column of encoded bytes, as in data sets of the Hugging Face hub."""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from pipeline.byte_budget import PROCESS, Lease
from pipeline.rejection import Reason, Rejected
from pipeline.sources.members import Members
from pipeline.sources.parquet_pages import largest_page
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import LOOKBACK, FileStream

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

IMAGE_COLUMNS = ("image", "image_bytes", "bytes", "jpg", "jpeg", "png", "webp", "img", "images", "content")
"""The columns that may hold images: the first one of bytes, of structs with `bytes`, or of lists of either is used.

Upper and lower case do not matter. `content` is the name in Spark's data source of binary files.
"""

ID_COLUMNS = ("id", "__key__", "path")
"""The columns that may hold ids: the first one that can be read as text is used, or else the `path` beside `bytes`."""

_IDS_AT_ONCE = 4096
_LARGEST_PAGE_OF_IDS = 2**26
_BYTES_AT_ONCE = 2**27
"""The most bytes of ids that Arrow expands at a time: a dictionary may hold one long id for many rows."""

_LONG_PAGE = 2**21
"""Usual pages and dictionaries have 1 MiB. In a larger one an id may be long, and is not copied to each row."""

_SMALL_BATCH = 2**24
_SMALL_PAGE = 2**24
"""A page of more bytes is taken from the budget of this process for as long as it is open."""
_MOST_KEPT = 64
_ROWS_OF_ANY_FILE = 10_000
"""The number of rows that a file may declare, if it has fewer bytes than that; else it may declare one row per byte."""


class _Columns(NamedTuple):
    """The columns of a file.

    Attributes:
        image: The path of the column of image bytes, as `image`, `image.bytes` or `image.list.element.bytes`.
        id: The path of the column of ids; empty where there is none.
        unread: The column of ids that cannot be read as text, with its type; empty where there is none.
    """

    image: str
    id: str
    unread: str


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
    columns = _columns(file)
    if columns.unread and not columns.id:
        logging.getLogger(__name__).warning("%s: ids are not read, for its column %s", stream.path, columns.unread)
    if columns.id and "." in columns.id:
        # Of rows with lists, as in `OpenParquet`.
        with _damage("in its footer"):
            file = _open(stream, columns.id, file.metadata)
    declared = sum(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))
    if declared > max(stream.facts.size_bytes, _ROWS_OF_ANY_FILE):
        raise Rejected(Reason.COMPRESSION_BOMB, f"Parquet: {declared:,} rows in {stream.facts.size_bytes:,} bytes")
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        with _damage(f"in the ids of row group {group}"):
            batches = _ids(stream, file, group, columns.id) if columns.id else _no_ids(rows)
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
            self._column = _columns(self._file).image
            # A row with a list is assembled whole: not expanded, equal images in it take no bytes.
            self._file = _open(stream, self._column, self._file.metadata)
        self._stream, self._page_bytes = stream, 0
        self._lease: Lease | None = None
        self._rows: Iterator[pa.RecordBatch] = iter(())
        self._next = 0
        self._group_end = 0
        self._kept: collections.OrderedDict[int, bytes | Rejected] = collections.OrderedDict()

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """Returns the bytes of a row.

        Raises:
            Rejected: EMPTY: the row has no bytes; UNKNOWN_FORMAT: it has several images; TOO_MANY_BYTES; CORRUPT;
                UNREADABLE: the row no longer exists.
            StorageError: The file cannot be read.
        """
        if reference.offset not in self._kept:
            self._go_to(reference.offset, max_bytes)
        data = self._kept[reference.offset]
        if isinstance(data, Rejected):
            raise Rejected(data.reason, data.detail)
        if len(data) > max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"{len(data):,} bytes")
        return data

    @property
    def held_bytes(self) -> int:
        """The memory that the open page takes, packed and inflated."""
        return 2 * self._page_bytes

    def close(self) -> None:
        """Drops the rows that are kept."""
        self._kept.clear()
        self._rows = iter(())
        self._next = self._group_end = self._page_bytes = 0
        if self._lease is not None:
            self._lease.release()

    def _go_to(self, row: int, max_bytes: int) -> None:
        if not self._next <= row < self._group_end:
            self._open_group_of(row, max_bytes)
        while self._next <= row:
            with _damage(f"at row {self._next:,}"):
                image = _image(next(self._rows).column(0)[0])
            self._keep(image)

    def _keep(self, data: bytes | Rejected) -> None:
        self._kept[self._next] = data
        self._next += 1
        total = sum(map(_size, self._kept.values()))
        while len(self._kept) > 1 and (total > LOOKBACK or len(self._kept) > _MOST_KEPT):
            _, dropped = self._kept.popitem(last=False)
            total -= _size(dropped)

    def _open_group_of(self, row: int, max_bytes: int) -> None:
        metadata = self._file.metadata
        first = 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if first <= row < first + rows:
                self.close()
                self._page_bytes = largest_page(self._stream, self._file, group, self._column, max_bytes=max_bytes)
                if self._page_bytes > _SMALL_PAGE:
                    self._lease = PROCESS.take(self.held_bytes)
                    self._lease.rest(self.held_bytes)
                with _damage(f"in row group {group}"):
                    self._rows = self._file.iter_batches(
                        1, row_groups=[group], columns=[self._column], use_threads=False
                    )
                self._next, self._group_end = first, first + rows
                return
            first += rows
        raise Rejected(Reason.UNREADABLE, f"the file has {first:,} rows now")


def _open(stream: FileStream, dictionary: str = "", metadata: pq.FileMetaData | None = None) -> pq.ParquetFile:
    """Opens a file.

    Args:
        stream: The file.
        dictionary: A column whose values stay in their dictionary; empty for none.
        metadata: The metadata of the file, if they are known.
    """
    import pyarrow.parquet as pq

    stream.seek(0)
    # With these settings pages are read one by one, not whole column chunks.
    return pq.ParquetFile(
        cast("IO[bytes]", stream),
        metadata=metadata,
        read_dictionary=[dictionary] if dictionary else None,
        buffer_size=2**20,
        pre_buffer=False,
    )


@contextlib.contextmanager
def _damage(where: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, ValueError, StopIteration) as error:
        raise Rejected(Reason.CORRUPT, f"Parquet, {where}: {error or type(error).__name__}") from error


def _columns(file: pq.ParquetFile) -> _Columns:
    """Returns the columns of images and ids.

    Raises:
        Rejected: The file has no column of images; the detail names its columns, and the type of one with such a name.
    """
    import pyarrow as pa

    schema = file.schema_arrow
    kinds = {name: schema.field(name).type for name in dict.fromkeys(schema.names) if schema.names.count(name) == 1}
    leaves = [file.schema.column(index).path for index in range(len(file.schema))]
    image, beside = "", ""
    for name in _named(IMAGE_COLUMNS, kinds):
        inner = _inner(kinds[name])
        fields = {field.name: _plain(field.type) for field in inner} if isinstance(inner, pa.StructType) else {}
        if _is_bytes(inner):
            image = _leaf(leaves, name, "")
        elif "bytes" in fields and _is_bytes(fields["bytes"]):
            image = _leaf(leaves, name, "bytes")
            beside = _leaf(leaves, name, "path") if "path" in fields and _is_text(fields["path"]) else ""
        if image:
            break
    if not image:
        typed = [f"{name} ({kinds[name]})" for name in _named(IMAGE_COLUMNS, kinds)]
        columns = f"no column of images among {', '.join(schema.names) or 'none'}"
        detail = f"{columns}: {', '.join(typed)} {'has' if len(typed) == 1 else 'have'} no bytes" if typed else columns
        raise Rejected(Reason.UNKNOWN_FORMAT, f"Parquet: {detail}")
    ids = _named(ID_COLUMNS, kinds)
    readable = [name for name in ids if _is_text(_plain(kinds[name]))]
    unread = next((f"{name} ({kinds[name]})" for name in ids if name not in readable), "")
    return _Columns(image, readable[0] if readable else beside, unread)


def _named(names: Sequence[str], kinds: Mapping[str, pa.DataType]) -> list[str]:
    """Returns the columns of a file that have one of some names, in the order of these names."""
    return [column for name in names for column in kinds if column.lower() == name]


def _leaf(leaves: Sequence[str], column: str, field: str) -> str:
    """Returns the path of the values of a column, or of a field in it, whatever its lists are called; or nothing."""
    ending = f".{field}" if field else ""
    found = [path for path in leaves if path == column + ending or path.startswith(f"{column}.")]
    return next((path for path in found if path.endswith(ending)), "")


def _plain(kind: pa.DataType) -> pa.DataType:
    """Returns the type of the values of a dictionary, or of those that an extension stores; of others the type."""
    import pyarrow as pa

    while isinstance(kind, pa.DictionaryType | pa.BaseExtensionType):
        kind = kind.value_type if isinstance(kind, pa.DictionaryType) else kind.storage_type
    return kind


def _inner(kind: pa.DataType) -> pa.DataType:
    """Returns the type of the values of a list; of others the plain type."""
    import pyarrow as pa

    kind = _plain(kind)
    lists = (pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType)
    return _plain(kind.value_type) if isinstance(kind, lists) else kind


def _is_bytes(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_text(kind: pa.DataType) -> bool:
    """Returns whether Arrow can cast values of a type to text; uuids are fixed numbers of bytes."""
    import pyarrow as pa

    if pa.types.is_fixed_size_binary(kind):
        return True
    try:
        pa.array([], kind).cast(pa.string())
    except pa.ArrowNotImplementedError:
        return False
    return True


def _image(value: Any) -> bytes | Rejected:
    """Returns the bytes in a scalar of the column of images: bytes, or a struct or a list that holds some."""
    import pyarrow as pa

    if isinstance(value, pa.ExtensionScalar | pa.DictionaryScalar):
        return _image(value.value)
    if value.is_valid and isinstance(value, pa.StructScalar):
        return _image(next(iter(value.values())))
    if value.is_valid and isinstance(value, pa.ListScalar):
        if len(value) > 1:
            return Rejected(Reason.UNKNOWN_FORMAT, f"the row has {len(value):,} images; a row with one can be read")
        return _image(value[0]) if len(value) else Rejected(Reason.EMPTY, "the row has no bytes")
    data = value.as_py()
    return data if isinstance(data, bytes) else Rejected(Reason.EMPTY, "the row has no bytes")


def _size(kept: bytes | Rejected) -> int:
    return len(kept) if isinstance(kept, bytes) else 0


def _ids(stream: FileStream, file: pq.ParquetFile, group: int, column: str) -> Iterator[list[str]]:
    """Yields the ids of the rows of a row group in batches."""
    import pyarrow as pa

    longest = largest_page(stream, file, group, column, max_bytes=_LARGEST_PAGE_OF_IDS)  # no id is longer than its page
    count = max(1, min(_IDS_AT_ONCE, _BYTES_AT_ONCE // max(longest, 1)))
    if longest > _LONG_PAGE:
        file = _open(stream, column, file.metadata)
    for batch in file.iter_batches(count, row_groups=[group], columns=[column], use_threads=False):
        values = batch.column(0)
        if isinstance(values, pa.DictionaryArray):
            texts = [_id_of(value) for value in values.dictionary]
            yield ["" if index is None else texts[index] for index in values.indices.to_pylist()]
        elif "." not in column and batch.nbytes <= _SMALL_BATCH:
            yield [_id(value) for value in values.to_pylist()]
        else:
            for value in values:
                yield [_id_of(value)]


def _id_of(value: Any) -> str:
    """Returns an id as `_id` does, without expanding a list that does not have exactly one."""
    import pyarrow as pa

    if value.is_valid and isinstance(value, pa.StructScalar):
        return _id_of(next(iter(value.values())))
    if value.is_valid and isinstance(value, pa.ListScalar):
        return _id_of(value[0]) if len(value) == 1 else ""
    return _id(value.as_py())


def _id(value: object) -> str:
    """Returns an id as text; empty where it is null, or in a list that does not have exactly one.

    >>> _id(7.0), _id(7.5), _id(float("nan")), _id({"path": "a.jpg"}), _id(b"cat"), _id(None)
    ('7', '7.5', '', 'a.jpg', 'cat', '')
    """
    if isinstance(value, Mapping):
        return _id(next(iter(value.values()), None))
    if isinstance(value, list):
        return _id(value[0]) if len(value) == 1 else ""
    if value is None or value != value:  # NaN, which pandas writes where a number is missing
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # pandas makes floats of whole numbers where one is missing
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _no_ids(rows: int) -> Iterator[list[str]]:
    for first in range(0, rows, _IDS_AT_ONCE):
        yield [""] * min(_IDS_AT_ONCE, rows - first)
