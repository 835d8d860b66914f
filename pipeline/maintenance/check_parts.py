"""Compares a part file with the log and its run; reads it once as bytes and once as rows, a few rows at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from pipeline.errors import TableError
from pipeline.maintenance.check_rows import null_faults, row_faults
from pipeline.maintenance.findings import Damage, Finding
from pipeline.table.part_file import STATISTICS_COLUMNS
from pipeline.table.part_reader import Part, open_part, own_rows, reading_part
from pipeline.table.paths import TableRoot
from pipeline.table.schema import SCHEMA, schema_faults

_CHUNK_BYTES = 4 << 20
_BATCH_ROWS = 64


class Logged(NamedTuple):
    """A file according to the Delta log.

    Attributes:
        path: The file, relative to the table.
        size_bytes: Its size.
        rows: The number of its rows; None if the log does not say.
        lowest: By column, a lower bound of the values.
        highest: By column, an upper bound of the values.
        nulls: By column, the number of nulls.
    """

    path: str
    size_bytes: int
    rows: int | None
    lowest: Mapping[str, str]
    highest: Mapping[str, str]
    nulls: Mapping[str, int]


class Recorded(NamedTuple):
    """A file according to the run or compaction that wrote it.

    Attributes:
        sha256: Its SHA-256, in hex.
        rows: The number of its rows.
    """

    sha256: str
    rows: int


def logged_files(table: DeltaTable) -> list[Logged]:
    """Returns the files of a version, sorted by path.

    Of the statistics these are the ones of `STATISTICS_COLUMNS`. Other programs may gather further ones, of nested
    columns or cut to milliseconds; readers of maps do not select by those.
    """

    def without_nulls(values: Mapping[str, Any] | None) -> dict[str, Any]:
        known = values or {}
        return {name: known[name] for name in STATISTICS_COLUMNS if known.get(name) is not None}

    rows = pa.table(table.get_add_actions()).to_pylist()
    return sorted(
        Logged(
            row["path"],
            row["size_bytes"],
            row.get("num_records"),
            without_nulls(row.get("min")),
            without_nulls(row.get("max")),
            without_nulls(row.get("null_count")),
        )
        for row in rows
    )


def check_part(
    root: str,
    logged: Logged,
    *,
    size: int | None,
    recorded: Recorded | None,
    on_batch: Callable[[pa.RecordBatch], None],
) -> Iterator[Finding]:
    """Yields what is wrong with a part.

    Args:
        root: The table.
        logged: The part according to the log.
        size: The size of the file; None if it is missing.
        recorded: The part according to its run; None if the run recorded nothing.
        on_batch: Is called with every batch that can be read and that has the columns which identify rows.
    """
    where = logged.path
    if size is None:
        yield Finding(Damage.MISSING_FILE, where, f"the log names it, with {logged.size_bytes:,} bytes")
        return
    if size != logged.size_bytes:
        yield Finding(Damage.WRONG_SIZE, where, f"has {size:,} bytes, where the log says {logged.size_bytes:,}")
    try:
        with reading_part(root):
            if recorded is not None and (digest := _sha256(root, where)) != recorded.sha256:
                what = f"has the SHA-256 {digest}, where {recorded.sha256} was written"
                yield Finding(Damage.WRONG_CONTENT, where, what)
            with open_part(root, where) as file:
                yield from _check_rows(root, file, logged, recorded=recorded, on_batch=on_batch)
    except TableError as error:
        yield Finding(Damage.UNREADABLE, where, str(error.__cause__))


def narrow_batches(root: str, part: str, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Yields batches of narrow columns of a part, up to the first one that cannot be read."""
    with suppress(TableError), reading_part(root), open_part(root, part) as file:  # `check_part` reports it
        for batch in file.batches(columns):
            batch.validate(full=True)
            yield batch


def _sha256(root: str, part: str) -> str:
    table = TableRoot(root)
    path, store = table.path(*part.split("/")), table.store
    sha = hashlib.sha256()
    with store.open_stream(path) as file, store.reading(path):
        while chunk := file.read(_CHUNK_BYTES):
            sha.update(chunk)
    return sha.hexdigest()


