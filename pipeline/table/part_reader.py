"""Opens and reads the part files of a table, in any storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Self, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake.exceptions import DeltaError

from pipeline.errors import TableError
from pipeline.storage.address import is_remote
from pipeline.storage.arrow import arrow_store
from pipeline.storage.errors import INACCESSIBLE, StorageError
from pipeline.storage.options import store_of
from pipeline.table.part_file import parse_part_name
from pipeline.table.paths import TableRoot, delta_location
from pipeline.table.plain_types import plain_metadata
from pipeline.table.schema import LATER_COLUMNS, SCHEMA, has_type_of, schema_faults

_REQUIRED = tuple(field.name for field in SCHEMA if not field.nullable)
# ValueError where names in the footer of a part are not UTF-8.
_ERRORS = (OSError, pa.ArrowException, ValueError, StorageError, DeltaError)


@contextmanager
def reading_part(
    root: str, what: str = "a part of the table cannot be read", *, why: str = "", remedy: str = ""
) -> Iterator[None]:
    """Turns errors of reading parts into damage or an outage. No other code catches them.

    Args:
        root: The table.
        what: The operation that failed.
        why: The consequence of the failure.
        remedy: The way out.

    Raises:
        TableError: The part is missing or damaged; the cause is the original error.
        UnavailableError, AccessError: The store cannot be used, or refuses access, which tells nothing about the part.
    """
    try:
        yield
    except INACCESSIBLE:
        raise
    except _ERRORS as error:
        if not isinstance(error, StorageError):
            explained = TableRoot(root).store.explain(error, root, "cannot be read")
            if isinstance(explained, INACCESSIBLE):
                raise explained from None
        raise TableError(f"{what}: {error}", where=str(root), why=why, remedy=remedy) from error


class Part:
    """An open part. Its columns have the types of `SCHEMA`, in whatever form the program that wrote it stored them.

    Reads verify the checksums of pages. Call all methods within `reading_part`.

    Another program may append rows that are not densecast's: they lack a column, or have nulls where densecast never
    writes any. No method returns such rows, unless it says so.

    Args:
        file: The file.
        is_foreign: Whether another program has written it.

    Attributes:
        stored: The columns as the file has them.
        further: The columns that are not densecast's: another program has added them to the table.
        is_foreign: Whether another program has written it.
    """

    def __init__(self, file: pq.ParquetFile, *, is_foreign: bool = False) -> None:
        self._file, self.is_foreign = file, is_foreign
        self.stored = file.schema_arrow.remove_metadata()
        self.further = pa.schema([field for field in self.stored if field.name not in SCHEMA.names])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        self._file.close(force=True)

    @property
    def rows(self) -> int:
        """Returns the number of rows, with those that are not densecast's."""
        return self._file.metadata.num_rows

    def rows_of_others(self) -> int:
        """Returns the number of rows that are not densecast's; 0 in a part that densecast has written."""
        if not self.is_foreign:
            return 0
        if schema_faults(self.stored):
            return self.rows
        batches = self._file.iter_batches(columns=list(_REQUIRED))
        return self.rows - sum(own_rows(batch).num_rows for batch in batches)

    @property
    def groups(self) -> list[pq.RowGroupMetaData]:
        """Returns the metadata of the row groups, in the order of the file."""
        return [self._file.metadata.row_group(index) for index in range(self._file.num_row_groups)]

    def read_group(self, index: int, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns a row group.

        Args:
            index: Its number, from 0.
            columns: The columns, in the order in which they are returned; None for those of `SCHEMA`, then `further`.

        Raises:
            ArrowException: The part lacks a column or has it with another type, or cannot be read.
        """
        schema = self._schema(columns)
        if not self.is_foreign:
            return _conform(self._file.read_row_group(index, columns=schema.names), schema)
        if schema_faults(self.stored):
            return schema.empty_table()
        wanted = self._with_required(schema)
        return own_rows(_conform(self._file.read_row_group(index, columns=wanted.names), wanted)).select(schema.names)

    def validated_groups(self) -> Iterator[pa.Table]:
        """Yields the row groups with all columns, each validated.

        Raises:
            ArrowException: As `read_group`; or a page does not match its checksum, the length of a column differs from
                that of its group, or a value does not have the type of its column.
        """
        for index, group in enumerate(self.groups):
            rows = self.read_group(index)
            rows.validate(full=True)
            if rows.num_rows != group.num_rows:
                raise pa.ArrowInvalid(f"row group {index} has {rows.num_rows} rows")
            yield rows

    def batches(
        self,
        columns: Sequence[str] | None = None,
        batch_size: int = 4096,
        groups: Sequence[int] | None = None,
        *,
        with_others: bool = False,
    ) -> Iterator[pa.RecordBatch]:
        """Yields the rows in batches.

        Args:
            columns: As for `read_group`.
            batch_size: The largest number of rows in a batch.
            groups: The numbers of the row groups; None for all.

            with_others: Whether to yield rows that are not densecast's as well.

        Raises:
            ArrowException: As `read_group`.
        """
        schema = self._schema(columns)
        numbers = None if groups is None else list(groups)
        filters = self.is_foreign and not with_others
        if filters and schema_faults(self.stored):
            return
        wanted = self._with_required(schema) if filters else schema
        for batch in self._file.iter_batches(batch_size, row_groups=numbers, columns=wanted.names):
            rows = _conform(batch, wanted)
            yield own_rows(rows).select(schema.names) if filters else rows

    def _schema(self, columns: Sequence[str] | None) -> pa.Schema:
        everything = [*SCHEMA, *self.further]
        if columns is None:
            return pa.schema(everything)
        fields = {field.name: field for field in everything}
        return pa.schema([fields[name] for name in columns])

    @staticmethod
    def _with_required(schema: pa.Schema) -> pa.Schema:
        """Returns a schema with the columns that tell whether a row is densecast's."""
        return pa.schema([*schema, *(SCHEMA.field(name) for name in _REQUIRED if name not in schema.names)])


_Rows = TypeVar("_Rows", pa.RecordBatch, pa.Table)


def own_rows(rows: _Rows) -> _Rows:
    """Returns the rows that are densecast's: those without nulls in the columns that densecast always fills."""
    for name in _REQUIRED:
        if rows.column(name).null_count:
            rows = rows.filter(pc.is_valid(rows.column(name)))
    return rows


def _conform(rows: _Rows, schema: pa.Schema) -> _Rows:
    """Returns rows with the columns and types of a schema.

    Raises:
        ArrowInvalid: A column is missing, has another type, or has a value that does not fit.
    """
    if rows.schema.equals(schema):
        return rows
    columns = []
    for field in schema:
        index = rows.schema.get_field_index(field.name)
        if index < 0 and field.name in LATER_COLUMNS:
            columns.append(pa.nulls(rows.num_rows, field.type))
            continue
        if index < 0:
            raise pa.ArrowInvalid(f"it has no column {field.name}")
        column = rows.column(index)
        if not has_type_of(column.type, field.type):
            raise pa.ArrowInvalid(f"its column {field.name} is {column.type} instead of {field.type}")
        columns.append(column if column.type == field.type else column.cast(field.type))
    return type(rows).from_arrays(columns, schema=schema)


def open_part(root: str, part: str) -> Part:
    """Opens a part of a table. Call it within `reading_part`."""
    filesystem = arrow_filesystem(root)
    if filesystem is None:
        table = TableRoot(root)
        source: pa.NativeFile = pa.BufferReader(table.store.read_bytes(table.path(*part.split("/"))))
    else:
        source = filesystem.open_input_file(part)
    foreign = is_foreign(part)
    metadata = plain_metadata(source) if foreign else None
    file = pq.ParquetFile(source, metadata=metadata, page_checksum_verification=True, coerce_int96_timestamp_unit="us")
    return Part(file, is_foreign=foreign)


def is_foreign(part: str) -> bool:
    """Returns whether another program has written a part, by its name; the types of its columns may differ."""
    return parse_part_name(part.rsplit("/", 1)[-1]) is None


def arrow_filesystem(root: str) -> pafs.FileSystem | None:
    """Returns Arrow's own file system for a table; None where Arrow has none, so that the store reads whole files.

    `pipeline.storage.arrow` explains why deltalake's and obstore's file systems are not used.

    Raises:
        CredentialsError: The options for its object store are contradictory, or name a variable that is not set.
    """
    if not is_remote(root):
        return pafs.SubTreeFileSystem(delta_location(root), pafs.LocalFileSystem())
    if store_of(root) is not None:
        return arrow_store(root, TableRoot(root).options)
    try:
        filesystem, path = pafs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError):
        return None
    return pafs.SubTreeFileSystem(path, filesystem)
