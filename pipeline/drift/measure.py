"""Measures the drift between two versions of a table, part by part.

Parts that both versions share are read once. The images of the other parts are matched by address: this holds 24 bytes
for each image of either version, and the columns of one row group.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from conversion import nearest
from pipeline.drift.statistics import Change, Exceeded, Tally, Thresholds, compare, judge
from pipeline.errors import TableError
from pipeline.storage.address import join
from pipeline.table.log import FOLDER, active_parts, open_delta
from pipeline.table.part_reader import open_part, reading_part
from pipeline.table.reader import MapTable
from pipeline.table.schema import Status, strings
from pipeline.table.summaries import RESTORED

GROUPS = ("all", "same", "model", "edited", "new", "deleted")
"""Groups of images: all; same content and recipe; another model or recipe; another content; only in the later version;
only in the earlier version."""

_Digests = NDArray[np.uint64]
_Codes = NDArray[np.int_]

_SAME, _MODEL, _EDITED, _ALONE = range(4)
_IDENTITY = ["uri", "status", "image_digest", "recipe"]
_COUNTED = [*_IDENTITY, "reason", "tile_index", "map_height", "map_width", "classes", "scores", "model_digest"]
_KEPT_CLASSES = 20  # classes of a group in a report, except of the group "all"


class RunPoint(BaseModel):
    """A run, and the version of the table that it made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    version: int
    model_digest: str


class DriftReport(BaseModel):
    """The differences between a table's maps and those of an earlier run.

    Attributes:
        table: The table.
        run: The run.
        against: The earlier run.
        groups: The changes, by `GROUPS`. New images are compared with all images of the earlier version, deleted images
            with all images of the later version. Groups other than `all` have the 20 classes that changed most.
        thresholds: The limits.
        exceeded: The limits that were exceeded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    run: RunPoint
    against: RunPoint
    groups: dict[str, Change]
    thresholds: Thresholds
    exceeded: tuple[Exceeded, ...]

    @property
    def unchanged(self) -> bool:
        """Whether both versions have the same images, of the same content and recipe, with the same results."""
        everything = self.groups["all"]
        moved = (
            *(side for name in ("model", "edited") for side in (self.groups[name].before, self.groups[name].after)),
            self.groups["new"].after,
            self.groups["deleted"].before,
        )
        same = everything.before == everything.after and not everything.distance
        return same and not any(side.maps or side.rejected for side in moved)

    def judged(self, thresholds: Thresholds) -> DriftReport:
        """Returns the report judged by other thresholds; it has the largest changes, which is all that they need."""
        return self.model_copy(update={"thresholds": thresholds, "exceeded": judge(self.groups, thresholds)})


def measure_drift(
    root: str, run: str | None = None, against: str | None = None, thresholds: Thresholds | None = None
) -> DriftReport:
    """Compares a table after a run with the table after an earlier run.

    Args:
        root: The table, a local path or `scheme://`.
        run: The later run; by default the last.
        against: The earlier run; by default the last one before `run` that added maps, or a restore.
        thresholds: The limits; by default there are none.

    Raises:
        TableError: There is no such table or run, no earlier run, or the parts of a version were vacuumed.
    """
    later, earlier = choose_runs(root, MapTable(root).runs(), run, against)
    tallies = tally_groups(root, earlier.version, later.version)
    groups = {name: compare(*tallies[name]) for name in GROUPS}
    groups = {
        name: group if name == "all" else group.model_copy(update={"classes": group.classes[:_KEPT_CLASSES]})
        for name, group in groups.items()
    }
    limits = thresholds or Thresholds()
    return DriftReport(
        table=str(root), run=later, against=earlier, groups=groups, thresholds=limits, exceeded=judge(groups, limits)
    )


def drift_path(root: str, run_id: str) -> str:
    """Returns the path of a run's drift report."""
    return join(root, FOLDER, "drift", f"{run_id}.json")


