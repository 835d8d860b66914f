"""The differences between two tables of maps: row by row and bit by bit, except for the run and the time of a row.

The first pass keeps a digest of every row of both tables: about 200 bytes and the address for each, however large the
maps are. The second pass reads the rows whose digests differ, a few at a time, and compares their columns.

With a tolerance, the floats that an engine computes may differ by it: an engine's kernels may round differently on
another processor, or in another batch. A pass in between removes the rows that differ by no more. Two classes of a cell
may then change places, or replace each other, if their scores are that near.
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
from pydantic import BaseModel, ConfigDict

from pipeline.errors import TableError
from pipeline.maps.classification_map import CellScores
from pipeline.maps.encoding import decode
from pipeline.maps.recipe import Form
from pipeline.table.rounding import Numbers, arrays_of, classes_are_near, numbers_are_near
from pipeline.table.row_decoding import Row, scalars
from pipeline.table.schema import IDENTITY

VARYING: Mapping[str, str] = {
    "run_id": "every run has its own name",
    "scored_at": "the time at which the row was made",
}
"""The columns in which equal rows of two tables may differ, and why."""

ENGINE_FLOATS = ("scores", "residual", "probabilities", "features")
"""The columns of floats that an engine computes; `classes` is their order, and `map_digest` a function of all of them.
All other columns are exact."""

EXAMPLES = 5
"""The number of rows of each kind that a report names."""

LOOKED_INTO = 4096
"""The number of rows whose columns are compared; further rows that differ are only counted."""

_BATCH_ROWS = 64  # of maps
_CHUNK = 256  # rows that are held while they are compared

_Pair: TypeAlias = tuple[Row, Row]


class Slot(NamedTuple):
    """What identifies a row of a table: the columns of `pipeline.table.schema.IDENTITY`."""

    uri: str
    scale: float
    tile_index: int


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Side(_Model):
    """One of the two tables, compared with the other.

    Attributes:
        rows: The number of its rows.
        missing: The number of rows that only the other table has.
        missing_examples: A few of them.
        repeated: The number of rows beyond one for each image, scale and tile.
        repeated_examples: A few of them.
        columns: Columns that the other table lacks, or has with another type.
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
        rows: The number of compared rows that differ in it.
        first: The first of them, by address, scale and tile.
        left: The left table's value in that row, shortened.
        right: The right table's value.
        largest: The largest absolute difference between two numbers; None if the column holds no numbers, or arrays of
            different shapes.
    """

    column: str
    rows: int
    first: Slot
    left: str
    right: str
    largest: float | None


class TableDiff(_Model):
    """The differences between two tables.

    Attributes:
        left: The left table.
        right: The right table.
        tolerance: The allowed difference in `ENGINE_FLOATS`; 0 if all bits have to be equal.
        differing: The number of rows that both tables have and that differ by more.
        looked_into: The number of these that were compared column by column; at most `LOOKED_INTO`.
        columns: The columns in which they differ, the one with most rows first.
        rounded: The number of rows that are equal within the tolerance, but not to the last bit.
        largest_rounding: The largest absolute difference between two numbers in those rows; 0 if there are none.
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
        """Returns whether both tables hold the same rows within the tolerance, each once."""
        sides = (self.left, self.right)
        return not self.differing and not any(side.missing or side.repeated or side.columns for side in sides)


