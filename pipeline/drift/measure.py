"""The drift between two versions of a table, read part by part.

Parts that both versions share are read once. Of the others the images are matched by address: 24 bytes an image are
held for each version, and one row group's columns at a time.
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
from pydantic import BaseModel, ConfigDict

from conversion import nearest
from pipeline.drift.statistics import Array, Change, Exceeded, Tally, Thresholds, compare, judge
from pipeline.errors import TableError
from pipeline.storage.address import join
from pipeline.table.log import FOLDER, active_parts, open_delta
from pipeline.table.part_reader import open_part, reading_part
from pipeline.table.reader import MapTable
from pipeline.table.schema import Status

GROUPS = ("all", "same", "model", "edited", "new", "deleted")
"""All images; of the same content by the same recipe; by another model or recipe; of another content; only in the
later version; only in the earlier one."""

_SAME, _MODEL, _EDITED, _ALONE = range(4)
_IDENTITY = ["uri", "status", "image_digest", "recipe"]
_COUNTED = [*_IDENTITY, "reason", "tile_index", "map_height", "map_width", "classes", "scores", "model_digest"]
_KEPT_CLASSES = 20  # of a group's in a report; all of those of "all"


class RunPoint(BaseModel):
    """A run, and the version of the table that it made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    run_id: str
    version: int
    model_digest: str


class DriftReport(BaseModel):
    """How a table's maps differ from those of an earlier run.

    Attributes:
        table: The table.
        run: The run.
        against: The earlier run.
        groups: By `GROUPS`. New images are compared with all of the earlier version, and deleted ones with all of the
            later. Of groups other than `all` the 20 classes that moved most are kept.
        thresholds: What was too much.
        exceeded: What was exceeded.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    table: str
    run: RunPoint
    against: RunPoint
    groups: dict[str, Change]
    thresholds: Thresholds
    exceeded: tuple[Exceeded, ...]

    def judged(self, thresholds: Thresholds) -> DriftReport:
        """The same by other thresholds; largest changes are kept, so nothing is lost."""
        return self.model_copy(update={"thresholds": thresholds, "exceeded": judge(self.groups, thresholds)})


def measure_drift(
    root: str, run: str | None = None, against: str | None = None, thresholds: Thresholds | None = None
) -> DriftReport:
    """Compares the state of a table after a run with that after another.

    Args:
        root: The table, a local path or `scheme://`.
        run: The later run; by default the last.
        against: The earlier one; by default the last before it that added maps.
        thresholds: What is too much; nothing by default.

    Raises:
        TableError: There is no such table or run, none to compare with, or a version's parts were vacuumed.
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
    """Where the drift of a run is kept."""
    return join(root, FOLDER, "drift", f"{run_id}.json")


def choose_runs(
    root: str, runs: Sequence[Mapping[str, Any]], run: str | None, against: str | None
) -> tuple[RunPoint, RunPoint]:
    """The later and the earlier run, see `measure_drift`; `runs` are summaries, oldest first.

    Raises:
        TableError: There is no such run, or none to compare with.
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
        raise TableError("no run has left a summary", where=root, remedy="run again with `densecast score`")
    later = by_id[run] if run is not None else runs[-1]
    if against is not None:
        return _point(later), _point(by_id[against])
    before = [summary for summary in runs if _point(summary).version < _point(later).version and summary.get("scored")]
    if not before:
        raise NoEarlierRunError(
            f"no run before {later['run_id']} has added maps, so there is nothing to compare with", where=root
        )
    return _point(later), _point(before[-1])


class NoEarlierRunError(TableError):
    """A run is the first of its table."""


def tally_groups(root: str, before: int, after: int) -> dict[str, tuple[Tally, Tally]]:
    """What two versions of a table hold, earlier and later, by `GROUPS`.

    Raises:
        TableError: There is no such version, or a part of it cannot be read.
    """
    parts = [_parts(root, version) for version in (before, after)]
    labels = _Labels(MapTable(root).labels)
    kept = _Tallies()
    for part in sorted(parts[0] & parts[1]):
        kept.add(_row_groups(root, part), labels, None)
    changed = [sorted(parts[0] - parts[1]), sorted(parts[1] - parts[0])]
    indices = [_index(batch for part in names for batch in _row_groups(root, part, _IDENTITY)) for names in changed]
    sides = [_Tallies(), _Tallies()]
    for side, names in enumerate(changed):
        for part in names:
            sides[side].add(_row_groups(root, part), labels, indices[1 - side])
    old, new = (side.by_code for side in sides)
    same = (kept.by_code[_SAME] + old[_SAME], kept.by_code[_SAME] + new[_SAME])
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
    """Images of a version: [n] uint64 each, digests of their address (ascending), content and recipe."""

    uri: Array
    content: Array
    recipe: Array


class _Labels:
    """Names of classes by model; one that several classes share is told apart by their numbers."""

    def __init__(self, labels: Mapping[str, Sequence[str]]) -> None:
        self._labels = labels
        self._names: dict[str, list[str]] = {}

    def of(self, digest: str) -> list[str]:
        """The names of a model's classes; none where it has no labels."""
        if digest not in self._names:
            labels = list(self._labels.get(digest, ()))
            self._names[digest] = [
                label if labels.count(label) == 1 else f"{label} (class {index})" for index, label in enumerate(labels)
            ]
        return self._names[digest]


