"""Are two tables of maps the same? Row for row and bit for bit, but for what says which run made a row, and when.

Two passes: the first keeps a digest of every row (some 200 bytes and the address each, of both tables), whatever the
maps weigh; the second reads the rows whose digests differ, a few at a time, and says in which columns they do.

With a tolerance, the floats that an engine computes may differ by it, for an engine's kernels may round otherwise at
another place of a batch or on another processor. A pass between the two takes out the rows that differ in no more.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from pydantic import BaseModel, ConfigDict

from pipeline.errors import TableError
from pipeline.maps.classification_map import CellScores
from pipeline.maps.encoding import decode
from pipeline.maps.recipe import Form
from pipeline.table.row_decoding import scalars
from pipeline.table.schema import IDENTITY

VARYING: Mapping[str, str] = {
    "run_id": "every run has a name of its own",
    "scored_at": "when the row was made",
}
"""The columns in which the same rows of two tables may differ, and why."""

ENGINE_FLOATS = ("scores", "residual", "probabilities", "features")
"""The columns of floats that an engine computes. `map_digest` is a function of them; everything else is exact."""

TOLERANCE = 1e-6
"""By how much tables of two runs may differ in `ENGINE_FLOATS`. On an AMD Zen 3 the place in a batch makes 2.4e-7."""

EXAMPLES = 5
"""Rows that a report names of each kind."""

LOOKED_INTO = 4096
"""Of more rows that differ a report says only how many there are."""

_BATCH_ROWS = 64  # of maps
_CHUNK = 256  # rows that are held while they are compared


class Slot(NamedTuple):
    """Which row of a table: the columns of `pipeline.table.rows.IDENTITY`."""

    uri: str
    scale: float
    tile_index: int


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Side(_Model):
    """What one of the two tables has, and what of the other's it lacks.

    Attributes:
        rows: How many rows it has.
        missing: How many rows of the other table it has not.
        missing_examples: A few of them.
        repeated: How many rows it has beyond one for each image, scale and tile.
        repeated_examples: A few of them.
        columns: Columns that it has alone, or with another type than the other table's.
    """

    rows: int
    missing: int
    missing_examples: tuple[Slot, ...]
    repeated: int
    repeated_examples: tuple[Slot, ...]
    columns: tuple[str, ...]


class ColumnDifference(_Model):
    """A column in which rows differ.

    Attributes:
        column: Its name.
        rows: How many of the rows that were looked into differ in it.
        first: The first of them, by address, scale and tile.
        left: What the one table has there, shortened.
        right: What the other has.
        largest: The largest absolute difference of two numbers in it; None where it holds none, or where they do not
            stand side by side.
    """

    column: str
    rows: int
    first: Slot
    left: str
    right: str
    largest: float | None


class TableDiff(_Model):
    """How two tables compare.

    Attributes:
        left: The one table.
        right: The other.
        tolerance: By how much `ENGINE_FLOATS` may differ.
        differing: How many rows are in both, and differ by more.
        looked_into: How many of those were compared column by column; `LOOKED_INTO` at most.
        columns: In which columns, the one with most rows first.
        rounded: How many rows are equal within the tolerance, but not to the last bit.
        largest_rounding: The largest absolute difference of two numbers in those rows; 0 without any.
    """

    left: Side
    right: Side
    tolerance: float
    differing: int
    looked_into: int
    columns: tuple[ColumnDifference, ...]
    rounded: int
    largest_rounding: float

    @property
    def equal(self) -> bool:
        """Whether both tables hold the same rows within the tolerance, each once."""
        sides = (self.left, self.right)
        return not self.differing and not any(side.missing or side.repeated or side.columns for side in sides)


def compare(left: Any, right: Any, varying: Collection[str] = VARYING, *, tolerance: float = 0.0) -> TableDiff:
    """Compares two tables.

    Args:
        left: A `pyarrow.dataset.Dataset`, as `MapTable.dataset` gives it; read twice.
        right: The same of the other table.
        varying: Columns that may differ. Those of `IDENTITY`, by which rows are found, may not.
        tolerance: Largest absolute difference of the numbers in `ENGINE_FLOATS`, as they are read, that still counts as
            equal; in a feature with a value above 1, that times its largest absolute value. Where a row differs in
            them, its `map_digest` may differ too. A form that is narrower than float32 may round a difference within
            the tolerance to one beyond it.

    Raises:
        TableError: A table lacks the columns by which rows are found.
        OSError, pyarrow.ArrowException: A part cannot be read.
    """
    types = [{field.name: field.type for field in side.schema if field.name not in varying} for side in (left, right)]
    shared = [name for name, kind in types[0].items() if types[1].get(name) == kind]
    if lacking := [name for name in IDENTITY if name not in shared]:
        raise TableError(f"a table has no {', '.join(lacking)}", why="rows are found by these columns")
    digests: list[dict[Slot, bytes]] = []
    repeated: list[Counter[Slot]] = []
    for side in (left, right):
        found, more = _digests(side, shared)
        digests.append(found)
        repeated.append(more)
    differing = sorted(
        slot
        for slot, digest in digests[0].items()
        if digests[1].get(slot, digest) != digest and not (slot in repeated[0] or slot in repeated[1])
    )
    rounded = _rounded(left, right, shared, differing, tolerance) if tolerance else {}
    differing = [slot for slot in differing if slot not in rounded]
    return TableDiff(
        **{
            name: _side(digests[here], repeated[here], digests[there], set(types[here]) - set(shared))
            for name, here, there in (("left", 0, 1), ("right", 1, 0))
        },
        tolerance=tolerance,
        differing=len(differing),
        looked_into=min(len(differing), LOOKED_INTO),
        columns=_columns(left, right, shared, differing[:LOOKED_INTO], tolerance),
        rounded=len(rounded),
        largest_rounding=max(rounded.values(), default=0.0),
    )


def _side(
    here: Mapping[Slot, bytes], repeated: Counter[Slot], there: Mapping[Slot, bytes], columns: Collection[str]
) -> Side:
    missing = sorted(there.keys() - here.keys())
    return Side(
        rows=len(here) + repeated.total(),
        missing=len(missing),
        missing_examples=tuple(missing[:EXAMPLES]),
        repeated=repeated.total(),
        repeated_examples=tuple(sorted(repeated)[:EXAMPLES]),
        columns=tuple(sorted(columns)),
    )


def _digests(side: Any, columns: list[str]) -> tuple[dict[Slot, bytes], Counter[Slot]]:
    """The digest of every row, and how often rows come again."""
    found: dict[Slot, bytes] = {}
    repeated: Counter[Slot] = Counter()
    for slot, row in _rows(side, columns):
        if slot in found:
            repeated[slot] += 1
            continue
        content = repr([_bits(row[name]) for name in columns]).encode("utf-8", "backslashreplace")
        found[slot] = hashlib.blake2b(content, digest_size=16).digest()
    return found, repeated


def _rows(side: Any, columns: list[str], wanted: Any = None) -> Iterator[tuple[Slot, dict[str, Any]]]:
    """All rows as Arrow scalars by column, or those of the images that a filter asks for."""
    for batch in side.to_batches(columns=columns, filter=wanted, batch_size=_BATCH_ROWS):
        for index in range(batch.num_rows):
            row = scalars(batch, index)
            yield Slot(*(row[name].as_py() for name in IDENTITY)), row


def _columns(
    left: Any, right: Any, columns: list[str], slots: list[Slot], tolerance: float
) -> tuple[ColumnDifference, ...]:
    """The columns in which rows differ."""
    found: dict[str, ColumnDifference] = {}
    for slot, ours, theirs in _pairs(left, right, columns, slots):
        for name in _differing(ours, theirs, columns, tolerance).beyond:
            found[name] = _merged(found.get(name), slot, name, ours, theirs)
    return tuple(sorted(found.values(), key=lambda difference: (-difference.rows, difference.column)))


def _rounded(left: Any, right: Any, columns: list[str], slots: list[Slot], tolerance: float) -> dict[Slot, float]:
    """The rows that differ within the tolerance alone, and by how much."""
    largest: dict[Slot, float] = {}
    for slot, ours, theirs in _pairs(left, right, columns, slots):
        difference = _differing(ours, theirs, columns, tolerance)
        if not difference.beyond:
            distances = (_distance(name, ours, theirs) for name in difference.within)
            largest[slot] = max((distance for distance in distances if distance is not None), default=0.0)
    return largest


class _Differing(NamedTuple):
    """The columns in which two rows differ: within the tolerance, and beyond it."""

    within: tuple[str, ...]
    beyond: tuple[str, ...]


def _differing(left: Mapping[str, Any], right: Mapping[str, Any], columns: list[str], tolerance: float) -> _Differing:
    names = [name for name in columns if _bits(left[name]) != _bits(right[name])]
    floats = [name for name in ENGINE_FLOATS if name in names] if tolerance else []
    within = tuple(name for name in floats if _are_near(name, left, right, tolerance))
    explained = set(within)
    if within and "map_digest" in names and left["map_digest"].is_valid and right["map_digest"].is_valid:
        explained.add("map_digest")
    return _Differing(within, tuple(name for name in names if name not in explained))


def _are_near(name: str, left: Mapping[str, Any], right: Mapping[str, Any], tolerance: float) -> bool:
    """Whether all numbers in a column of `ENGINE_FLOATS` are equal within the tolerance, as they are read."""
    cells, other_cells = _decoded(left), _decoded(right)
    if cells is None or other_cells is None:
        return False
    ours, theirs = _arrays(name, cells), _arrays(name, other_cells)
    return list(ours) == list(theirs) and all(_near(ours[key], theirs[key], tolerance) for key in ours)


def _near(left: Any, right: Any, tolerance: float) -> bool:
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    left, right = left.astype(np.float64), right.astype(np.float64)
    largest = float(np.max(np.abs(left), initial=1.0, where=np.isfinite(left)))
    return np.allclose(left, right, rtol=0, atol=tolerance * largest, equal_nan=True)


def _pairs(
    left: Any, right: Any, columns: list[str], slots: list[Slot]
) -> Iterator[tuple[Slot, dict[str, Any], dict[str, Any]]]:
    """Rows that both tables have, a few held at a time."""
    rest = iter(slots)
    while chunk := list(islice(rest, _CHUNK)):
        ours, theirs = _picked(left, columns, chunk), _picked(right, columns, chunk)
        yield from ((slot, ours[slot], theirs[slot]) for slot in chunk)


def _picked(side: Any, columns: list[str], chunk: Collection[Slot]) -> dict[Slot, dict[str, Any]]:
    wanted = frozenset(chunk)
    uris = pa.array(sorted({slot.uri for slot in chunk}), pa.string())
    return {slot: row for slot, row in _rows(side, columns, pads.field("uri").isin(uris)) if slot in wanted}


def _merged(
    before: ColumnDifference | None, slot: Slot, name: str, left: Mapping[str, Any], right: Mapping[str, Any]
) -> ColumnDifference:
    largest = _distance(name, left, right)
    if before is None:
        values = (_shown(row[name]) for row in (left, right))
        return ColumnDifference(
            column=name, rows=1, first=slot, **dict(zip(("left", "right"), values, strict=True)), largest=largest
        )
    both = [value for value in (before.largest, largest) if value is not None]
    return before.model_copy(update={"rows": before.rows + 1, "largest": max(both, default=None)})


def _bits(value: Any) -> Hashable:
    """An Arrow scalar as something that equals another one's exactly where both are the same to the last bit."""
    if not value.is_valid:
        return None
    kind = value.type
    if pa.types.is_floating(kind):
        return struct.pack("<d", value.as_py())  # NaN equals itself, 0 is not -0
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        items = value.values
        if items.null_count == 0 and pa.types.is_primitive(items.type):
            return len(items), items.to_numpy(zero_copy_only=False).tobytes()
        return tuple(_bits(item) for item in items)
    if pa.types.is_struct(kind):
        return tuple((name, _bits(item)) for name, item in value.items())
    found: Hashable = value.as_py()
    return found