def choose_runs(
    root: str, runs: Sequence[Mapping[str, Any]], run: str | None, against: str | None
) -> tuple[RunPoint, RunPoint]:
    """Returns the later and the earlier run.

    Args:
        root: The table, for messages.
        runs: The summaries of its runs, oldest first.
        run: The later run, see `measure_drift`.
        against: The earlier run.

    Raises:
        TableError: There is no such run, or no earlier run.
    """
    by_id = {str(summary.get("run_id")): summary for summary in runs}
    for name in (run, against):
        if name is not None and name not in by_id:
            close = nearest(name, by_id)
            raise TableError(
                f"there is no run {name!r}",
                where=root,
                remedy=f"did you mean {close[0]}?" if close else "list the runs with `densecast runs`",
            )
    if not runs:
        raise TableError("the table has no summaries of runs", where=root, remedy="run again with `densecast score`")
    later = by_id[run] if run is not None else runs[-1]
    if against is not None:
        return _point(later), _point(by_id[against])
    # After a restore the maps are those that it brought back, and not those of the runs that it has undone.
    adding = [summary for summary in runs if summary.get("scored") or RESTORED in summary]
    before = [summary for summary in adding if _point(summary).version < _point(later).version]
    if not before:
        raise NoEarlierRunError(f"no run before {later['run_id']} has added maps that could be compared", where=root)
    return _point(later), _point(before[-1])


class NoEarlierRunError(TableError):
    """A run is the first of its table."""


def tally_groups(root: str, before: int, after: int) -> dict[str, tuple[Tally, Tally]]:
    """Returns the counts of two versions of a table, as (earlier, later) by `GROUPS`.

    Raises:
        TableError: There is no such version, or a part of it cannot be read.
    """
    parts = [_parts(root, version) for version in (before, after)]
    labels = _Labels(MapTable(root).labels)
    shared = _Tallies()
    for part in sorted(parts[0] & parts[1]):
        shared.add(_row_groups(root, part), labels, None)
    changed = [sorted(parts[0] - parts[1]), sorted(parts[1] - parts[0])]
    indices = [_index(batch for part in names for batch in _row_groups(root, part, _IDENTITY)) for names in changed]
    sides = [_Tallies(), _Tallies()]
    for side, names in enumerate(changed):
        for part in names:
            sides[side].add(_row_groups(root, part), labels, indices[1 - side])
    old, new = (side.by_code for side in sides)
    same = (shared.by_code[_SAME] + old[_SAME], shared.by_code[_SAME] + new[_SAME])
    everything = tuple(
        sum((tallies[code] for code in (_MODEL, _EDITED, _ALONE)), part)
        for tallies, part in zip((old, new), same, strict=True)
    )
    return {
        "all": (everything[0], everything[1]),
        "same": same,
        "model": (old[_MODEL], new[_MODEL]),
        "edited": (old[_EDITED], new[_EDITED]),
        "new": (everything[0], new[_ALONE]),
        "deleted": (old[_ALONE], everything[1]),
    }


class _Index(NamedTuple):
    """The images of a version: [n] uint64 each, digests of their address (ascending), content and recipe."""

    uri: _Digests
    content: _Digests
    recipe: _Digests


class _Labels:
    """The names of classes, by model; a name that several classes share is made unique by their numbers."""

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        self._labels = labels
        self._names: dict[str, list[str]] = {}

    def of(self, digest: str) -> list[str]:
        """Returns the names of a model's classes; none if it has no labels."""
        if digest not in self._names:
            labels = list(self._labels.get(digest, ()))
            self._names[digest] = [
                label if labels.count(label) == 1 else f"{label} (class {index})" for index, label in enumerate(labels)
            ]
        return self._names[digest]


class _Tallies:
    """Tallies of images by code, `_SAME` to `_ALONE`."""

    def __init__(self) -> None:
        self.by_code: defaultdict[int, Tally] = defaultdict(Tally)

    def add(self, tables: Iterable[pa.Table], labels: _Labels, other: _Index | None) -> None:
        """Adds rows; `other` is the index of the other version, None if it has the same rows."""
        for rows in tables:
            codes = np.full(rows.num_rows, _SAME) if other is None else _codes(rows, other)
            first = rows.column("tile_index").to_numpy() == 0
            statuses = np.array(rows.column("status").to_pylist())
            digests = np.array(rows.column("model_digest").to_pylist())
            scored = statuses == Status.SCORED
            for code in np.unique(codes):
                tally = self.by_code[int(code)]
                here = codes == code
                tally.maps += int(np.count_nonzero(here & first & scored))
                rejected = rows.filter(pa.array(here & first & (statuses == Status.REJECTED)))
                tally.reasons.update(str(reason) for reason in rejected.column("reason").to_pylist())
                for digest in np.unique(digests[here & scored]):
                    _add_cells(
                        tally, rows.filter(pa.array(here & scored & (digests == digest))), labels.of(str(digest))
                    )


