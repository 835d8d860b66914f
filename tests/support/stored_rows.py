"""Rows and tables for tests of what is done with them, made without an engine."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from pipeline.maps.classification_map import top_k
from pipeline.maps.geometry import Geometry
from pipeline.maps.recipe import Form, Recipe
from pipeline.rejection import Reason
from pipeline.table.commit import Changes, commit
from pipeline.table.part_file import PartWriter, Receipt
from pipeline.table.rows import ImageFacts, MapRow, Placement, rejected_row, scored_row
from pipeline.table.summaries import RunSummary

MODEL = "ab" * 32
MODEL_JSON = {"digest": MODEL, "labels": ["ant", "bee", "cat, feline", "dog"]}
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
RECIPE = Recipe(MODEL)
_GEOMETRY = Geometry(32, 32, 16, 16, 32, 32, 32, 32)


def digest_of(text: str) -> str:
    return hashlib.sha256(ascii(text).encode()).hexdigest()


def scored(
    uri: str,
    run_id: str = "r1",
    *,
    version: str | None = "v1",
    content: str = "",
    recipe: Recipe = RECIPE,
    scale: float = 1.0,
    size: int = 3,
    tile: tuple[int, int] = (0, 1),
    id_: str | None = None,
) -> MapRow:
    """A map whose values depend on the content alone, by default the uri; `tile`: index and count, side by side."""
    content = content or uri
    random = np.random.default_rng(int(digest_of(content)[:8], 16) + tile[0])
    probabilities = random.dirichlet(np.ones(4), (size, size)).astype(np.float32)
    cells = top_k(probabilities, 2)
    if recipe.form is not Form.TOP_K:
        cells = cells._replace(probabilities=probabilities)
    image = ImageFacts(uri, id_, 100, digest_of(content), 96, 96, version)
    place = Placement(scale, 96, 96, tile[0], tile[1], 0, tile[0] * size)
    return scored_row(image, recipe, _GEOMETRY, cells, class_count=4, run_id=run_id, scored_at=NOW, placement=place)


def rejected(
    uri: str,
    run_id: str = "r1",
    reason: Reason = Reason.CORRUPT,
    *,
    version: str | None = "v1",
    recipe: Recipe = RECIPE,
    scale: float = 1.0,
) -> MapRow:
    image = ImageFacts(uri, None, 100, digest_of(uri), version=version)
    place = Placement(scale)
    return rejected_row(image, recipe, reason, "no end marker", run_id=run_id, scored_at=NOW, placement=place)


def write(root: Path | str, *rows: MapRow, run_id: str = "r1") -> list[Receipt]:
    """One part, which nobody has published."""
    writer = PartWriter(str(root), run_id, MODEL, flush_bytes=1 << 40)
    receipts = [writer.add(row) for row in rows]
    return [receipt for receipt in (*receipts, writer.flush()) if receipt is not None]


def publish_rows(root: Path | str, *rows: MapRow, run_id: str = "r1", base: int = -1) -> RunSummary:
    receipts = write(root, *rows, run_id=run_id)
    return commit(str(root), Changes(base, receipts), run_id=run_id, model_json=MODEL_JSON, summary={})
