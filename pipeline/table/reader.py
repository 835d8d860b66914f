"""Reading a table of classification maps.

The table is a plain Delta Lake table, so other readers need nothing of ours. DuckDB scans `MapTable.dataset()` as it
is, offline and with its filters pushed down: `maps = table.dataset(); duckdb.sql("SELECT uri FROM maps")`.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow.dataset as pads

from pipeline.errors import TableError
from pipeline.maps.classification_map import ClassificationMap
from pipeline.maps.fusion import fuse
from pipeline.storage.address import is_remote
from pipeline.storage.options import StorageOptions
from pipeline.table.log import FOLDER, check_columns, open_delta
from pipeline.table.lookup import find_rows, maps_among, no_map, no_scale, no_table, reading, several_maps
from pipeline.table.part_reader import arrow_filesystem
from pipeline.table.paths import TableRoot
from pipeline.table.row_decoding import MAP_COLUMNS, map_from_rows, scalars
from pipeline.table.schema import Status
from pipeline.table.summaries import read_json

_BATCH_ROWS = 64  # of maps
_LISTED_ROWS = 4096  # without arrays
_SCORED = pads.field("status") == Status.SCORED.value
_ONCE = pads.field("tile_index") == 0
"""One row for each map."""


class Rejection(NamedTuple):
    """An image that has no map.

    Attributes:
        uri: The image.
        reason: One of `pipeline.rejection.Reason`.
        detail: What happened, for people.
        scales: At which scales; an image may have maps at others.
    """

    uri: str
    reason: str
    detail: str
    scales: tuple[float, ...] = (1.0,)


class Deletion(NamedTuple):
    """An image that had a map, or a rejection, until it left the collection.

    Attributes:
        uri: The image.
        id: Its owner's name for it, if any.
        run_id: The run that did not find it any more.
    """

    uri: str
    id: str | None
    run_id: str


class Counts(NamedTuple):
    """How many maps a table has, and what it has instead of maps: one for each image and scale, however many tiles.

    Attributes:
        by_status: `scored`, `rejected` and `deleted`; all are always there.
        by_reason: Rejections by reason, most frequent first.
    """

    by_status: dict[str, int]
    by_reason: dict[str, int]


class MapTable:
    """A table of classification maps as it was at one version; iterating gives its maps, one at a time.

    Args:
        root: The table, a local path or `scheme://`.
        version: Which version to read; None: the newest.
        storage_options: How the object store of the table is opened, as `{"aws_region": "eu-west-1"}`; None: as the
            environment says.

    Raises:
        TableError: There is no table at `root`, or it is not one of densecast's, or has no such version.
        CredentialsError: There is no such storage option, or a value is malformed.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        version: int | None = None,
        *,
        storage_options: StorageOptions | Mapping[str, str] | None = None,
    ) -> None:
        root = TableRoot(os.fspath(root), storage_options)
        table = open_delta(root, version)
        if table is None:
            raise no_table(root)
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
        return self._table.to_pyarrow_dataset(filesystem=arrow_filesystem(self._root))

    def dataset(self) -> Any:
        """The table as a `pyarrow.dataset.Dataset`: lazy, for DuckDB, Polars, pandas and Arrow itself."""
        return self._dataset

    def files(self) -> list[str]:
        """The Parquet files of this version, as absolute paths or URIs; no others in the folder count."""
        uris = self._table.file_uris()
        # deltalake leaves local paths percent-encoded, and a folder whose name has a space could not be opened.
        return sorted(uris if is_remote(self._root) else map(unquote, uris))

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
        with reading(self._root):
            return self._dataset.to_table(columns=None if columns is None else list(columns))

    def __len__(self) -> int:
        with reading(self._root):
            return int(self._dataset.count_rows(filter=_SCORED & _ONCE))

    def __iter__(self) -> Iterator[ClassificationMap]:
        # Part by part, and few rows at a time: scanning the dataset as a whole would read ahead up to a gigabyte.
        condition = _SCORED & (pads.field("tile_count") == 1)
        with reading(self._root):
            # By name: two iterations give one order, whatever order the log has.
            for part in sorted(self._dataset.get_fragments(filter=condition), key=lambda part: str(part.path)):
                batches = part.to_batches(
                    schema=self.schema, columns=list(MAP_COLUMNS), filter=condition, batch_size=_BATCH_ROWS
                )
                for batch in batches:
                    for index in range(batch.num_rows):
                        yield self._map([scalars(batch, index)])
            # The tiles of an image may lie in several parts.
            tiled = self._dataset.to_table(columns=["uri", "key"], filter=_SCORED & (pads.field("tile_count") != 1))
        for row in _distinct(tiled, ["uri", "key"]):
            yield self._read(row["uri"], row["key"])

    def rejections(self) -> Iterator[Rejection]:
        """The images that have no map, or not at every scale, by uri; their addresses are held in memory.

        Raises:
            TableError: A part cannot be read.
        """
        for row in self._distinct_rows(Status.REJECTED, ["uri", "reason", "detail"]):
            yield Rejection(row["uri"], row["reason"] or "", row["detail"] or "", tuple(row["scales"]))

    def deleted(self) -> Iterator[Deletion]:
        """The images that the collection has no longer, by uri; their addresses are held in memory.

        Raises:
            TableError: A part cannot be read.
        """
        for row in self._distinct_rows(Status.DELETED, ["uri", "id", "run_id"]):
            yield Deletion(row["uri"], row["id"], row["run_id"])

    def _distinct_rows(self, status: Status, columns: list[str]) -> Iterator[dict[str, Any]]:
        condition = (pads.field("status") == status.value) & _ONCE
        with reading(self._root):
            table = self._dataset.to_table(columns=[*columns, "scale"], filter=condition)
        return _distinct(table, columns)

    def counts(self) -> Counts:
        """How many maps, rejections and deletions there are, and how many rejections for which reason.

        Raises:
            TableError: A part cannot be read.
        """
        statuses = Counter({status.value: 0 for status in Status})
        reasons: Counter[str] = Counter()
        with reading(self._root):
            for batch in self._dataset.to_batches(columns=["status", "reason"], filter=_ONCE):
                statuses.update(batch.column("status").to_pylist())
                reasons.update(reason for reason in batch.column("reason").to_pylist() if reason is not None)
        return Counts(dict(statuses), dict(reasons.most_common()))

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """The class labels of every model that has written here, by its digest.

        Raises:
            TableError: A file of metadata is damaged.
        """
        for path in self._root.store.list_files(self._root.path(FOLDER, "models"), ".json"):
            self._labels_of(path.rsplit("/", 1)[-1].removesuffix(".json"))
        return dict(self._labels)

    def runs(self) -> list[dict[str, Any]]:
        """The summaries of the runs that this version holds, oldest first.

        Raises:
            TableError: A summary is damaged.
        """
        paths = self._root.store.list_files(self._root.path(FOLDER, "runs"), ".json")
        summaries = [read_json(self._root, path) for path in paths]
        known = [summary for summary in summaries if summary.get("version", 0) <= self.version]
        return sorted(known, key=lambda summary: int(summary.get("version", 0)))

    def read(self, image: str, *, scale: float | None = None, key: str = "") -> ClassificationMap:
        """The map of one image at one scale; of a huge image, its tiles put together.

        Args:
            image: Its uri, its path as it would be typed, its own id, or the key of the map.
            scale: Which map, where the image has several.
            key: How the map's key begins, where that is not enough.

        Raises:
            TableError: There is no such image, it was rejected or deleted (the message says why and when), or it has
                several maps.
            MapError: Its rows contradict each other, or a tile is missing.
        """
        rows = find_rows(self._dataset, self._root, image, key)
        maps = self._maps_among(rows)
        if scale is not None:
            maps = [row for row in maps if row["scale"] == scale]
            if not maps:
                raise no_scale(self._root, image, scale, rows)
        if len(maps) > 1:
            raise several_maps(self._root, image, maps)
        return self._read(maps[0]["uri"], maps[0]["key"])

    def scales(self, image: str) -> tuple[float, ...]:
        """The scales at which an image has a map, ascending; at least one.

        Raises:
            TableError: As `read`.
        """
        return tuple(row["scale"] for row in self._of_all_scales(image))

    def fused(self, image: str) -> ClassificationMap:
        """One map of an image from its maps at all scales, see `pipeline.maps.fusion.fuse`; `fused_from` says which.

        A scale at which the image was rejected (too small, say) is not among them.

        Raises:
            TableError: As `read`.
            MapError: As `read`.
        """
        rows = self._of_all_scales(image)
        maps = [self._read(row["uri"], row["key"]) for row in rows]
        return fuse(maps, max(row["class_count"] for row in rows))

    def _of_all_scales(self, image: str) -> list[Mapping[str, Any]]:
        maps = self._maps_among(find_rows(self._dataset, self._root, image))
        if len({row["uri"] for row in maps}) > 1 or len({row["scale"] for row in maps}) < len(maps):
            raise several_maps(self._root, image, maps)
        return maps

    def _maps_among(self, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        maps = maps_among(rows)
        if not maps:
            made = {run.get("run_id"): run.get("version") for run in self.runs()}
            raise no_map(self._root, rows[-1], made.get(rows[-1]["run_id"]))
        return maps

    def _read(self, uri: str, key: str) -> ClassificationMap:
        wanted = (pads.field("uri") == uri) & (pads.field("key") == key) & _SCORED
        with reading(self._root):
            table = self._dataset.to_table(columns=list(MAP_COLUMNS), filter=wanted)
        return self._map([scalars(table, index) for index in range(table.num_rows)])

    def _map(self, rows: Sequence[Mapping[str, Any]]) -> ClassificationMap:
        return map_from_rows(rows, self._labels_of(rows[0]["model_digest"].as_py()))

    def _labels_of(self, digest: str) -> tuple[str, ...]:
        if digest not in self._labels:
            path = self._root.path(FOLDER, "models", f"{digest}.json")
            known = self._root.store.facts(path) is not None
            labels = read_json(self._root, path).get("labels") if known else None
            self._labels[digest] = tuple(str(label) for label in labels or ())
        return self._labels[digest]


def _distinct(table: Any, columns: list[str]) -> Iterator[dict[str, Any]]:
    """The distinct rows by `columns`, sorted by them; with the `scales` of each, if there is a column `scale`."""
    scaled = "scale" in table.column_names
    distinct = table.group_by(columns).aggregate([("scale", "distinct")] if scaled else [])
    ordered = distinct.sort_by([(name, "ascending") for name in columns])
    for batch in ordered.to_batches(max_chunksize=_LISTED_ROWS):
        for row in batch.to_pylist():
            yield {**row, "scales": sorted(row.pop("scale_distinct", ()))}
