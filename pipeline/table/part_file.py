"""Part files: gathered rows become immutable Parquet files, each described by a small receipt.

Readers see a part only after `pipeline.table.commit.commit` has committed its receipt.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import TableError
from pipeline.malloc_trim import release_free_memory
from pipeline.settings import Rounding
from pipeline.table.paths import TableRoot, check_root
from pipeline.table.rows import MapRow, rows_to_arrow
from pipeline.table.schema import SCHEMA, Status

FLUSH_BYTES = 32 << 20
"""A part is written when the gathered rows take so much memory."""

FLUSH_ROWS = 8192
"""A part is written when so many rows have gathered: this bounds the memory, and the loss in a crash, of small maps."""

FLUSH_SECONDS = 60.0
"""A part is written when its oldest row has this age: a crash loses no more, since the next run adopts parts."""

NAME_DIGITS = 32

# Small rows are converted to Arrow in blocks of this size: as Python objects they take four times the memory.
_CONDENSED_ROWS = 256
# Larger blocks wait as Python objects, whose own size is small then: they are sorted without a copy of the maps.
_CONDENSED_BYTES = 4 << 20
# Readers load whole row groups; small ones make a single map cheap to read.
ROW_GROUP_BYTES = 4 << 20

# Columns that readers select by. Statistics and dictionaries of the other columns cost space without a benefit.
STATISTICS_COLUMNS = ("key", "uri", "id", "status", "reason", "model_digest", "recipe", "run_id")
_DICTIONARY_COLUMNS = ["id", "status", "reason", "detail", "form", "precision", "model_digest", "recipe", "run_id"]

_METADATA = "densecast"
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PART = re.compile(r"part-(?P<run>.+)-[0-9a-f]{32}\.parquet|part-(?P<compaction>compaction-[0-9a-f]{32})-\d+\.parquet")


class PartName(NamedTuple):
    """The name of a part that densecast has written.

    Attributes:
        run_id: The run or the compaction that wrote it.
        is_compacted: Whether a compaction wrote it.
    """

    run_id: str
    is_compacted: bool


def parse_part_name(name: str) -> PartName | None:
    """Returns what the name of a file says; None where it is not that of a part which densecast has written.

    >>> parse_part_name(f"part-r1-{'0' * 32}.parquet")
    PartName(run_id='r1', is_compacted=False)
    """
    match = _PART.fullmatch(name)
    return match and PartName(match["run"] or match["compaction"], match["run"] is None)


class Receipt(NamedTuple):
    """A part file that is complete on disk and not yet published; small and picklable.

    Attributes:
        path: The file, relative to the root of the table.
        size_bytes: Its size.
        rows: The number of its rows.
        scored: The number of maps that it adds to the table; the tiles of an image count once.
        rejected: The number of rejections that it adds.
        sha256: SHA-256 of the file, in hex.
        stats: Delta's statistics of the file: JSON with `numRecords`, `minValues`, `maxValues` and `nullCount`.
    """

    path: str
    size_bytes: int
    rows: int
    scored: int
    rejected: int
    sha256: str
    stats: str


def check_run_id(run_id: str) -> None:
    """Checks that a run's identifier can be part of a file name.

    Raises:
        TableError: It cannot.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise TableError(
            f"the run id {run_id!r} cannot be part of a file name",
            remedy="use letters, digits, dots, dashes and underscores, at most 100 characters, a letter or digit first",
        )