def _add_cells(tally: Tally, rows: pa.Table, names: Sequence[str]) -> None:
    cells = rows.column("map_height").to_numpy().astype(np.int64) * rows.column("map_width").to_numpy()
    classes_per_cell = pc.list_value_length(rows.column("classes")).to_numpy() // np.maximum(cells, 1)
    for k in np.unique(classes_per_cell[classes_per_cell > 0]).tolist():
        rows_of_k = rows.filter(pa.array(classes_per_cell == k))
        # The best class of a cell comes first.
        best, scores = (pc.list_flatten(rows_of_k.column(name)).to_numpy()[::k] for name in ("classes", "scores"))
        tally.add_cells(names, best, scores)


def _codes(rows: pa.Table, other: _Index) -> _Codes:
    """Returns what happened to each row's image: [n] of `_SAME` to `_ALONE`."""
    uri, content, recipe = _digests(rows)
    if not len(other.uri):
        return np.full(len(uri), _ALONE)
    place = np.minimum(np.searchsorted(other.uri, uri), len(other.uri) - 1)
    in_both = other.uri[place] == uri
    edited = other.content[place] != content
    remade = other.recipe[place] != recipe
    return np.select([~in_both, edited, remade], [_ALONE, _EDITED, _MODEL], _SAME)


def _index(tables: Iterable[pa.Table]) -> _Index:
    gathered = [_Index(*_digests(rows)) for rows in tables]
    if not gathered:
        return _Index(*(np.empty(0, np.uint64) for _ in range(3)))
    uri, content, recipe = (np.concatenate(columns) for columns in zip(*gathered, strict=True))
    # All rows of an image have one content and one recipe.
    uri, first = np.unique(uri, return_index=True)
    return _Index(uri, content[first], recipe[first])


def _digests(rows: pa.Table) -> tuple[_Digests, _Digests, _Digests]:
    """Returns digests of address, content and recipe, [n] each."""
    uris = np.fromiter(map(_digest, strings(rows.column("uri"))), np.uint64, rows.num_rows)
    contents = np.fromiter(
        (_digest(d or "") for d in rows.column("image_digest").to_pylist()), np.uint64, rows.num_rows
    )
    recipes = np.fromiter(map(_cached_digest, strings(rows.column("recipe"))), np.uint64, rows.num_rows)
    return uris, contents, recipes


def _digest(text: str) -> int:
    # 64 bits: among ten million images, a collision has a probability of 3 in a million.
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


_cached_digest = lru_cache(1024)(_digest)


def _row_groups(root: str, part: str, columns: Sequence[str] = tuple(_COUNTED)) -> Iterator[pa.Table]:
    """Yields the rows of a part, except those of deleted images, one row group at a time."""
    reading = reading_part(
        root,
        f"the part {part} cannot be read",
        why="it may have been vacuumed, if it belongs to an earlier version, or be damaged",
        remedy="choose a later --against; `densecast check` finds damage; use a longer `vacuum --retention`",
    )
    with reading, open_part(root, part) as file:
        for index in range(len(file.groups)):
            rows = file.read_group(index, columns)
            yield rows.filter(pc.not_equal(rows.column("status"), pa.scalar(Status.DELETED.value)))


def _parts(root: str, version: int) -> set[str]:
    table = open_delta(root, version)
    if table is None:
        raise TableError("there is no table", where=root, remedy="give the path of one")
    return active_parts(table)


def _point(summary: Mapping[str, Any]) -> RunPoint:
    return RunPoint(
        run_id=str(summary.get("run_id", "")),
        version=int(summary.get("version", 0)),
        model_digest=str(summary.get("model_digest", "")),
    )
