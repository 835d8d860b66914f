"""Part files: rows gather in memory and become immutable Parquet files, each vouched for by a small receipt.

A part is invisible to readers until `pipeline.table.publish` commits its receipt.
"""

import hashlib
import json
import re
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.errors import TableError
from pipeline.rows import MapRow, Status, rows_to_arrow

FLUSH_BYTES = 32 << 20
# Readers load whole row groups: small ones keep the reading of a single map cheap.
ROW_GROUP_BYTES = 4 << 20

# Columns that readers select by. The others are bulk: statistics and dictionaries of them cost space and gain nothing.
STATISTICS_COLUMNS = ("key", "uri", "id", "status", "reason", "model_digest", "run_id")
_DICTIONARY_COLUMNS = [*STATISTICS_COLUMNS, "detail", "form", "precision"]

# deltalake takes a folder for a URL here and there: it writes such a table, and does not find it, or its log, again.
_BAD_ROOT = re.compile(r"%[0-9A-Fa-f]{2}|[#?\\\x00-\x1f\x7f]")
_RUN_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class Receipt(NamedTuple):
    """A part file that is complete on disk and not yet published; small, and picklable.

    Attributes:
        path: The file, relative to the root of the table.
        size_bytes: Its size.
        rows: How many rows it holds.
        scored: How many of them are maps.
        rejected: How many of them are rejections.
        sha256: Digest of the file, in hex.
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
    """Check that a run's identifier can be part of a file name.

    Raises:
        TableError: It cannot.
    """
    if not _RUN_ID.fullmatch(run_id):
        raise TableError(
            f"the run id {run_id!r} cannot be part of a file name",
            remedy="use letters, digits, dots, dashes and underscores, at most 100, a letter or digit first",
        )


def check_root(root: str) -> None:
    """Check that a folder can be the root of a table.

    Raises:
        TableError: Its path, or the one that a link leads to, holds characters that deltalake cannot handle.
    """
    path = root if storage.is_remote(root) else str(storage.local_path(root).resolve())
    if found := _BAD_ROOT.search(path):
        raise TableError(
            f"a table cannot lie in a folder with {found.group()!r} in its path",
            where=path,
            why="Delta Lake's library reads #, ?, backslashes, percent escapes and control characters in it as a URL",
            remedy="choose another folder",
        )


class PartWriter:
    """Gathers rows and writes them as part files under the root of a table; one writer belongs to one thread.

    Args:
        root: The table, a local path or `scheme://`.
        run_id: The run that the rows belong to.
        model_digest: The model that the rows belong to.
        flush_bytes: Size of the gathered rows in memory at which they become a part.
        name_factory: Gives the unique end of a part's name.

    Raises:
        TableError: The run id cannot be part of a file name, or the folder cannot hold a table.
    """

    def __init__(
        self,
        root: str,
        run_id: str,
        model_digest: str,
        flush_bytes: int = FLUSH_BYTES,
        name_factory: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        check_run_id(run_id)
        check_root(root)
        self._root, self._run_id, self._model_digest = root, run_id, model_digest
        self._flush_bytes, self._name_factory = flush_bytes, name_factory
        self._rows: list[MapRow] = []
        self._size_bytes = 0

    def add(self, row: MapRow) -> Receipt | None:
        """Take a row; write a part when enough have gathered.

        Returns:
            The receipt of the part, if one was written.

        Raises:
            TableError: The row belongs to another run or model.
            StorageError: The part cannot be written; the rows are still held, and `flush` tries again.
        """
        if (row.run_id, row.model_digest) != (self._run_id, self._model_digest):
            raise TableError(
                f"a row of run {row.run_id} and model {row.model_digest} came to the writer of run {self._run_id} and"
                f" model {self._model_digest}",
                where=row.uri,
            )
        self._rows.append(row)
        self._size_bytes += row.size_bytes
        return self.flush() if self._size_bytes >= self._flush_bytes else None

    def flush(self) -> Receipt | None:
        """Write the gathered rows as a part.

        Returns:
            Its receipt; None if there were no rows.

        Raises:
            StorageError: The part cannot be written; the rows are still held, and `flush` tries again.
        """
        if not self._rows:
            return None
        # Sorted, so that row groups cover narrow ranges and a reader of one image skips the others.
        rows = sorted(self._rows, key=lambda row: row.uri)
        data = _encode(rows, self._run_id, self._model_digest, self._size_bytes)
        path = f"part-{self._run_id}-{self._name_factory()}.parquet"
        storage.write_atomically(storage.join(self._root, path), data)
        scored = sum(row.status == Status.SCORED for row in rows)
        receipt = Receipt(
            path=path,
            size_bytes=len(data),
            rows=len(rows),
            scored=scored,
            rejected=len(rows) - scored,
            sha256=hashlib.sha256(data).hexdigest(),
            stats=_statistics(rows),
        )
        self._rows, self._size_bytes = [], 0
        return receipt


def _encode(rows: Sequence[MapRow], run_id: str, model_digest: str, size_bytes: int) -> bytes:
    table = rows_to_arrow(rows)
    # The file says whose it is, so that an orphan can be recognised without its receipt.
    about = json.dumps({"run_id": run_id, "model_digest": model_digest})
    sink = pa.BufferOutputStream()
    pq.write_table(
        table.replace_schema_metadata({"densecast": about}),
        sink,
        compression="zstd",
        use_dictionary=_DICTIONARY_COLUMNS,
        write_statistics=list(STATISTICS_COLUMNS),
        row_group_size=max(1, len(rows) * ROW_GROUP_BYTES // max(size_bytes, 1)),
    )
    return bytes(sink.getvalue())


def _statistics(rows: Sequence[MapRow]) -> str:
    lowest: dict[str, str] = {}
    highest: dict[str, str] = {}
    nulls: dict[str, int] = {}
    for name in STATISTICS_COLUMNS:
        values: list[Any] = [getattr(row, name) for row in rows]
        present = [value for value in values if value is not None]
        nulls[name] = len(values) - len(present)
        if present:
            lowest[name], highest[name] = min(present), max(present)
    return json.dumps({"numRecords": len(rows), "minValues": lowest, "maxValues": highest, "nullCount": nulls})
