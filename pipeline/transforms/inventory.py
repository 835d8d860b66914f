"""The inventory of a table: its parts, those that dead runs left, and each image's rows, read from narrow columns."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import TableError
from pipeline.maps.encoding import map_digest
from pipeline.settings import Rounding
from pipeline.table.log import FOLDER, active_parts, open_delta
from pipeline.table.part_file import NAME_DIGITS, parse_part_name, rounding_of
from pipeline.table.part_reader import Part, open_part, reading_part
from pipeline.table.paths import TableRoot
from pipeline.table.schema import ARRAYS, Status, schema_faults
from pipeline.table.summaries import ADOPTED, read_json
from pipeline.transforms.reconcile import Known

_FACTS = ("uri", "id", "image_version", "image_digest", "recipe", "label")  # all rows of an image agree in them
_NARROW = [
    *_FACTS,
    *("status", "reason", "scale", "tile_index", "tile_count"),
]
_VERIFIED = ["status", "map_digest", "map_height", "map_width", *ARRAYS]
_BATCH_ROWS = 4096


class Inventory(NamedTuple):
    """The state of a table when a run begins.

    Attributes:
        version: The table's version; -1 if there is no table.
        parts: The parts of that version.
        orphans: Complete parts in the folder whose run never published, and that no run has adopted rows from.
    """

    version: int
    parts: list[str]
    orphans: list[str]


def take_inventory(root: str, run_id: str) -> Inventory:
    """Returns the inventory of a table, from its log and its folder.

    Args:
        root: The table.
        run_id: The current run; its own parts are not orphans.

    Raises:
        TableError: The folder holds another kind of table, or one that cannot be read.
        StorageError: The folder cannot be listed.
    """
    table = open_delta(root, writes=True)
    parts = sorted(active_parts(table)) if table is not None else []
    published = {run_id: True}
    orphans = []
    for path in TableRoot(root).store.list_files(root, ".parquet"):
        name = path.rsplit("/", 1)[-1]
        parsed = parse_part_name(name)
        if parsed is None or parsed.is_compacted:
            continue
        run = parsed.run_id
        if run not in published:
            published[run] = table is not None and table.transaction_version(run) is not None
        # Parts that a published run left out are the work of repeated attempts.
        if not published[run]:
            orphans.append(name)
    adopted = _adopted_parts(root) if orphans else set()
    orphans = [name for name in orphans if name not in adopted]
    return Inventory(table.version() if table is not None else -1, parts, orphans)


def _adopted_parts(root: str) -> set[str]:
    """Returns the orphans that runs have adopted rows from: they are read once, not every night until a vacuum."""
    table = TableRoot(root)
    summaries = table.store.list_files(table.path(FOLDER, "runs"), ".json")
    return {part for path in summaries for part in read_json(root, path).get(ADOPTED, ())}


def read_part(root: str, part: str) -> Iterator[Known]:
    """Yields a record for each image in a part of the table.

    Raises:
        TableError: The part cannot be read.
    """
    reading = reading_part(
        root,
        f"the part {part} cannot be read",
        why="its rows say which images are done",
        remedy="find the damage with `densecast check`; restore the file, or score into a new table",
    )
    with reading, open_part(root, part) as file:
        if others := file.rows_of_others():
            logging.getLogger(__name__).warning(
                "another program has appended %d rows that are not densecast's, in %s; the run leaves them as they are",
                others,
                part,
            )
        yield from _image_records(file, part, orphan=False)


def read_orphan(root: str, part: str, rounding: Rounding = Rounding.BOUNDED) -> list[Known]:
    """Returns a record for each image in a part of a dead run, every map verified.

    Returns none if the part is damaged, or if its maps are bounded where `rounding` is exact.
    """
    table = TableRoot(root)
    try:
        with reading_part(root):
            data = table.store.read_bytes(table.path(part))
            if not part.endswith(f"-{hashlib.sha256(data).hexdigest()[:NAME_DIGITS]}.parquet"):
                raise pa.ArrowInvalid("it is not the file that its name says")
            parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
            with Part(parquet) as file:
                if schema_faults(file.stored) or file.further:
                    return []
                if rounding is Rounding.EXACT and rounding_of(parquet.schema_arrow) is not Rounding.EXACT:
                    return []
                # Small batches: rows as Python objects take several times the memory.
                groups = file.validated_groups()
                batches = (batch for rows in groups for batch in rows.select(_VERIFIED).to_batches(64))
                if not all(_is_intact(row) for batch in batches for row in batch.to_pylist()):
                    raise pa.ArrowInvalid("a map differs from its digest")
                return list(_image_records(file, part, orphan=True))
    except TableError as error:
        # Its images are scored again.
        logging.getLogger(__name__).warning(
            "%s, left by a run that died, is damaged and not used: %s", part, error.__cause__
        )
        return []


def _is_intact(row: dict[str, Any]) -> bool:
    if row["status"] != Status.SCORED:
        return True
    arrays = {name: row[name] for name in ARRAYS}
    return bool(map_digest(row["map_height"], row["map_width"], **arrays) == row["map_digest"])


def _image_records(file: Part, part: str, *, orphan: bool) -> Iterator[Known]:
    """Yields a record for each run of rows of one image; parts are sorted, so that is mostly one an image."""
    rows: list[dict[str, Any]] = []
    for batch in file.batches(_NARROW, _BATCH_ROWS):
        for row in batch.to_pylist():
            if rows and row["uri"] != rows[0]["uri"]:
                yield from _summarise(rows, part, orphan)
                rows = []
            rows.append(row)
    yield from _summarise(rows, part, orphan)


def _summarise(rows: list[dict[str, Any]], part: str, orphan: bool) -> Iterator[Known]:
    """Yields the record of an image's rows; several if the rows contradict each other, and then none of an orphan."""
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        facts = tuple(row[name] or "" for name in _FACTS)
        groups.setdefault(facts, []).append(row)
    if orphan and (len(groups) > 1 or len({(row["scale"], row["tile_index"]) for row in rows}) < len(rows)):
        return
    for (uri, ident, version, digest, recipe, label), members in groups.items():
        statuses = sorted({row["status"] for row in members})
        reasons = [row["reason"] for row in members if row["reason"]]
        slots = [(row["scale"], row["tile_index"], row["tile_count"]) for row in members]
        yield Known(
            uri,
            part,
            orphan,
            id=ident,
            version=version,
            digest=digest,
            recipe=recipe,
            statuses=statuses,
            reasons=sorted({*reasons}),
            rejected=len(reasons),
            slots=slots,
            label=label,
        )
