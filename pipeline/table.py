"""Reading a table of classification maps.

The table is a plain Delta Lake table, so other readers need nothing of ours. DuckDB scans `MapTable.dataset()` as it
is, offline and with its filters pushed down: `maps = table.dataset(); duckdb.sql("SELECT uri FROM maps")`.
"""

import difflib
import heapq
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.fs as pafs
from deltalake.exceptions import DeltaError

from pipeline import storage
from pipeline.errors import TableError
from pipeline.maps import ClassificationMap
from pipeline.publishing import FOLDER, check_columns, delta_location, open_delta
from pipeline.rows import Status, storable
from pipeline.stored import MAP_COLUMNS, map_from_row, scalars

_BATCH_ROWS = 64
_SUGGESTIONS = 3
_COMPARED_NAMES = 1000  # comparing names in earnest is slow
_MATCH_COLUMNS = [
    *("key", "uri", "id", "status", "reason", "detail", "scale", "form", "model_digest", "run_id", "scored_at")
]


class Rejection(NamedTuple):
    """An image that has no map.

    Attributes:
        uri: The image.
        reason: One of `pipeline.rejection.Reason`.
        detail: What happened, for people.
    """

    uri: str
    reason: str
    detail: str


class Counts(NamedTuple):
    """How many rows a table has.

    Attributes:
        by_status: Rows by `scored` and `rejected`; both are always there.
        by_reason: Rejected rows by reason, most frequent first.
    """

    by_status: dict[str, int]
    by_reason: dict[str, int]