def new_run_id() -> str:
    """Returns a run's name: the time in UTC and a few random letters, so that names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


class PartWriter:
    """Gathers rows and writes them as part files under the root of a table; one writer belongs to one thread.

    Args:
        root: The table, a local path or `scheme://`.
        run_id: The run that the rows belong to.
        model_digest: The model that the rows belong to.
        flush_bytes: Size of the gathered rows in memory, in bytes, at which a part is written; see also `FLUSH_ROWS`.
        flush_seconds: Age of the oldest row, in seconds, at which a part is written.
        clock: Returns seconds, monotonic.
        rounding: Which bits of the maps may differ from those of another run.

    Raises:
        TableError: The run id cannot be part of a file name, or the folder cannot hold a table.
    """

    def __init__(
        self,
        root: str,
        run_id: str,
        model_digest: str,
        *,
        flush_bytes: int = FLUSH_BYTES,
        flush_seconds: float = FLUSH_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        rounding: Rounding = Rounding.BOUNDED,
    ) -> None:
        check_run_id(run_id)
        check_root(root)
        self._root, self._run_id, self._model_digest = root, run_id, model_digest
        self._flush_bytes, self._flush_seconds = flush_bytes, flush_seconds
        self._clock, self._rounding = clock, rounding
        self._since = 0.0
        self._rows: list[MapRow] = []
        self._rows_bytes = 0
        self._tables: list[pa.Table] = []
        self._size_bytes = self._count = self._scored = self._rejected = 0

    def add(self, row: MapRow) -> Receipt | None:
        """Adds a row; writes a part if enough rows have gathered.

        Returns:
            The receipt of the part, if one was written.

        Raises:
            TableError: The row belongs to another run or model.
            StorageError: The part cannot be written; the rows are kept, and `flush` tries again.
        """
        if (row.run_id, row.model_digest) != (self._run_id, self._model_digest):
            raise TableError(
                f"a row of run {row.run_id} and model {row.model_digest} was given to the writer of run {self._run_id}"
                f" and model {self._model_digest}",
                where=row.uri,
            )
        now = self._clock()
        if not self._size_bytes:
            self._since = now
        row_bytes = row.size_bytes
        self._rows.append(row)
        self._rows_bytes += row_bytes
        self._size_bytes += row_bytes
        self._scored += row.tile_index == 0 and row.status == Status.SCORED
        self._rejected += row.tile_index == 0 and row.status == Status.REJECTED
        self._count += 1
        if len(self._rows) >= _CONDENSED_ROWS and self._rows_bytes <= _CONDENSED_BYTES:
            self._condense()
        due = (
            self._size_bytes >= self._flush_bytes
            or self._count >= FLUSH_ROWS
            or now - self._since >= self._flush_seconds
        )
        return self.flush() if due else None

    def flush(self) -> Receipt | None:
        """Writes the gathered rows as a part.

        Returns:
            Its receipt; None if there were no rows.

        Raises:
            StorageError: The part cannot be written; the rows are kept, and `flush` tries again.
        """
        if not self._count:
            return None
        if self._tables:
            self._condense()
        # Sorted: each row group covers a narrow range of addresses, and a reader of one image skips the others.
        group_rows = max(1, ROW_GROUP_BYTES * self._count // self._size_bytes)
        with PartFile(self._root, self._run_id, rounding=self._rounding) as part:
            for group in self._sorted_tables(group_rows) if self._tables else self._sorted_rows(group_rows):
                part.write(group, self._size_bytes // self._count)
            receipt = part.close(self._scored, self._rejected)
        self._rows, self._tables = [], []
        self._rows_bytes = self._size_bytes = self._count = self._scored = self._rejected = 0
        release_free_memory()
        return receipt

    def _condense(self) -> None:
        if self._rows:
            self._tables.append(rows_to_arrow(self._rows))
            self._rows, self._rows_bytes = [], 0

    def _sorted_rows(self, group_rows: int) -> Iterator[pa.Table]:
        """Yields the rows that were not condensed, in groups; one group at a time is held twice."""
        rows = sorted(self._rows, key=lambda row: row.uri)
        for start in range(0, len(rows), group_rows):
            yield rows_to_arrow(rows[start : start + group_rows])

    def _sorted_tables(self, group_rows: int) -> Iterator[pa.Table]:
        """Yields the condensed rows, in groups; one group at a time is held twice."""
        rows = pa.concat_tables(self._tables)
        order = pc.sort_indices(rows, sort_keys=[("uri", "ascending")])
        for start in range(0, rows.num_rows, group_rows):
            yield rows.take(order.slice(start, group_rows))


class PartFile:
    """One part file while it is written: Arrow tables are encoded in memory, and `close` stores the file as a whole.

    Args:
        root: The table.
        run_id: The run that writes it; part of the file's name.
        name: The end of the file's name; by default `NAME_DIGITS` digits of the file's digest, by which an unpublished
            file can be verified: Parquet has checksums of pages, but not of its footer.
        rounding: Which bits of its maps may differ from those of another run.
        further: Columns that it has after those of `SCHEMA`: another program has added them to the table.
    """

    def __init__(
        self,
        root: str,
        run_id: str,
        name: str = "",
        *,
        rounding: Rounding = Rounding.BOUNDED,
        further: Iterable[pa.Field[Any]] = (),
    ) -> None:
        check_run_id(run_id)
        self._root, self._run_id, self._name, self._rows = root, run_id, name, 0
        self._statistics: list[dict[str, Any]] = []
        self._sink = pa.BufferOutputStream()
        # The file says what a later run needs to know before it adopts rows of a run that died.
        self._writer = pq.ParquetWriter(
            self._sink,
            pa.schema([*SCHEMA, *further]).with_metadata(
                {_METADATA: json.dumps({"run_id": run_id, "rounding": rounding})}
            ),
            compression="zstd",
            use_dictionary=_DICTIONARY_COLUMNS,  # type: ignore[arg-type] # names too, which the stubs lack
            write_statistics=list(STATISTICS_COLUMNS),
            write_page_checksum=True,
        )

    @property
    def rows(self) -> int:
        """Returns the number of rows that were written so far."""
        return self._rows

    def write(self, rows: pa.Table, row_bytes: int) -> None:
        """Adds rows of `SCHEMA` and the further columns, each of about `row_bytes` bytes in memory."""
        self._writer.write_table(rows, row_group_size=max(1, ROW_GROUP_BYTES // max(row_bytes, 1)))
        self._statistics.append(_statistics(rows))
        self._rows += rows.num_rows

    def close(self, scored: int = 0, rejected: int = 0) -> Receipt:
        """Stores the file under its name.

        Args:
            scored: The number of maps that it adds to the table.
            rejected: The number of rejections that it adds.

        Returns:
            The receipt.

        Raises:
            StorageError: The file cannot be written; no partial file is left.
        """
        self._writer.close()
        data = self._sink.getvalue().to_pybytes()
        digest = hashlib.sha256(data).hexdigest()
        path = f"part-{self._run_id}-{self._name or digest[:NAME_DIGITS]}.parquet"
        table = TableRoot(self._root)
        table.store.write_atomically(table.path(path), data)
        stats = json.dumps(_join_statistics(self._statistics))
        return Receipt(path, len(data), self._rows, scored, rejected, digest, stats)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()


def rounding_of(schema: pa.Schema) -> Rounding:
    """Returns which bits of a part's maps may differ from those of another run; `BOUNDED` if its schema is older."""
    try:
        facts = json.loads((schema.metadata or {}).get(_METADATA.encode(), b"{}"))
        return Rounding(facts.get("rounding", Rounding.BOUNDED))
    except (ValueError, AttributeError):
        return Rounding.BOUNDED


def _statistics(rows: pa.Table) -> dict[str, Any]:
    lowest: dict[str, str] = {}
    highest: dict[str, str] = {}
    nulls: dict[str, int] = {}
    for name in STATISTICS_COLUMNS:
        nulls[name] = rows.column(name).null_count
        bounds = pc.min_max(rows.column(name))
        if bounds["min"].is_valid:
            lowest[name], highest[name] = bounds["min"].as_py(), bounds["max"].as_py()
    return {"numRecords": rows.num_rows, "minValues": lowest, "maxValues": highest, "nullCount": nulls}


def _join_statistics(statistics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Returns the statistics of a file from those of the tables in it."""

    def by_column(name: str, combine: Callable[[list[Any]], object]) -> dict[str, object]:
        columns = sorted({column for table in statistics for column in table[name]})
        return {c: combine([table[name][c] for table in statistics if c in table[name]]) for c in columns}

    return {
        "numRecords": sum(table["numRecords"] for table in statistics),
        "minValues": by_column("minValues", min),
        "maxValues": by_column("maxValues", max),
        "nullCount": by_column("nullCount", sum),
    }
