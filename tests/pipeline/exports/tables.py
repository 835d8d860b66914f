"""Tables with features, for exports and comparisons."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from pipeline.images.resize import WINDOWS_SCALE
from pipeline.maps.classification_map import Feature, top_k
from pipeline.maps.recipe import Recipe
from pipeline.settings import Form, Windows
from pipeline.table.rows import ImageFacts, MapRow, Placement, scored_row
from tests.support.maintained import GEOMETRY, MODEL, NOW, publish_rows

Blobs = Mapping[str, np.ndarray]


def random_blobs(seed: int, size: tuple[int, int], kind: type[np.floating] = np.float32) -> dict[str, np.ndarray]:
    """`fc7` and `fc7:before`, its values before a ReLU, [h, w, 6]."""
    before = np.random.default_rng(seed).normal(size=(*size, 6)).astype(kind)
    return {"fc7": np.maximum(before, 0), "fc7:before": before}


def row(
    uri: str,
    size: tuple[int, int],
    blobs: Blobs,
    *,
    scale: float = WINDOWS_SCALE,
    form: Form = Form.FLOAT32,
    run_id: str = "r1",
    ident: str = "",
    tile: tuple[int, int] = (0, 1),
) -> MapRow:
    """A row; `tile` is its index and the number of tiles, side by side."""
    probabilities = np.random.default_rng(len(uri)).dirichlet(np.ones(4), size).astype(np.float32)
    cells = top_k(probabilities, 2)._replace(features=tuple(Feature(name, values) for name, values in blobs.items()))
    if form is not Form.TOP_K:
        cells = cells._replace(probabilities=probabilities)
    windows = Windows.TEN if scale == WINDOWS_SCALE else None
    facts = ImageFacts(uri, ident or None, 9, hashlib.sha256(uri.encode()).hexdigest(), 96, 96, label=f"of {uri[-5:]}")
    return scored_row(
        facts,
        Recipe(MODEL, form, windows=windows),
        GEOMETRY,
        cells,
        class_count=4,
        run_id=run_id,
        scored_at=NOW,
        placement=Placement(scale, 96, 96, tile[0], tile[1], 0, tile[0] * size[1]),
    )


def publish(root: Path, *rows: MapRow, run_id: str = "r1") -> Path:
    publish_rows(root, rows, run_id)
    [model] = root.rglob(f"{MODEL}.json")
    model.write_text(json.dumps({**json.loads(model.read_text()), "output_blob": "prob"}))
    return root
