"""Scans the rows of one version of a table, whichever programs wrote its parts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import cast

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
from deltalake import DeltaTable

from pipeline.errors import TableError
from pipeline.storage.address import is_remote, local_path
from pipeline.table.log import columns_of
from pipeline.table.part_file import STATISTICS_COLUMNS
from pipeline.table.part_reader import Part, arrow_filesystem, is_foreign, open_part
from pipeline.table.paths import TableRoot
from pipeline.table.plain_types import plain_content, plain_metadata
from pipeline.table.schema import ARRAYS, SCHEMA

_BATCH_ROWS = 4096
_NARROW = [name for name in SCHEMA.names if name not in ARRAYS]


class Rows:
    """The rows of a version. Its methods are those of `pyarrow.dataset.Dataset`; call them within `reading_part`.

    Arrow scans densecast's own parts, and skips row groups by their statistics. It would fail on the statistics of
    other programs' parts (`pipeline.table.plain_types` says why), so these are read and then filtered. Conditions are
    on columns of `SCHEMA` that are not in `ARRAYS`. Rows that are not densecast's are left out, and a warning says so.

    Args:
        root: The table.
        table: The version.
    """

    def __init__(self, root: TableRoot, table: DeltaTable) -> None:
        self._root = root
        read_options = pads.ParquetReadOptions([], coerce_int96_timestamp_unit="us")  # as Spark writes times
        known = columns_of(table)
        schema = pa.schema([*known, *(field for field in SCHEMA if field.name not in known.names)])
        everything = table.to_pyarrow_dataset(
            filesystem=arrow_filesystem(root), parquet_read_options=read_options, schema=schema
        )
        # deltalake makes no other; it states the base class.
        self._everything = everything = cast("pads.FileSystemDataset", everything)
        fragments = cast("list[pads.FileFragment]", list(everything.get_fragments()))
        foreign = [fragment.path for fragment in fragments if is_foreign(fragment.path)]
        own = [fragment for fragment in fragments if not is_foreign(fragment.path)]
        self._own = self._dataset(own) if foreign else everything
        self._bounds = _bounds(table) if foreign else {}
        self._warned: set[str] = set()
        self._foreign = self._dataset([self._fragment(path, path, everything.filesystem) for path in foreign])

    def _dataset(self, fragments: list[pads.FileFragment]) -> pads.FileSystemDataset:
        of = self._everything
        return pads.FileSystemDataset(list(fragments), of.schema, of.format, of.filesystem)

    def _fragment(
        self, path: str, content: str | pa.Buffer, filesystem: pafs.FileSystem | None = None
    ) -> pads.FileFragment:
        """Returns the fragment of a part that another program wrote."""
        fragment = self._everything.format.make_fragment(
            content,  # type: ignore[arg-type] # the stubs lack buffers
            filesystem,
            self._bounds.get(path),
        )
        return cast("pads.FileFragment", fragment)

    @property
    def schema(self) -> pa.Schema:
        """Returns the columns."""
        return self._everything.schema

    def to_table(self, columns: Sequence[str] | None = None, filter: pads.Expression | None = None) -> pa.Table:  # noqa: A002 - Arrow's name
        """Returns columns of the rows that meet a condition."""
        names = None if columns is None else list(columns)
        own = self._own.to_table(columns=names, filter=filter)
        batches = [batch for part in self._foreign_parts(filter) for batch in self._batches(part, names, filter)]
        return pa.concat_tables([own, pa.Table.from_batches(batches, own.schema)]) if batches else own

    def to_batches(
        self,
        columns: Sequence[str] | None = None,
        filter: pads.Expression | None = None,  # noqa: A002 - Arrow's name
        batch_size: int = _BATCH_ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """Yields columns of the rows that meet a condition, in batches."""
        names = None if columns is None else list(columns)
        yield from self._own.to_batches(columns=names, filter=filter, batch_size=batch_size)
        for part in self._foreign_parts(filter):
            yield from self._batches(part, names, filter, batch_size)

    def batches_by_part(
        self, columns: Sequence[str], condition: pads.Expression, batch_size: int
    ) -> Iterator[pa.RecordBatch]:
        """Yields as `to_batches`, part by part in the order of their names, and reads no part ahead.

        A scan of the whole dataset would read ahead up to a gigabyte.
        """
        fragments = [*self._own.get_fragments(filter=condition), *self._foreign_parts(condition)]
        for fragment in sorted(fragments, key=lambda fragment: str(fragment.path)):
            if is_foreign(fragment.path):
                yield from self._batches(fragment, columns, condition, batch_size)
            else:
                yield from fragment.to_batches(
                    schema=self.schema, columns=list(columns), filter=condition, batch_size=batch_size
                )

    def count_rows(self, filter: pads.Expression | None = None) -> int:  # noqa: A002 - Arrow's name
        """Returns the number of rows that meet a condition."""
        foreign = (batch for part in self._foreign_parts(filter) for batch in self._batches(part, ["uri"], filter))
        return int(self._own.count_rows(filter=filter)) + sum(batch.num_rows for batch in foreign)

    def dataset(self) -> pads.Dataset:
        """Returns the rows as a lazy dataset of Arrow's own.

        Raises:
            TableError: A part that another program wrote to a remote store cannot be presented to Arrow's filters.
        """
        foreign = [fragment.path for fragment in self._foreign_parts(None) if self._has_own_rows(fragment.path)]
        if not foreign:
            return self._own
        presented = self._dataset([fragment for fragment in self._foreign_parts(None) if fragment.path in foreign])
        if is_remote(self._root):
            self._check_remote(foreign)
        else:
            folder = local_path(self._root)
            presented = self._dataset([self._fragment(path, plain_content(folder / path)) for path in foreign])
        children = [self._own, presented]
        return pads.dataset(children)  # type: ignore[arg-type] # the stubs lack datasets

    def _has_own_rows(self, path: str) -> bool:
        with open_part(self._root, path) as part:
            self._warn_of_others(path, part)
            return part.rows == 0 or part.rows_of_others() < part.rows

    def _warn_of_others(self, path: str, part: Part) -> None:
        if path not in self._warned and (others := part.rows_of_others()):
            logging.getLogger(__name__).warning(
                "%s: another program has appended %d rows that are not densecast's, in %s; they are left out",
                self._root,
                others,
                path,
            )
        self._warned.add(path)

    def _check_remote(self, parts: Sequence[str]) -> None:
        filesystem = arrow_filesystem(self._root)
        for part in parts:
            if filesystem is None or plain_metadata(filesystem.open_input_file(part)) is not None:
                raise TableError(
                    f"another program has written the part {part}, with types that Arrow's filters do not take",
                    where=str(self._root),
                    why="Arrow reads it from a local disk only; the other methods of MapTable read it anywhere",
                    remedy="run `densecast compact`, which writes such parts anew, or read the table with delta_scan of"
                    " DuckDB",
                )

    def _foreign_parts(self, condition: pads.Expression | None) -> list[pads.FileFragment]:
        return sorted(self._foreign.get_fragments(filter=condition), key=lambda fragment: str(fragment.path))

    def _batches(
        self,
        fragment: pads.FileFragment,
        columns: Sequence[str] | None,
        condition: pads.Expression | None,
        batch_size: int = _BATCH_ROWS,
    ) -> Iterator[pa.RecordBatch]:
        """Yields rows of a part that another program wrote."""
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        with open_part(self._root, fragment.path) as part:
            self._warn_of_others(fragment.path, part)
            known = {*SCHEMA.names, *part.further.names}
            needed = [name for name in schema.names if name in known]
            if condition is not None:
                needed += [name for name in _NARROW if name not in needed]
            for batch in part.batches(needed, batch_size):
                rows = pa.Table.from_batches([batch])
                if condition is not None:
                    rows = rows.filter(condition)
                values = [
                    rows.column(field.name).cast(field.type)
                    if field.name in known
                    else pa.chunked_array([pa.nulls(rows.num_rows, field.type)])
                    for field in schema
                ]
                yield from pa.Table.from_arrays(values, schema=schema).to_batches()


def _bounds(table: DeltaTable) -> dict[str, pads.Expression]:
    """Returns what the log says of the rows of each part, by the part's path.

    deltalake (1.6) makes such conditions too. They are never met where the log lacks a bound: it compares with null.
    """
    bounds: dict[str, pads.Expression] = {}
    for row in pa.table(table.get_add_actions()).to_pylist():
        lowest, highest = row.get("min") or {}, row.get("max") or {}
        for name in STATISTICS_COLUMNS:
            if lowest.get(name) is not None and highest.get(name) is not None:
                field = pads.field(name)
                bound = ((field >= lowest[name]) & (field <= highest[name])) | field.is_null()
                bounds[row["path"]] = bounds[row["path"]] & bound if row["path"] in bounds else bound
    return bounds
