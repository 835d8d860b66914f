"""Reads a table of classification maps.

The table is a plain Delta Lake table, which other programs can read without densecast. DuckDB scans
`MapTable.dataset()` directly, with its filters pushed down:
`maps = table.dataset(); duckdb.sql("SELECT uri FROM maps")`.
"""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.dataset as pads

from pipeline.errors import TableError
from pipeline.maps.classification_map import ClassificationMap
from pipeline.maps.fusion import fuse
from pipeline.sources.reference import resolve
from pipeline.storage.address import is_remote
from pipeline.storage.options import StorageOptions
from pipeline.table.image_root import recorded_root
from pipeline.table.log import FOLDER, open_delta
from pipeline.table.lookup import (
    NarrowRow,
    find_rows,
    maps_among,
    no_map,
    no_scale,
    no_table,
    of_whole_image,
    reading,
    several_maps,
)
from pipeline.table.paths import TableRoot
from pipeline.table.row_decoding import MAP_COLUMNS, Row, map_from_rows, scalars
from pipeline.table.scan import Rows
from pipeline.table.schema import Status, strings
from pipeline.table.summaries import read_json, read_model

_BATCH_ROWS = 64  # of maps
_LISTED_ROWS = 4096  # without arrays
_SCORED = pads.field("status") == Status.SCORED.value
# One row for each map.
_ONCE = pads.field("tile_index") == 0


class Rejection(NamedTuple):
    """An image that was rejected.

    Attributes:
        uri: The image.
        reason: One of `pipeline.rejection.Reason`.
        detail: What happened, for people.
        scales: The scales at which it was rejected; it may have maps at others.
    """

    uri: str
    reason: str
    detail: str
    scales: tuple[float, ...] = (1.0,)


class Deletion(NamedTuple):
    """An image that had a map or a rejection until it was deleted from the collection.

    Attributes:
        uri: The image.
        id: Its owner's name for it, if any.
        run_id: The run that no longer found it.
    """

    uri: str
    id: str | None
    run_id: str


class Counts(NamedTuple):
    """The numbers of maps, rejections and deletions in a table: one for each image and scale; tiles count once.

    Attributes:
        by_status: Counts by status: always `scored`, `rejected` and `deleted`.
        by_reason: Rejections by reason, the most frequent first.
    """

    by_status: dict[str, int]
    by_reason: dict[str, int]


