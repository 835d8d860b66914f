"""The engine that a job runs, and one that costs next to nothing: what is left is what the pipeline costs."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from conversion.export.metadata import FILE_NAME
from pipeline.engines import Engine
from pipeline.maps.classification_map import CellScores
from pipeline.scoring.engine_choice import open_model
from tests.support.fakes import METADATA, STRIDE, WINDOW

_K = 2


def open_engine(model: Path) -> Engine:
    """The engine that a scoring job opens for a model by default."""
    return open_model(model)


class IdleEngine:
    """Gives a map of the right size that is the same for every image, without looking at any."""

    metadata, identity = METADATA, "idle"

    def score(self, images: np.ndarray) -> list[CellScores]:
        height, width = ((side - WINDOW) // STRIDE + 1 for side in images.shape[1:3])
        return [_cells(height, width)] * len(images)


@functools.cache
def _cells(height: int, width: int) -> CellScores:
    classes = np.broadcast_to(np.arange(_K, dtype=np.int32), (height, width, _K))
    scores = np.broadcast_to(np.array([0.5, 0.25], np.float32), (height, width, _K))
    residual = np.full((height, width), 0.25, np.float32)
    return CellScores(np.ascontiguousarray(classes), np.ascontiguousarray(scores), residual)


def idle_model(folder: Path) -> Path:
    """The description of `IdleEngine`, where a model directory is asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(METADATA.model_dump_json())
    return folder