def _distance(name: str, left: Mapping[str, Any], right: Mapping[str, Any]) -> float | None:
    """The largest absolute difference between the numbers of a column; None where there are none to compare."""
    if name in ("probabilities", "features"):
        sides = [_arrays(name, cells) if (cells := _decoded(row)) else {} for row in (left, right)]
        pairs = zip(*(side.values() for side in sides), strict=False)
        return max((d for pair in pairs if (d := _apart(*pair)) is not None), default=None)
    if not all(row[name].is_valid for row in (left, right)):
        return None
    kind = left[name].type
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return _apart(*(row[name].values.to_numpy(zero_copy_only=False) for row in (left, right)))
    if pa.types.is_floating(kind):
        return _apart(*(np.array(row[name].as_py()) for row in (left, right)))
    return None


def _apart(left: Any, right: Any) -> float | None:
    if left.shape != right.shape:
        return None
    return float(np.max(np.abs(left.astype(np.float64) - right), initial=0))


def _decoded(row: Mapping[str, Any]) -> CellScores | None:
    """The map of a row; None where it cannot be read."""
    try:
        return decode(row, Form(row["form"].as_py()), row["map_height"].as_py(), row["map_width"].as_py())
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None


def _arrays(name: str, cells: CellScores) -> dict[str, Any]:
    """What a column of `ENGINE_FLOATS` holds: its array, or one for each feature."""
    if name == "features":
        return {feature.name: feature.values for feature in cells.features}
    array = getattr(cells, name)
    return {} if array is None else {name: array}


