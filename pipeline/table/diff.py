"""Are two tables of maps the same? Row for row and bit for bit, but for what says which run made a row, and when.

Two passes: the first keeps a digest of every row (some 200 bytes and the address each, of both tables), whatever the
maps weigh; the second reads the rows whose digests differ, a few at a time, and says in which columns they do.
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
from pipeline.table.rows import IDENTITY

VARYING: Mapping[str, str] = {
    "run_id": "every run has a name of its own",
    "scored_at": "when the row was made",
}
"""The columns in which the same rows of two tables may differ, and why."""

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


class Equivalence(_Model):
    """How two tables compare.

    Attributes:
        left: The one table.
        right: The other.
        differing: How many rows are in both, and differ.
        looked_into: How many of those were compared column by column; `LOOKED_INTO` at most.
        columns: In which columns, the one with most rows first.
    """

    left: Side
    right: Side
    differing: int
    looked_into: int
    columns: tuple[ColumnDifference, ...]

    @property
    def equal(self) -> bool:
        """Whether both tables hold the same rows, each once."""
        sides = (self.left, self.right)
        return not self.differing and not any(side.missing or side.repeated or side.columns for side in sides)


def compare(left: Any, right: Any, varying: Collection[str] = VARYING) -> Equivalence:
    """Compares two tables.

    Args:
        left: A `pyarrow.dataset.Dataset`, as `MapTable.dataset` gives it; read twice.
        right: The same of the other table.
        varying: Columns that may differ. Those of `IDENTITY`, by which rows are found, may not.

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
    return Equivalence(
        **{
            name: _side(digests[here], repeated[here], digests[there], set(types[here]) - set(shared))
            for name, here, there in (("left", 0, 1), ("right", 1, 0))
        },
        differing=len(differing),
        looked_into=min(len(differing), LOOKED_INTO),
        columns=_columns(left, right, shared, differing[:LOOKED_INTO]),
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


def _columns(left: Any, right: Any, columns: list[str], slots: list[Slot]) -> tuple[ColumnDifference, ...]:
    """The columns in which rows differ."""
    found: dict[str, ColumnDifference] = {}
    rest = iter(slots)
    while chunk := list(islice(rest, _CHUNK)):
        ours, theirs = _picked(left, columns, chunk), _picked(right, columns, chunk)
        for slot in chunk:
            for name in columns:
                if _bits(ours[slot][name]) != _bits(theirs[slot][name]):
                    found[name] = _merged(found.get(name), slot, name, ours[slot], theirs[slot])
    return tuple(sorted(found.values(), key=lambda difference: (-difference.rows, difference.column)))


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
        pairs = zip(*(_decoded(row, name) for row in (left, right)), strict=False)
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


def _decoded(row: Mapping[str, Any], name: str) -> list[Any]:
    """The probabilities of a row, or its features, as arrays; none where they cannot be read."""
    try:
        cells: CellScores = decode(row, Form(row["form"].as_py()), row["map_height"].as_py(), row["map_width"].as_py())
    except (ValueError, TypeError, AttributeError, IndexError, KeyError):
        return []
    if name == "features":
        return [feature.values for feature in cells.features]
    return [] if cells.probabilities is None else [cells.probabilities]


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


def summary(found: Equivalence, left: str, right: str) -> list[str]:
    """What a comparison found, in lines for people.

    Args:
        found: The comparison.
        left: What to call the one table.
        right: What to call the other.
    """
    lines = [f"{found.left.rows:,} rows {left}, {found.right.rows:,} rows {right}"]
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
