"""Small tables to check, compact and vacuum: scored, rejected, deleted and tiled rows, of one run or several."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable
from deltalake.transaction import AddAction, RemoveAction

from pipeline.maps.classification_map import top_k
from pipeline.maps.geometry import Geometry
from pipeline.maps.recipe import Form, Recipe
from pipeline.rejection import Reason
from pipeline.table.commit import Changes
from pipeline.table.commit import commit as commit_run
from pipeline.table.log import active_parts
from pipeline.table.part_file import PartWriter, Receipt
from pipeline.table.rows import ImageFacts, MapRow, Placement, rejected_row, scored_row
from pipeline.table.schema import SCHEMA

MODEL = "ab" * 32
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
GEOMETRY = Geometry(32, 32, 16, 16, 32, 32, 32, 32)


def scored(
    uri: str,
    run_id: str = "r1",
    *,
    scale: float = 1.0,
    tile: int = 0,
    tiles: int = 1,
    size: int = 3,
    form: Form = Form.TOP_K,
    version: int = 0,
) -> MapRow:
    random = np.random.default_rng([len(uri), tile, version])
    probabilities = random.dirichlet(np.ones(4), (size, size)).astype(np.float32)
    cells = top_k(probabilities, 2)
    if form is not Form.TOP_K:
        kind = np.float16 if form is Form.FLOAT16 else np.float32
        cells = cells._replace(probabilities=probabilities.astype(kind))
    return scored_row(
        ImageFacts(uri, None, 100, hashlib.sha256(f"{uri} {version}".encode()).hexdigest(), 96, 96 * tiles),
        Recipe(MODEL, form),
        GEOMETRY,
        cells,
        class_count=4,
        run_id=run_id,
        scored_at=NOW,
        placement=Placement(scale, 96, 96 * tiles, tile, tiles, 0, tile * size),
    )


def rejected(uri: str, run_id: str = "r1", *, scale: float = 1.0, reason: Reason = Reason.CORRUPT) -> MapRow:
    place = Placement(scale)
    facts = ImageFacts(uri, digest=hashlib.sha256(uri.encode()).hexdigest())
    return rejected_row(facts, Recipe(MODEL), reason, "no end", run_id=run_id, scored_at=NOW, placement=place)


def write(root: Path, rows: Iterable[MapRow], run_id: str = "r1", flush_bytes: int = 1 << 30) -> list[Receipt]:
    writer = PartWriter(str(root), run_id, MODEL, flush_bytes=flush_bytes)
    receipts = [writer.add(row) for row in rows]
    return [receipt for receipt in (*receipts, writer.flush()) if receipt is not None]


def publish_rows(
    root: Path, rows: Iterable[MapRow], run_id: str = "r1", *, flush_bytes: int = 1 << 30, removed: Iterable[str] = ()
) -> int:
    """Publishes rows as a run does; returns the version."""
    receipts = write(root, rows, run_id, flush_bytes)
    base = DeltaTable(str(root)).version() if (root / "_delta_log").exists() else -1
    model = {"digest": MODEL, "labels": ["ant", "bee", "cat", "dog"]}
    summary = {"images": {"listed": sum(r.rows for r in receipts)}, "seconds": {"infer": 1.5}}
    changes = Changes(base, receipts, tuple(removed))
    return commit_run(str(root), changes, run_id=run_id, model_json=model, summary=summary).version


def mixed_rows(run_id: str = "r1") -> list[MapRow]:
    """An image of each kind: plain, at two scales, tiled, with all probabilities, rejected."""
    return [
        scored("a.jpg", run_id),
        scored("b.jpg", run_id),
        scored("b.jpg", run_id, scale=0.5),
        *(scored("c.tif", run_id, tile=tile, tiles=3) for tile in range(3)),
        scored("d.jpg", run_id, form=Form.FLOAT16),
        rejected("e.jpg", run_id),
    ]


def files(root: Path) -> list[Path]:
    """The parts of the current version, by name."""
    return sorted(root / path for path in active_parts(DeltaTable(str(root))))


def rows_of(root: Path) -> list[dict[str, Any]]:
    """All rows, in one order whatever files they are in."""
    rows = [row for path in files(root) for row in pq.read_table(path).to_pylist()]
    return sorted(rows, key=lambda row: (row["uri"], row["scale"], row["tile_index"]))


def replace(root: Path, part: Path, table: pa.Table, *, statistics: dict[str, Any] | None = None) -> Path:
    """Puts another part in the place of one, with the log agreeing: damage that only the rows tell."""
    new = part.with_name(f"part-r1-{hashlib.md5(part.name.encode(), usedforsecurity=False).hexdigest()}.parquet")
    pq.write_table(table, new, compression="zstd", write_page_checksum=True)
    commit(root, [new], [part], statistics=statistics or {"numRecords": table.num_rows})
    return new


def commit(root: Path, added: Iterable[Path], removed: Iterable[Path], *, statistics: dict[str, Any]) -> None:
    """Changes the table as another program would."""
    now = int(time.time() * 1000)
    actions: list[AddAction | RemoveAction] = [
        *(AddAction(path.name, path.stat().st_size, {}, now, True, json.dumps(statistics)) for path in added),
        *(RemoveAction(path.name, True, now, partition_values={}) for path in removed),
    ]
    DeltaTable(str(root)).create_write_transaction(
        actions, "append", SCHEMA, commit_properties=CommitProperties(max_commit_retries=0)
    )


def with_column(table: pa.Table, name: str, index: int, value: Any) -> pa.Table:
    """A table with another value in one place."""
    values = table.column(name).to_pylist()
    values[index] = value
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))