class MapTable:
    """A table of classification maps as it was at one version; iterating gives its maps, one at a time.

    Args:
        root: The table, a local path or `scheme://`.
        version: Which version to read; None: the newest.

    Raises:
        TableError: There is no table at `root`, or none of densecast's, or not that version of it.
    """

    def __init__(self, root: str | os.PathLike[str], version: int | None = None) -> None:
        root = os.fspath(root)
        table = open_delta(root, version)
        if table is None:
            raise _no_table(root)
        check_columns(root, table)
        self._root, self._table = root, table
        self._labels: dict[str, tuple[str, ...]] = {}

    @property
    def version(self) -> int:
        """The version that is read."""
        return self._table.version()

    @property
    def schema(self) -> Any:
        """The columns, as a `pyarrow.Schema`."""
        return self._dataset.schema

    @cached_property
    def _dataset(self) -> Any:
        return self._table.to_pyarrow_dataset(filesystem=_filesystem(self._root))

    def dataset(self) -> Any:
        """The table as a `pyarrow.dataset.Dataset`: lazy, for DuckDB, Polars, pandas and Arrow itself."""
        return self._dataset

    def files(self) -> list[str]:
        """The Parquet files of this version, as absolute paths or URIs; no others in the folder count."""
        uris = self._table.file_uris()
        # deltalake leaves local paths percent-encoded, and a folder whose name has a space could not be opened.
        return sorted(uris if storage.is_remote(self._root) else map(unquote, uris))

    def to_arrow(self, columns: Sequence[str] | None = None) -> Any:
        """All rows as a `pyarrow.Table`, in memory; name the columns to leave the bulky ones on disk.

        Raises:
            TableError: There is no such column, or a part cannot be read.
        """
        unknown = [name for name in columns or () if name not in self.schema.names]
        if unknown:
            raise TableError(
                f"there is no column {', '.join(map(repr, unknown))}",
                where=self._root,
                remedy=f"the columns are {', '.join(self.schema.names)}",
            )
        with _reading(self._root):
            return self._dataset.to_table(columns=None if columns is None else list(columns))

    def __len__(self) -> int:
        with _reading(self._root):
            return int(self._dataset.count_rows(filter=pads.field("status") == Status.SCORED.value))

    def __iter__(self) -> Iterator[ClassificationMap]:
        # Part by part, and few rows at a time: scanning the dataset as a whole would read ahead up to a gigabyte.
        condition = pads.field("status") == Status.SCORED.value
        with _reading(self._root):
            # By name: two iterations give one order, whatever order the log has.
            for part in sorted(self._dataset.get_fragments(filter=condition), key=lambda part: str(part.path)):
                batches = part.to_batches(
                    schema=self.schema, columns=list(MAP_COLUMNS), filter=condition, batch_size=_BATCH_ROWS
                )
                for batch in batches:
                    for index in range(batch.num_rows):
                        yield self._map(scalars(batch, index))

    def rejections(self) -> Iterator[Rejection]:
        """The rejected images, in no particular order.

        Raises:
            TableError: A part cannot be read.
        """
        columns = list(Rejection._fields)
        for batch in self._batches(columns, pads.field("status") == Status.REJECTED.value):
            for row in batch.select(columns).to_pylist():
                yield Rejection(row["uri"], row["reason"] or "", row["detail"] or "")

    def counts(self) -> Counts:
        """How many rows there are, by status and by reason.

        Raises:
            TableError: A part cannot be read.
        """
        statuses = Counter({status.value: 0 for status in Status})
        reasons: Counter[str] = Counter()
        for batch in self._batches(["status", "reason"], None):
            statuses.update(batch.column("status").to_pylist())
            reasons.update(reason for reason in batch.column("reason").to_pylist() if reason is not None)
        return Counts(dict(statuses), dict(reasons.most_common()))

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The class labels of every model that has written here, by its digest.

        Raises:
            TableError: A file of metadata is damaged.
        """
        for path in storage.list_files(storage.join(self._root, FOLDER, "models"), ".json"):
            self._labels_of(path.rsplit("/", 1)[-1].removesuffix(".json"))
        return dict(self._labels)

    def runs(self) -> list[dict[str, Any]]:
        """The summaries of the runs that this version holds, oldest first.

        Raises:
            TableError: A summary is damaged.
        """
        paths = storage.list_files(storage.join(self._root, FOLDER, "runs"), ".json")
        summaries = [_read_json(path) for path in paths]
        known = [summary for summary in summaries if summary.get("version", 0) <= self.version]
        return sorted(known, key=lambda summary: int(summary.get("version", 0)))

    def read(self, image: str, *, key: str = "") -> ClassificationMap:
        """The map of one image.

        Args:
            image: Its uri, its path as it would be typed, its own id, or the key of the map.
            key: How the map's key begins, where an image has several maps.

        Raises:
            TableError: There is no such image, it was rejected (the message says why), or it has several maps.
        """
        rows = self._matches(image)
        if not rows:
            raise self._no_image(image)
        chosen = [row for row in rows if row["key"].startswith(key)]
        scored = {(row["uri"], row["key"]): row for row in chosen if row["status"] == Status.SCORED}
        if len(scored) > 1:
            raise TableError(
                f"{image!r} has {len(scored)} maps:{''.join(_describe(row) for row in scored.values())}",
                where=self._root,
                remedy="give the uri of the image, and the key of the map if the uri is not enough",
            )
        if not chosen:
            raise TableError(
                f"no map of {image!r} has a key that begins with {key!r}; it has"
                f" {', '.join(row['key'][:12] for row in rows)}",
                where=self._root,
            )
        if not scored:
            row = chosen[-1]
            raise TableError(
                f"{row['uri']} has no map: it was rejected as {row['reason']}",
                where=self._root,
                why=row["detail"] or "",
                remedy="mend or replace the image, then score it again",
            )
        uri, found = next(iter(scored))
        wanted = (pads.field("uri") == uri) & (pads.field("key") == found) & (pads.field("status") == "scored")
        with _reading(self._root):
            table = self._dataset.to_table(columns=list(MAP_COLUMNS), filter=wanted)
        return self._map(scalars(table, 0))

    def _matches(self, image: str) -> list[dict[str, Any]]:
        """The rows that `image` means, without their arrays, oldest first."""
        text = storable(image)
        conditions = [pads.field("uri").isin(_spellings(image)), pads.field("id") == text]
        if re.fullmatch(r"[0-9a-f]{64}", text):
            conditions.append(pads.field("key") == text)
        for condition in conditions:
            with _reading(self._root):
                rows = self._dataset.to_table(columns=_MATCH_COLUMNS, filter=condition).to_pylist()
            if rows:
                return sorted(rows, key=lambda row: row["scored_at"])
        return []

    def _no_image(self, image: str) -> TableError:
        wanted = _base_name(image)
        names = (
            (name, _base_name(name))
            for batch in self._batches(["uri", "id"], None)
            for column in batch.columns
            for name in column.to_pylist()
            if name is not None
        )
        likely = heapq.nlargest(_COMPARED_NAMES, names, key=lambda pair: _likeness(pair[1], wanted))
        by_base = {base: name for name, base in reversed(likely)}
        near = [by_base[base] for base in difflib.get_close_matches(wanted, by_base, n=_SUGGESTIONS)]
        meant = f"did you mean {' or '.join(near)}? " if near else ""
        return TableError(
            f"there is no image {image!r} among {self._dataset.count_rows():,}",
            where=self._root,
            remedy=f"{meant}an image is found by its uri, its path or its id",
        )

    def _map(self, row: Mapping[str, Any]) -> ClassificationMap:
        return map_from_row(row, self._labels_of(row["model_digest"].as_py()))

    def _labels_of(self, digest: str) -> tuple[str, ...]:
        if digest not in self._labels:
            path = storage.join(self._root, FOLDER, "models", f"{digest}.json")
            labels = _read_json(path).get("labels") if storage.exists(path) else None
            self._labels[digest] = tuple(str(label) for label in labels or ())
        return self._labels[digest]

    def _batches(self, columns: Iterable[str], condition: Any) -> Iterator[Any]:
        """Batches of narrow columns of all parts."""
        with _reading(self._root):
            yield from self._dataset.to_batches(columns=list(columns), filter=condition)


@contextmanager
def _reading(root: str) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, DeltaError) as error:
        raise TableError(
            f"a part of the table cannot be read: {error}",
            where=root,
            remedy="if the table was vacuumed or copied meanwhile, open it again; else restore the file that is named,"
            " or open an earlier version",
        ) from error


def _filesystem(root: str) -> Any:
    """Arrow's own file system for a table; None where it has none, and deltalake's serves.

    deltalake's is written in Python, and threads of Arrow still call it while the interpreter shuts down: of the
    processes that had read a table through it, one in six to one in two ended in an abort.
    """
    if not storage.is_remote(root):
        return pafs.SubTreeFileSystem(delta_location(root), pafs.LocalFileSystem())
    try:
        filesystem, path = pafs.FileSystem.from_uri(root)
    except (pa.ArrowException, OSError):
        return None
    return pafs.SubTreeFileSystem(path, filesystem)


def _no_table(root: str) -> TableError:
    found = "is a remote folder without a Delta log"
    if not storage.is_remote(root):
        path = storage.local_path(root)
        if not path.exists():
            found = "does not exist"
        elif path.is_file():
            found = "is a file"
        elif (path / "densecast.json").exists() or (path / "saved_model.pb").exists():
            found = "is a model"
        else:
            entries = sum(1 for _ in path.iterdir())
            found = f"is a folder of {entries} entries without a Delta log" if entries else "is an empty folder"
    return TableError(
        f"there is no table: this {found}",
        where=root,
        why="a table is a folder with a Delta log, _delta_log",
        remedy="make one with `densecast score`, or give the path that was its output",
    )


def _spellings(image: str) -> list[str]:
    """The uris that an image may have been listed under, given what a person types."""
    names = [image]
    if not storage.is_remote(image):
        try:
            path = storage.local_path(image)
        except storage.StorageError:
            return [storable(image)]
        absolute = path.absolute()
        for candidate in (path, absolute, absolute.resolve()):
            names += [str(candidate), *([candidate.as_uri()] if candidate.is_absolute() else [])]
            names.append(f"file://{candidate}")
    return list(dict.fromkeys(storable(name) for name in names))


def _base_name(name: str) -> str:
    return name.rstrip("/").rsplit("/", 1)[-1].casefold()


def _likeness(name: str, wanted: str) -> int:
    """How many letters two names share at their ends: cheap enough for all names of a collection."""
    length = min(len(name), len(wanted))
    front = next((i for i in range(length) if name[i] != wanted[i]), length)
    back = next((i for i in range(length) if name[-1 - i] != wanted[-1 - i]), length)
    return front + back


def _describe(row: Mapping[str, Any]) -> str:
    return (
        f"\n  {row['uri']} at scale {row['scale']:g}, {row['form']}, model {row['model_digest'][:12]},"
        f" run {row['run_id']}, key {row['key'][:12]}"
    )


def _read_json(path: str) -> dict[str, Any]:
    try:
        content = json.loads(storage.read_bytes(path))
    except ValueError as error:
        raise TableError(
            f"is not valid JSON: {error}", where=path, remedy="restore the file, or delete it and publish again"
        ) from error
    if not isinstance(content, dict):
        raise TableError("is not a JSON object", where=path, remedy="restore the file, or delete it and publish again")
    return content