def compare(
    left: pads.Dataset, right: pads.Dataset, varying: Collection[str] = VARYING, *, tolerance: float = 0.0
) -> TableDiff:
    """Returns the differences between two tables.

    Args:
        left: The left table, as `MapTable.dataset` returns it; read twice.
        right: The right table.
        varying: Columns that may differ; those of `IDENTITY` may not.
        tolerance: The largest absolute difference of decoded numbers in `ENGINE_FLOATS` that counts as equal; in a
            feature with a value above 1, that times its largest absolute value. The `map_digest` of a row that differs
            in them may differ too. A form that is narrower than float32 may round a difference within the tolerance to
            one beyond it.

    Raises:
        TableError: A table lacks a column that identifies rows.
        OSError, pyarrow.ArrowException: A part cannot be read.
    """
    types = [{field.name: field.type for field in side.schema if field.name not in varying} for side in (left, right)]
    shared = [name for name, kind in types[0].items() if types[1].get(name) == kind]
    if lacking := [name for name in IDENTITY if name not in shared]:
        raise TableError(f"a table has no {', '.join(lacking)}", why="these columns identify rows")
    digests: list[dict[Slot, bytes]] = []
    repeated: list[Counter[Slot]] = []
    for side in (left, right):
        row_digests, repetitions = _digests(side, shared)
        digests.append(row_digests)
        repeated.append(repetitions)
    differing = sorted(
        slot
        for slot, digest in digests[0].items()
        if digests[1].get(slot, digest) != digest and not (slot in repeated[0] or slot in repeated[1])
    )
    rounded = _rounded(left, right, shared, differing, tolerance=tolerance) if tolerance else {}
    differing = [slot for slot in differing if slot not in rounded]
    return TableDiff(
        **{
            name: _side(digests[here], repeated[here], digests[there], set(types[here]) - set(shared))
            for name, here, there in (("left", 0, 1), ("right", 1, 0))
        },
        tolerance=tolerance,
        differing=len(differing),
        looked_into=min(len(differing), LOOKED_INTO),
        columns=_compare_columns(left, right, shared, differing[:LOOKED_INTO], tolerance=tolerance),
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


def _digests(side: pads.Dataset, columns: list[str]) -> tuple[dict[Slot, bytes], Counter[Slot]]:
    """Returns the digest of every row, and the number of its repetitions."""
    digests: dict[Slot, bytes] = {}
    repeated: Counter[Slot] = Counter()
    for slot, row in _rows(side, columns):
        if slot in digests:
            repeated[slot] += 1
            continue
        content = repr([_bits(row[name]) for name in columns]).encode("utf-8", "backslashreplace")
        digests[slot] = hashlib.blake2b(content, digest_size=16).digest()
    return digests, repeated


def _rows(
    side: pads.Dataset, columns: list[str], condition: pads.Expression | None = None
) -> Iterator[tuple[Slot, Row]]:
    """Yields all rows, or those that meet a condition."""
    for batch in side.to_batches(columns=columns, filter=condition, batch_size=_BATCH_ROWS):
        for index in range(batch.num_rows):
            row = scalars(batch, index)
            yield Slot(*(row[name].as_py() for name in IDENTITY)), row


def _compare_columns(
    left: pads.Dataset, right: pads.Dataset, columns: list[str], slots: list[Slot], *, tolerance: float
) -> tuple[ColumnDifference, ...]:
    """Returns the columns in which the rows of some slots differ beyond the tolerance."""
    differences: dict[str, ColumnDifference] = {}
    for slot, pair in _pairs(left, right, columns, slots):
        for name in _differing_columns(pair, columns, tolerance).beyond:
            differences[name] = _add_row(differences.get(name), slot, name, pair)
    return tuple(sorted(differences.values(), key=lambda difference: (-difference.rows, difference.column)))


def _rounded(
    left: pads.Dataset, right: pads.Dataset, columns: list[str], slots: list[Slot], *, tolerance: float
) -> dict[Slot, float]:
    """Returns the slots whose rows differ only within the tolerance, each with its largest difference."""
    rounded: dict[Slot, float] = {}
    for slot, pair in _pairs(left, right, columns, slots):
        differing = _differing_columns(pair, columns, tolerance)
        if not differing.beyond:
            largest = (_largest_difference(name, pair) for name in differing.within)
            rounded[slot] = max((difference for difference in largest if difference is not None), default=0.0)
    return rounded


class _DifferingColumns(NamedTuple):
    """The columns in which two rows differ: within the tolerance, and beyond it."""

    within: tuple[str, ...]
    beyond: tuple[str, ...]


def _differing_columns(pair: _Pair, columns: list[str], tolerance: float) -> _DifferingColumns:
    left, right = pair
    names = [name for name in columns if _bits(left[name]) != _bits(right[name])]
    within = _near_columns(names, pair, tolerance) if tolerance else ()
    explained = set(within)
    if within and "map_digest" in names and left["map_digest"].is_valid and right["map_digest"].is_valid:
        explained.add("map_digest")
    return _DifferingColumns(within, tuple(name for name in names if name not in explained))


def _near_columns(names: Collection[str], pair: _Pair, tolerance: float) -> tuple[str, ...]:
    """Returns those of some columns whose decoded values are equal within a tolerance."""
    left, right = (_decode_map(row) for row in pair)
    if left is None or right is None:
        return ()
    floats = [name for name in ENGINE_FLOATS if name in names and numbers_are_near(name, left, right, tolerance)]
    return (*floats, *(["classes"] if "classes" in names and classes_are_near(left, right, tolerance) else []))


def _pairs(
    left: pads.Dataset, right: pads.Dataset, columns: list[str], slots: list[Slot]
) -> Iterator[tuple[Slot, _Pair]]:
    """Yields the rows of slots that both tables have; a few are held at a time."""
    rest = iter(slots)
    while chunk := list(islice(rest, _CHUNK)):
        left_rows, right_rows = _rows_at(left, columns, chunk), _rows_at(right, columns, chunk)
        yield from ((slot, (left_rows[slot], right_rows[slot])) for slot in chunk)


def _rows_at(side: pads.Dataset, columns: list[str], slots: Collection[Slot]) -> dict[Slot, Row]:
    wanted = frozenset(slots)
    uris = pa.array(sorted({slot.uri for slot in slots}), pa.string())
    return {slot: row for slot, row in _rows(side, columns, pads.field("uri").isin(uris)) if slot in wanted}


def _add_row(before: ColumnDifference | None, slot: Slot, name: str, pair: _Pair) -> ColumnDifference:
    """Returns a column's difference with one more row, given as (left, right)."""
    largest = _largest_difference(name, pair)
    if before is None:
        left, right = (_abbreviate(row[name]) for row in pair)
        return ColumnDifference(column=name, rows=1, first=slot, left=left, right=right, largest=largest)
    both = [value for value in (before.largest, largest) if value is not None]
    return before.model_copy(update={"rows": before.rows + 1, "largest": max(both, default=None)})


def _bits(value: Any) -> Hashable:
    """Returns a value that is equal for two Arrow scalars exactly if they are the same to the last bit."""
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
    content: Hashable = value.as_py()
    return content


def _largest_difference(name: str, pair: _Pair) -> float | None:
    """Returns the largest absolute difference between the numbers of a column; None if no numbers can be compared."""
    if name in ("probabilities", "features"):
        sides = [arrays_of(name, cells) if (cells := _decode_map(row)) else {} for row in pair]
        arrays = zip(*(side.values() for side in sides), strict=False)
        differences = (_largest_absolute(left, right) for left, right in arrays)
        return max((difference for difference in differences if difference is not None), default=None)
    values = [row[name] for row in pair]
    if not all(value.is_valid for value in values):
        return None
    kind = values[0].type
    if pa.types.is_list(kind) and pa.types.is_floating(kind.value_type):
        return _largest_absolute(*(value.values.to_numpy(zero_copy_only=False) for value in values))
    if pa.types.is_floating(kind):
        return _largest_absolute(*(np.array(value.as_py()) for value in values))
    return None


def _largest_absolute(left: Numbers, right: Numbers) -> float | None:
    if left.shape != right.shape:
        return None
    return float(np.max(np.abs(left.astype(np.float64) - right), initial=0))


def _decode_map(row: Row) -> CellScores | None:
    """Returns the map of a row; None if it cannot be decoded."""
    try:
        return decode(row, Form(row["form"].as_py()), row["map_height"].as_py(), row["map_width"].as_py())
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return None


def _abbreviate(value: pa.Scalar[Any]) -> str:
    """Returns a value as a short text for people."""
    if not value.is_valid:
        return "null"
    content = value.as_py()
    if isinstance(content, bytes):
        return f"{len(content):,} bytes, {hashlib.sha256(content).hexdigest()[:12]}"
    if isinstance(content, list):
        start = ", ".join(map(str, content[:4]))[:80]
        return f"{len(content):,} values: {start}{', ...' if len(content) > 4 else ''}"
    text = str(content)
    return text if len(text) <= 100 else f"{text[:99]}…"


def summary(diff: TableDiff, left: str, right: str) -> list[str]:
    """Returns the differences as lines for people.

    Args:
        diff: The differences.
        left: What to call the left table.
        right: What to call the right table.
    """
    lines = [f"{diff.left.rows:,} rows {left}, {diff.right.rows:,} rows {right}"]
    if diff.rounded:
        lines.append(f"{diff.rounded:,} rows differ in the last digits only, by up to {diff.largest_rounding:.3g}")
    for name, side in ((left, diff.left), (right, diff.right)):
        if side.missing:
            lines.append(f"{name}: {side.missing:,} rows are missing: {_format_slots(side.missing_examples)}")
        if side.repeated:
            lines.append(f"{name}: {side.repeated:,} rows too many: {_format_slots(side.repeated_examples)}")
        if side.columns:
            lines.append(f"{name}: other columns: {', '.join(side.columns)}")
    if diff.differing:
        compared = "" if diff.looked_into == diff.differing else f", of which {diff.looked_into:,} were compared"
        lines.append(f"{diff.differing:,} rows differ{compared}:")
    for column in diff.columns:
        largest = "" if column.largest is None else f", by up to {column.largest:.3g}"
        lines.append(
            f"  {column.column} in {column.rows:,} rows{largest}; {_format_slots([column.first])}: "
            f"{column.left} {left}, {column.right} {right}"
        )
    return lines


def _format_slots(slots: Collection[Slot]) -> str:
    return ", ".join(f"{slot.uri} (scale {slot.scale:g}, tile {slot.tile_index})" for slot in slots)