def _check_rows(
    root: str,
    file: Part,
    logged: Logged,
    *,
    recorded: Recorded | None,
    on_batch: Callable[[pa.RecordBatch], None],
) -> Iterator[Finding]:
    where, rows = logged.path, file.rows
    if logged.rows is not None and logged.rows != rows:
        yield Finding(Damage.STATISTICS, where, f"has {rows:,} rows, where the log says {logged.rows:,}")
    if recorded is not None and recorded.rows != rows:
        yield Finding(Damage.COUNTS, where, f"has {rows:,} rows, where its run has recorded {recorded.rows:,}")
    faults = schema_faults(file.stored)
    yield from _form_findings(where, faults, file.rows_of_others())
    if faults:
        return
    statistics, complete = _Statistics(logged), True
    for group in range(len(file.groups)):
        try:
            # By groups: a damaged group does not hide the others.
            with reading_part(root):
                for stored in file.batches(SCHEMA.names, _BATCH_ROWS, [group], with_others=True):
                    stored.validate(full=True)
                    statistics.add(stored)
                    batch = own_rows(stored) if file.is_foreign else stored
                    faults = null_faults(batch)
                    complete = complete and not faults
                    yield from _batch_findings(where, batch, faults)
                    if not faults:
                        on_batch(batch)
        except TableError as error:
            complete = False
            yield Finding(Damage.UNREADABLE, where, f"row group {group}: {error.__cause__}")
    if complete:
        yield from statistics.findings()


def _batch_findings(where: str, batch: pa.RecordBatch, faults: list[str]) -> Iterator[Finding]:
    """Yields the findings about a batch: its `null_faults`, or those of its rows where there are none."""
    yield from (Finding(Damage.COLUMNS, where, fault) for fault in faults)
    for fault in () if faults else row_faults(batch):
        yield Finding(Damage.MAP_DIGEST if fault.digest else Damage.ROW, fault.uri, fault.what)


def _form_findings(where: str, faults: list[str], others: int) -> Iterator[Finding]:
    """Yields that a part has rows that are not densecast's; or else the faults of its columns."""
    if not others:
        yield from (Finding(Damage.COLUMNS, where, fault) for fault in faults)
        return
    why = f"the file {'; '.join(faults[:3])}" if faults else "they have nulls where a row of densecast has none"
    what = f"another program has appended {others:,} rows that are not densecast's, and they are left out: {why}"
    yield Finding(Damage.FOREIGN_ROWS, where, what)


class _Statistics:
    """The statistics of the rows that were read, to compare with the log's."""

    def __init__(self, logged: Logged) -> None:
        self._logged = logged
        self._lowest: dict[str, str] = {}
        self._highest: dict[str, str] = {}
        self._nulls: Counter[str] = Counter()

    def add(self, batch: pa.RecordBatch) -> None:
        logged = self._logged
        for name in logged.nulls.keys() & set(batch.schema.names):
            self._nulls[name] += batch.column(name).null_count
        for name in (logged.lowest.keys() | logged.highest.keys()) & set(batch.schema.names):
            bounds = pc.min_max(batch.column(name))
            lowest, highest = bounds["min"].as_py(), bounds["max"].as_py()
            if lowest is not None:
                self._lowest[name] = min(self._lowest.get(name, lowest), lowest)
                self._highest[name] = max(self._highest.get(name, highest), highest)

    def findings(self) -> Iterator[Finding]:
        logged = self._logged
        # The bounds in the log need not be reached, but no row may exceed them.
        for name, value in sorted(self._lowest.items()):
            if name in logged.lowest and value < logged.lowest[name]:
                yield self._finding(f"{name} is as low as {value!r}, where the log says {logged.lowest[name]!r}")
        for name, value in sorted(self._highest.items()):
            if name in logged.highest and value > logged.highest[name]:
                yield self._finding(f"{name} is as high as {value!r}, where the log says {logged.highest[name]!r}")
        for name, count in sorted(logged.nulls.items()):
            if self._nulls[name] != count:
                yield self._finding(f"{self._nulls[name]:,} rows have no {name}, where the log says {count:,}")

    def _finding(self, what: str) -> Finding:
        return Finding(Damage.STATISTICS, self._logged.path, what)