def _shown(value: Any) -> str:
    """A value for people: short."""
    if not value.is_valid:
        return "nothing"
    found = value.as_py()
    if isinstance(found, bytes):
        return f"{len(found):,} bytes, {hashlib.sha256(found).hexdigest()[:12]}"
    if isinstance(found, list):
        start = ", ".join(map(str, found[:4]))[:80]
        return f"{len(found):,} values: {start}{', ...' if len(found) > 4 else ''}"
    text = str(found)
    return text if len(text) <= 100 else f"{text[:99]}…"


def summary(found: TableDiff, left: str, right: str) -> list[str]:
    """What a comparison found, in lines for people.

    Args:
        found: The comparison.
        left: What to call the one table.
        right: What to call the other.
    """
    lines = [f"{found.left.rows:,} rows {left}, {found.right.rows:,} rows {right}"]
    if found.rounded:
        lines.append(
            f"{found.rounded:,} rows differ in the last digits only, by up to {found.largest_rounding:.3g} "
            f"({found.tolerance:g} is allowed)"
        )
    for name, side in ((left, found.left), (right, found.right)):
        if side.missing:
            lines.append(f"{name}: {side.missing:,} rows are missing: {_places(side.missing_examples)}")
        if side.repeated:
            lines.append(f"{name}: {side.repeated:,} rows too many: {_places(side.repeated_examples)}")
        if side.columns:
            lines.append(f"{name}: other columns: {', '.join(side.columns)}")
    if found.differing:
        more = "" if found.looked_into == found.differing else f", of which {found.looked_into:,} were looked into"
        lines.append(f"{found.differing:,} rows differ{more}:")
    for column in found.columns:
        apart = "" if column.largest is None else f", by up to {column.largest:.3g}"
        lines.append(
            f"  {column.column} in {column.rows:,} rows{apart}; {_place(column.first)}: "
            f"{column.left} {left}, {column.right} {right}"
        )
    return lines


def _places(slots: Collection[Slot]) -> str:
    return ", ".join(map(_place, slots))


def _place(slot: Slot) -> str:
    return f"{slot.uri} (scale {slot.scale:g}, tile {slot.tile_index})"