class _Tallies:
    """Tallies by what became of the images."""

    def __init__(self) -> None:
        self.by_code: defaultdict[int, Tally] = defaultdict(Tally)

    def add(self, batches: Iterable[Any], labels: _Labels, other: _Index | None) -> None:
        """Adds rows; `other` is what the other version has of them, None: the same."""
        for rows in batches:
            codes = np.full(rows.num_rows, _SAME) if other is None else _codes(rows, other)
            first = rows.column("tile_index").to_numpy() == 0
            statuses = np.array(rows.column("status").to_pylist())
            digests = np.array(rows.column("model_digest").to_pylist())
            scored = statuses == Status.SCORED
            for code in np.unique(codes):
                tally = self.by_code[int(code)]
                here = codes == code
                tally.maps += int(np.count_nonzero(here & first & scored))
                refused = rows.filter(pa.array(here & first & (statuses == Status.REJECTED)))
                tally.reasons.update(str(reason) for reason in refused.column("reason").to_pylist())
                for digest in np.unique(digests[here & scored]):
                    _add_cells(
                        tally, rows.filter(pa.array(here & scored & (digests == digest))), labels.of(str(digest))
                    )


def _add_cells(tally: Tally, rows: Any, names: Sequence[str]) -> None:
    cells = rows.column("map_height").to_numpy().astype(np.int64) * rows.column("map_width").to_numpy()
    kept = pc.list_value_length(rows.column("classes")).to_numpy() // np.maximum(cells, 1)
    for k in np.unique(kept[kept > 0]).tolist():
        some = rows.filter(pa.array(kept == k))
        # The best class of a cell comes first.
        best, scores = (pc.list_flatten(some.column(name)).to_numpy()[::k] for name in ("classes", "scores"))
        tally.add_cells(names, best, scores)


def _codes(rows: Any, other: _Index) -> Array:
    """What became of each row's image: [n] of `_SAME` to `_ALONE`."""
    uri, content, recipe = _digests(rows)
    if not len(other.uri):
        return np.full(len(uri), _ALONE)
    place = np.minimum(np.searchsorted(other.uri, uri), len(other.uri) - 1)
    found = other.uri[place] == uri
    edited = other.content[place] != content
    remade = other.recipe[place] != recipe
    return np.select([~found, edited, remade], [_ALONE, _EDITED, _MODEL], _SAME)


def _index(batches: Iterable[Any]) -> _Index:
    gathered = [_Index(*_digests(rows)) for rows in batches]
    if not gathered:
        return _Index(*(np.empty(0, np.uint64) for _ in range(3)))
    uri, content, recipe = (np.concatenate(columns) for columns in zip(*gathered, strict=True))
    # All rows of an image are of one content and one recipe.
    uri, first = np.unique(uri, return_index=True)
    return _Index(uri, content[first], recipe[first])


def _digests(rows: Any) -> tuple[Array, Array, Array]:
    uris = np.fromiter((_digest(uri) for uri in rows.column("uri").to_pylist()), np.uint64, rows.num_rows)
    contents = np.fromiter(
        (_digest(d or "") for d in rows.column("image_digest").to_pylist()), np.uint64, rows.num_rows
    )
    recipes = np.fromiter(map(_cached_digest, rows.column("recipe").to_pylist()), np.uint64, rows.num_rows)
    return uris, contents, recipes


def _digest(text: str) -> int:
    # 64 bits: among ten million images two meet with a probability of 3 in a million.
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest())


_cached_digest = lru_cache(1024)(_digest)


def _row_groups(root: str, part: str, columns: Sequence[str] = tuple(_COUNTED)) -> Iterator[Any]:
    """The rows of a part that are not of deleted images, one row group's columns at a time."""
    reading = reading_part(
        root,
        f"the part {part} cannot be read",
        why="it may have been vacuumed, as one of an earlier version, or be damaged",
        remedy="choose a later --against; `densecast check` reports damage; keep a longer `vacuum --retention`",
    )
    with reading, open_part(root, part) as file:
        for index in range(file.num_row_groups):
            rows = file.read_row_group(index, columns=list(columns))
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