class MapTable:
    """One version of a table of classification maps; iterating yields its maps, one at a time.

    Args:
        root: The table, a local path or `scheme://`.
        version: The version to read; by default the newest.
        storage_options: How the object store of the table is opened, as `{"aws_region": "eu-west-1"}`; by default as
            the environment says.
        image_root: Where the images are, if their addresses are relative; by default where the newest run found them.

    Raises:
        TableError: `root` is not a table, not one of densecast's, or does not have that version.
        CredentialsError: There is no such storage option, or a value is malformed.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        version: int | None = None,
        *,
        storage_options: StorageOptions | Mapping[str, str] | None = None,
        image_root: str | os.PathLike[str] | None = None,
    ) -> None:
        root = TableRoot(os.fspath(root), storage_options)
        table = open_delta(root, version)
        if table is None:
            raise no_table(root)
        self._root, self._table = root, table
        self._labels: dict[str, tuple[str, ...]] = {}
        self._image_root = None if image_root is None else resolve(os.fspath(image_root))

    def __repr__(self) -> str:
        """Returns the place and the version."""
        return f"<MapTable {str(self._root)!r}, version {self.version}>"

    @property
    def version(self) -> int:
        """Returns the version that is read."""
        return self._table.version()

    @property
    def schema(self) -> pa.Schema:
        """Returns the columns."""
        return self._rows.schema

    @cached_property
    def image_root(self) -> str:
        """Returns the folder that the addresses of images are relative to; empty where they are absolute.

        Raises:
            TableError: The summary of a run is damaged.
        """
        return self._image_root if self._image_root is not None else recorded_root(self._root, self._table) or ""

    @cached_property
    def _rows(self) -> Rows:
        return Rows(self._root, self._table)

    def dataset(self) -> pads.Dataset:
        """Returns the table as a lazy dataset, for DuckDB, Polars, pandas and Arrow itself.

        Raises:
            TableError: Another program has rewritten parts in a remote store with types that Arrow's filters do not
                take; `densecast compact` writes them anew.
        """
        with reading(self._root):
            return self._rows.dataset()

    def files(self) -> list[str]:
        """Returns the Parquet files of this version, as absolute paths or URIs; other files of the folder are not."""
        uris = self._table.file_uris()
        # deltalake percent-encodes local paths, which cannot be opened if a folder's name has a space.
        return sorted(uris if is_remote(self._root) else map(unquote, uris))

    def to_arrow(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Returns all rows, in memory; name the columns to leave the bulky ones on disk.

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
            return self._rows.to_table(columns=None if columns is None else list(columns))

    def __len__(self) -> int:
        with reading(self._root):
            return int(self._rows.count_rows(filter=_SCORED & _ONCE))

    def __iter__(self) -> Iterator[ClassificationMap]:
        return self._maps(_SCORED)

    def select(self, *, run: str | None = None, scale: float | None = None) -> Iterator[ClassificationMap]:
        """Yields the maps that a run made, or of one scale, or both; one at a time, as iterating does.

        Args:
            run: The id of the run; None for all runs.
            scale: The scale; 0 for windows, None for all scales.

        Raises:
            TableError: A part cannot be read.
            MapError: The rows of an image contradict each other, or a tile is missing.
        """
        return self._maps(_scored_by(run) if scale is None else _scored_by(run) & (pads.field("scale") == scale))

    def scored_scales(self, *, run: str | None = None) -> tuple[float, ...]:
        """Returns the scales of the maps of the table, or of a run, ascending; 0 stands for windows.

        Raises:
            TableError: A part cannot be read.
        """
        scales: set[float] = set()
        with reading(self._root):
            for batch in self._rows.to_batches(columns=["scale"], filter=_scored_by(run) & _ONCE):
                scales.update(map(float, batch.column("scale").to_numpy()))
        return tuple(sorted(scales))

    def _maps(self, condition: pads.Expression) -> Iterator[ClassificationMap]:
        for row in self._untiled_rows(condition):
            yield self._map([row])
        # The tiles of an image may lie in several parts.
        with reading(self._root):
            tiled = self._rows.to_table(columns=["uri", "key"], filter=condition & (pads.field("tile_count") != 1))
        for row in _distinct(tiled, ["uri", "key"]):
            yield self._read(row["uri"], row["key"])

    def _untiled_rows(self, condition: pads.Expression) -> Iterator[Mapping[str, Any]]:
        condition = condition & (pads.field("tile_count") == 1)
        with reading(self._root):
            # By name: the order of iteration does not depend on the order in the log.
            for batch in self._rows.batches_by_part(MAP_COLUMNS, condition, _BATCH_ROWS):
                yield from (scalars(batch, index) for index in range(batch.num_rows))

    def rejections(self) -> Iterator[Rejection]:
        """Yields the images that were rejected at some scale, by uri; their addresses are held in memory.

        Raises:
            TableError: A part cannot be read.
        """
        for row in self._distinct_rows(Status.REJECTED, ["uri", "reason", "detail"]):
            yield Rejection(row["uri"], row["reason"] or "", row["detail"] or "", tuple(row["scales"]))

    def deleted(self) -> Iterator[Deletion]:
        """Yields the images that were deleted from the collection, by uri; their addresses are held in memory.

        Raises:
            TableError: A part cannot be read.
        """
        for row in self._distinct_rows(Status.DELETED, ["uri", "id", "run_id"]):
            yield Deletion(row["uri"], row["id"], row["run_id"])

    def _distinct_rows(self, status: Status, columns: list[str]) -> Iterator[dict[str, Any]]:
        condition = (pads.field("status") == status.value) & _ONCE
        with reading(self._root):
            table = self._rows.to_table(columns=[*columns, "scale"], filter=condition)
        return _distinct(table, columns)

    def counts(self) -> Counts:
        """Returns the numbers of maps, rejections and deletions, and of rejections by reason.

        Raises:
            TableError: A part cannot be read.
        """
        statuses = Counter({status.value: 0 for status in Status})
        reasons: Counter[str] = Counter()
        with reading(self._root):
            for batch in self._rows.to_batches(columns=["status", "reason"], filter=_ONCE):
                statuses.update(strings(batch.column("status")))
                reasons.update(reason for reason in batch.column("reason").to_pylist() if reason is not None)
        return Counts(dict(statuses), dict(reasons.most_common()))

    @property
    def labels(self) -> Mapping[str, tuple[str, ...]]:
        """Returns the class labels of every model that has written to the table, by the model's digest.

        Raises:
            TableError: The metadata of a model is damaged.
        """
        for path in self._root.store.list_files(self._root.path(FOLDER, "models"), ".json"):
            self._labels_of(path.rsplit("/", 1)[-1].removesuffix(".json"))
        return dict(self._labels)

    def runs(self) -> list[dict[str, Any]]:
        """Returns the summaries of the runs up to this version, oldest first.

        Raises:
            TableError: A summary is damaged.
        """
        paths = self._root.store.list_files(self._root.path(FOLDER, "runs"), ".json")
        summaries = [read_json(self._root, path) for path in paths]
        known = [summary for summary in summaries if summary.get("version", 0) <= self.version]
        return sorted(known, key=lambda summary: int(summary.get("version", 0)))

    def read(self, image: str, *, scale: float | None = None, key: str = "") -> ClassificationMap:
        """Returns the map of one image at one scale; the tiles of a huge image are joined.

        Args:
            image: The image's uri, its path as a person types it, its own id, the key of the map, or the end of the uri
                (as a file's name) if only one image has it.
            scale: The scale; needed if the image has maps at several. 0 is the map of its windows, which is otherwise
                returned only where there is no other.
            key: The beginning of the map's key, if image and scale are ambiguous.

        Raises:
            TableError: There is no such image, it was rejected or deleted (the message says why and when), or it has
                several maps.
            MapError: The image's rows contradict each other, or a tile is missing.
        """
        rows = find_rows(self._rows, self._root, image, key, image_root=self.image_root)
        maps = self._maps_among(rows)
        if scale is not None:
            maps = [row for row in maps if row["scale"] == scale]
            if not maps:
                raise no_scale(self._root, image, scale, rows)
        elif not key:
            maps = of_whole_image(maps)
        if len(maps) > 1:
            raise several_maps(self._root, image, maps)
        return self._read(maps[0]["uri"], maps[0]["key"])

    def scales(self, image: str) -> tuple[float, ...]:
        """Returns the scales at which an image has a map, ascending; at least one; 0 if it has windows alone.

        Raises:
            TableError: As `read`.
        """
        return tuple(row["scale"] for row in self._maps_of(image))

    def fused(self, image: str) -> ClassificationMap:
        """Returns an image's maps at all scales, fused into one, see `pipeline.maps.fusion.fuse`.

        `fused_from` names the scales. A scale at which the image was rejected, as too small for example, is left out.

        Raises:
            TableError: As `read`.
            MapError: As `read`.
        """
        rows = self._maps_of(image)
        maps = [self._read(row["uri"], row["key"]) for row in rows]
        return fuse(maps, max(row["class_count"] for row in rows))

    def _maps_of(self, image: str) -> list[NarrowRow]:
        maps = of_whole_image(self._maps_among(find_rows(self._rows, self._root, image, image_root=self.image_root)))
        if len({row["uri"] for row in maps}) > 1 or len({row["scale"] for row in maps}) < len(maps):
            raise several_maps(self._root, image, maps)
        return maps

    def _maps_among(self, rows: Sequence[NarrowRow]) -> list[NarrowRow]:
        maps = maps_among(rows)
        if not maps:
            versions = {run.get("run_id"): run.get("version") for run in self.runs()}
            raise no_map(self._root, rows[-1], versions.get(rows[-1]["run_id"]))
        return maps

    def _read(self, uri: str, key: str) -> ClassificationMap:
        wanted = (pads.field("uri") == uri) & (pads.field("key") == key) & _SCORED
        with reading(self._root):
            table = self._rows.to_table(columns=list(MAP_COLUMNS), filter=wanted)
        return self._map([scalars(table, index) for index in range(table.num_rows)])

    def _map(self, rows: Sequence[Row]) -> ClassificationMap:
        return map_from_rows(rows, self._labels_of(rows[0]["model_digest"].as_py()))

    def _labels_of(self, digest: str) -> tuple[str, ...]:
        if digest not in self._labels:
            self._labels[digest] = tuple(str(label) for label in read_model(self._root, digest).get("labels") or ())
        return self._labels[digest]


def _scored_by(run: str | None) -> pads.Expression:
    return _SCORED if run is None else _SCORED & (pads.field("run_id") == run)


def _distinct(table: pa.Table, columns: list[str]) -> Iterator[dict[str, Any]]:
    """Yields the distinct values of `columns`, sorted, each with its `scales` if there is a column `scale`."""
    scaled = "scale" in table.column_names
    distinct = table.group_by(columns).aggregate([("scale", "distinct")] if scaled else [])
    ordered = distinct.sort_by([(name, "ascending") for name in columns])
    for batch in ordered.to_batches(max_chunksize=_LISTED_ROWS):
        for row in batch.to_pylist():
            yield {**row, "scales": sorted(row.pop("scale_distinct", ()))}
