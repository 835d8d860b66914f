"""Is a part file what the log and its run say of it? Read once as bytes and once as rows, a few rows at a time."""

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
from pipeline.maintenance.check_rows import null_faults, row_faults, schema_faults
from pipeline.maintenance.findings import Damage, Finding
from pipeline.table.part_reader import open_part, reading_part
from pipeline.table.paths import TableRoot

_CHUNK_BYTES = 4 << 20
_BATCH_ROWS = 64


class Logged(NamedTuple):
    """What the Delta log says of a file.

    Attributes:
        path: Relative to the table.
        size_bytes: Its size.
        rows: How many it has; None where the log does not say.
        lowest: By column, a value that no row is below.
        highest: By column, a value that no row is above.
        nulls: By column, how many rows have none.
    """

    path: str
    size_bytes: int
    rows: int | None
    lowest: Mapping[str, str]
    highest: Mapping[str, str]
    nulls: Mapping[str, int]


class Recorded(NamedTuple):
    """What the run, or compaction, that wrote a file has recorded of it.

    Attributes:
        sha256: Its digest, in hex.
        rows: How many it has.
    """

    sha256: str
    rows: int


def logged_files(table: DeltaTable) -> list[Logged]:
    """The files of a version, by path."""

    def known(values: Mapping[str, Any] | None) -> dict[str, Any]:
        return {name: value for name, value in (values or {}).items() if value is not None}

    rows = pa.table(table.get_add_actions()).to_pylist()
    found = [
        Logged(
            row["path"],
            row["size_bytes"],
            row.get("num_records"),
            known(row.get("min")),
            known(row.get("max")),
            known(row.get("null_count")),
        )
        for row in rows
    ]
    return sorted(found)


def check_part(
    root: str, logged: Logged, size: int | None, recorded: Recorded | None, take: Callable[[Any], None]
) -> Iterator[Finding]:
    """What is wrong with a part.

    Args:
        root: The table.
        logged: What the log says of it.
        size: Of the file that is there; None where there is none.
        recorded: What its run says of it, if anything.
        take: Gets every `pyarrow.RecordBatch` that can be read and has all columns that rows are told apart by.
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
                yield from _rows(root, file, logged, recorded, take)
    except TableError as error:
        yield Finding(Damage.UNREADABLE, where, str(error.__cause__))


def narrow_batches(root: str, part: str, columns: list[str]) -> Iterator[Any]:
    """Batches of narrow columns of a part; nothing more once it cannot be read."""
    with suppress(TableError), reading_part(root), open_part(root, part) as file:  # `check_part` reports it
        for batch in file.iter_batches(batch_size=4096, columns=columns):
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


def _rows(
    root: str, file: Any, logged: Logged, recorded: Recorded | None, take: Callable[[Any], None]
) -> Iterator[Finding]:
    where, rows = logged.path, file.metadata.num_rows
    if logged.rows is not None and logged.rows != rows:
        yield Finding(Damage.STATISTICS, where, f"has {rows:,} rows, where the log says {logged.rows:,}")
    if recorded is not None and recorded.rows != rows:
        yield Finding(Damage.COUNTS, where, f"has {rows:,} rows, where its run has recorded {recorded.rows:,}")
    if faults := schema_faults(file.schema_arrow):
        yield from (Finding(Damage.COLUMNS, where, fault) for fault in faults)
        return
    statistics, complete = _Statistics(logged), True
    for group in range(file.num_row_groups):
        try:
            # By groups, so that one that is damaged does not hide the others.
            with reading_part(root):
                for batch in file.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group]):
                    batch.validate(full=True)
                    statistics.add(batch)
                    if faults := null_faults(batch):
                        yield from (Finding(Damage.COLUMNS, where, fault) for fault in faults)
                        complete = False
                        continue
                    for fault in row_faults(batch):
                        yield Finding(Damage.MAP_DIGEST if fault.digest else Damage.ROW, fault.uri, fault.what)
                    take(batch)
        except TableError as error:
            complete = False
            yield Finding(Damage.UNREADABLE, where, f"row group {group}: {error.__cause__}")
    if complete:
        yield from statistics.findings()


class _Statistics:
    """The statistics of the rows that were read, to hold against the log's."""

    def __init__(self, logged: Logged) -> None:
        self._logged = logged
        self._lowest: dict[str, str] = {}
        self._highest: dict[str, str] = {}
        self._nulls: Counter[str] = Counter()

    def add(self, batch: Any) -> None:
        logged = self._logged
        for name in logged.nulls.keys() & set(batch.schema.names):
            self._nulls[name] += batch.column(name).null_count
        for name in (logged.lowest.keys() | logged.highest.keys()) & set(batch.schema.names):
            found: dict[str, Any] = pc.min_max(batch.column(name)).as_py()  # type: ignore[assignment] # of a struct
            if found["min"] is not None:
                self._lowest[name] = min(self._lowest.get(name, found["min"]), found["min"])
                self._highest[name] = max(self._highest.get(name, found["max"]), found["max"])

    def findings(self) -> Iterator[Finding]:
        logged = self._logged
        # The log may give bounds that no row reaches, but none that a row exceeds.
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
