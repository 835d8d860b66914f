"""Copy-on-write: a part without the rows that others replace, with those that are adopted or marked.

Any Delta reader, not only ours, then sees one row of each image, scale and tile.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.table.part_file import ROW_GROUP_BYTES, PartFile, Receipt
from pipeline.table.part_reader import open_part, reading_part, row_groups
from pipeline.table.schema import ARRAYS, SCHEMA, Status

Slot = tuple[float, int]
"""(scale, tile index): which row of an image."""


class Action(StrEnum):
    """What is done to rows that exist."""

    DROP = "drop"
    UPDATE = "update"  # the same map, of an image that has another version or id now
    DELETE = "delete"
    ADOPT = "adopt"


class Edit(NamedTuple):
    """What is done to the rows of one image in one part.

    Attributes:
        uri: The image.
        part: The file.
        action: One of `Action`.
        version: The image's version now, for UPDATE and ADOPT.
        id: Its owner's name for it.
        slots: The rows to ADOPT; another part may hold the same ones, of an attempt that was repeated.
    """

    uri: str
    part: str
    action: str
    version: str = ""
    id: str = ""
    slots: Sequence[Slot] = ()


_OF_A_MAP = (*ARRAYS, "reason", "detail", "map_height", "map_width", "geometry", "class_count", "map_digest")


def rewrite(root: str, part: str, edits: Sequence[Edit], *, orphan: bool, run_id: str, now: datetime) -> Receipt | None:
    """Writes the part that takes the place of another.

    Args:
        root: The table.
        part: The part; it stays as it is.
        edits: What is done to the rows of which image. The rows of other images are copied as they are.
        orphan: Whether the part is of a dead run: then the rows of other images are left out.
        run_id: The run that does it.
        now: When.

    Returns:
        The receipt of the new part; its counts are of what was adopted. None if no row is left.

    Raises:
        TableError: The part cannot be read.
        StorageError: The new part cannot be written.
    """
    by_uri = {edit.uri: edit for edit in edits}
    wanted = pa.array(by_uri, pa.string())
    added: Counter[str] = Counter()
    pending: list[Any] = []
    with PartFile(root, run_id) as target:
        reading = reading_part(
            root,
            f"the part {part} cannot be read",
            why="its rows have to be copied; nothing was published",
            remedy="look at the damage with `densecast check`; if the table was changed meanwhile, run again",
        )
        with reading, open_part(root, part) as file:
            for rows in (rows.cast(SCHEMA) for rows in row_groups(file)):
                edited = pc.is_in(rows.column("uri"), wanted)
                changed = _edit(rows.filter(edited), by_uri, run_id, now, added)
                others = rows.filter(pc.invert(edited))
                pending.append(changed if orphan else pa.concat_tables([others, changed]).sort_by("uri"))
                if sum(table.nbytes for table in pending) >= ROW_GROUP_BYTES:
                    _write(target, pending)
        _write(target, pending)
        return target.close(added[Status.SCORED], added[Status.REJECTED]) if target.rows else None


def _write(target: PartFile, pending: list[Any]) -> None:
    rows = pa.concat_tables(pending) if pending else None
    pending.clear()
    if rows is not None and rows.num_rows:
        target.write(rows, row_bytes=rows.nbytes // rows.num_rows)


def _edit(rows: Any, edits: Mapping[str, Edit], run_id: str, now: datetime, added: Counter[str]) -> Any:
    """The rows of edited images as they are to be; counts the maps and rejections among those adopted."""
    kept: list[int] = []
    changes: list[Edit] = []
    columns = (rows.column(name).to_pylist() for name in ("uri", "scale", "tile_index", "status"))
    for index, (uri, scale, tile, status) in enumerate(zip(*columns, strict=True)):
        edit = edits[uri]
        adopts = edit.action == Action.ADOPT and (scale, tile) in {tuple(slot) for slot in edit.slots}
        if edit.action == Action.UPDATE or adopts or (edit.action == Action.DELETE and tile == 0):
            kept.append(index)
            changes.append(edit)
            added[status] += adopts and tile == 0
    rows = rows.take(pa.array(kept, pa.int64()))
    deleted = pa.array([edit.action == Action.DELETE for edit in changes], pa.bool_())
    adopted = pa.array([edit.action == Action.ADOPT for edit in changes], pa.bool_())

    def replace(name: str, where: Any, value: Any) -> None:
        nonlocal rows
        place = rows.schema.get_field_index(name)
        field = rows.schema.field(place)
        column = pc.if_else(
            where, pa.scalar(value, field.type) if not isinstance(value, pa.Array) else value, rows[name]
        )
        rows = rows.set_column(place, field, column)

    version = pa.array([edit.version or None for edit in changes], pa.string())
    ident = pa.array([edit.id or None for edit in changes], pa.string())
    replace("image_version", pc.invert(deleted), version)
    replace("id", pc.and_(pc.invert(deleted), pc.is_valid(ident)), ident)
    replace("run_id", pc.or_(adopted, deleted), run_id)
    replace("scored_at", deleted, now)
    replace("status", deleted, Status.DELETED.value)
    replace("tile_count", deleted, 1)
    for name in _OF_A_MAP:
        replace(name, deleted, None)
    return rows
