"""Copy-on-write: a new part replaces one whose rows are dropped, updated, marked as deleted or adopted.

So every Delta reader, not only ours, sees one row for each image, scale and tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import TableError
from pipeline.table.part_file import ROW_GROUP_BYTES, PartFile, Receipt
from pipeline.table.part_reader import Part, open_part, reading_part
from pipeline.table.schema import ARRAYS, Status

Slot = tuple[float, int]
"""(scale, tile index) of one row of an image."""


class Action(StrEnum):
    """A change of existing rows."""

    DROP = "drop"
    UPDATE = "update"  # the map stays; the image has a new version or id, or its file type is known now
    DELETE = "delete"
    ADOPT = "adopt"


class Edit(NamedTuple):
    """A change of the rows of one image in one part.

    Attributes:
        uri: The image.
        part: The part.
        action: One of `Action`.
        version: The image's new version, for UPDATE and ADOPT.
        id: Its owner's name for it.
        slots: The rows to ADOPT; another part may hold the same rows, from a repeated attempt.
        recipe: Digest of the recipe, for UPDATE; empty where it stays.
        label: The label that its list gives it; an empty one keeps the label of the rows.
    """

    uri: str
    part: str
    action: str
    version: str = ""
    id: str = ""
    slots: Sequence[Slot] = ()
    recipe: str = ""
    label: str = ""


_OF_A_MAP = (
    *(*ARRAYS, "reason", "detail", "map_height", "map_width", "geometry", "class_count", "map_digest"),
    "best_labels",
)


def rewrite(root: str, part: str, edits: Sequence[Edit], *, orphan: bool, run_id: str, now: datetime) -> Receipt | None:
    """Writes the part that replaces another.

    Args:
        root: The table.
        part: The part to replace; the file is not changed.
        edits: The changes, by image. The rows of other images are copied unchanged.
        orphan: Whether the part belongs to a dead run; then the rows of other images are left out.
        run_id: The current run.
        now: The current time.

    Returns:
        The receipt of the new part, with the counts of adopted maps and rejections; None if no rows remain.

    Raises:
        TableError: The part cannot be read.
        StorageError: The new part cannot be written.
    """
    by_uri = {edit.uri: edit for edit in edits}
    wanted = pa.array(by_uri, pa.string())
    adopted: Counter[str] = Counter()
    pending: list[pa.Table] = []
    with ExitStack() as stack:
        reading = reading_part(
            root,
            f"the part {part} cannot be read",
            why="its rows have to be copied; nothing was published",
            remedy="find the damage with `densecast check`; if the table was changed meanwhile, run again",
        )
        with reading, open_part(root, part) as file:
            _check_others(root, part, file)
            target = stack.enter_context(PartFile(root, run_id, further=file.further))
            for rows in file.validated_groups():
                edited = pc.is_in(rows.column("uri"), wanted)
                changed = _apply(by_uri, rows.filter(edited), adopted, run_id=run_id, now=now)
                others = rows.filter(pc.invert(edited))
                pending.append(changed if orphan else pa.concat_tables([others, changed]).sort_by("uri"))
                if sum(table.nbytes for table in pending) >= ROW_GROUP_BYTES:
                    _write(target, pending)
        _write(target, pending)
        return target.close(adopted[Status.SCORED], adopted[Status.REJECTED]) if target.rows else None


def _check_others(root: str, part: str, file: Part) -> None:
    """Checks that all rows of a part are densecast's: it copies no others, and must not lose them."""
    if others := file.rows_of_others():
        raise TableError(
            f"the part {part} has {others:,} rows that are not densecast's beside maps that this run replaces",
            where=root,
            why="another program has appended them and then merged the files; nothing was published",
            remedy='delete these rows, as by DeltaTable(...).delete("key IS NULL"), and run again',
        )


def _write(target: PartFile, pending: list[pa.Table]) -> None:
    rows = pa.concat_tables(pending) if pending else None
    pending.clear()
    if rows is not None and rows.num_rows:
        target.write(rows, row_bytes=rows.nbytes // rows.num_rows)


def _apply(edits: Mapping[str, Edit], rows: pa.Table, adopted: Counter[str], *, run_id: str, now: datetime) -> pa.Table:
    """Returns the rows of edited images after the edits; counts the adopted maps and rejections in `adopted`."""
    kept: list[int] = []
    changes: list[Edit] = []
    columns = (rows.column(name).to_pylist() for name in ("uri", "scale", "tile_index", "status"))
    for index, (uri, scale, tile, status) in enumerate(zip(*columns, strict=True)):
        edit = edits[uri]
        adopts = edit.action == Action.ADOPT and (scale, tile) in {tuple(slot) for slot in edit.slots}
        if edit.action == Action.UPDATE or adopts or (edit.action == Action.DELETE and tile == 0):
            kept.append(index)
            changes.append(edit)
            adopted[status] += adopts and tile == 0
    rows = rows.take(pa.array(kept, pa.int64()))
    is_deleted = pa.array([edit.action == Action.DELETE for edit in changes], pa.bool_())
    is_adopted = pa.array([edit.action == Action.ADOPT for edit in changes], pa.bool_())

    def replace(name: str, where: pa.BooleanArray, value: object) -> None:
        nonlocal rows
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        column = pc.if_else(
            where, pa.scalar(value, field.type) if not isinstance(value, pa.Array) else value, rows[name]
        )
        rows = rows.set_column(place, field, column)

    version = pa.array([edit.version or None for edit in changes], pa.string())
    recipe = pa.array([edit.recipe or None for edit in changes], pa.string())
    replace("image_version", pc.invert(is_deleted), version)
    replace("recipe", pc.is_valid(recipe), recipe)
    for name in ("id", "label"):
        given = pa.array([getattr(edit, name) or None for edit in changes], pa.string())
        replace(name, pc.and_(pc.invert(is_deleted), pc.is_valid(given)), given)
    replace("run_id", pc.or_(is_adopted, is_deleted), run_id)
    replace("scored_at", is_deleted, now)
    replace("status", is_deleted, Status.DELETED.value)
    replace("tile_count", is_deleted, 1)
    for name in _OF_A_MAP:
        replace(name, is_deleted, None)
    return rows
