"""The engine that a job runs, and one that costs next to nothing: what is left is what the pipeline costs."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from conversion import AxisGeometry, ReceptiveField
from conversion.export.metadata import FILE_NAME
from pipeline.engines import Engine
from pipeline.maps.classification_map import CellScores
from pipeline.scoring.engine_choice import open_model
from tests.support.fakes import METADATA

_CAFFENET = METADATA.model_copy(
    update={
        "digest": "c" * 64,
        "geometry": ReceptiveField(*[AxisGeometry(stride=32, offset=113, window=227, receptive_field=355)] * 2),
        "alignment": (32, 32),
        "classes": 1000,
        "labels": tuple(f"class {number}" for number in range(1000)),
    }
)


def open_engine(model: Path) -> Engine:
    """The engine that a scoring job opens for a model by default."""
    return open_model(model)


class IdleEngine:
    """Gives a map of the right size that is the same for every image, without looking at any."""

    metadata, identity, k = METADATA, "idle", 2

    def score(self, images: np.ndarray) -> list[CellScores]:
        geometry, (rows, columns) = self.metadata.geometry, images.shape[1:3]
        height = int((rows - geometry.y.window) // geometry.y.stride) + 1
        width = int((columns - geometry.x.window) // geometry.x.stride) + 1
        return [_cells(height, width, self.k)] * len(images)


class IdleCaffeNet(IdleEngine):
    """The same with maps of CaffeNet's size, the best five of a thousand classes."""

    metadata, identity, k = _CAFFENET, "idle CaffeNet", 5


IDLE = {"idle": IdleEngine, "caffenet": IdleCaffeNet}
"""The engines that do nothing, by name."""


@functools.cache
def _cells(height: int, width: int, k: int) -> CellScores:
    classes = np.broadcast_to(np.arange(k, dtype=np.int32), (height, width, k))
    scores = np.broadcast_to(np.float32(0.5) ** np.arange(1, k + 1, dtype=np.float32), (height, width, k))
    residual = np.full((height, width), 0.5**k, np.float32)
    return CellScores(np.ascontiguousarray(classes), np.ascontiguousarray(scores), residual)


def idle_model(folder: Path, name: str = "idle") -> Path:
    """The description of an engine of `IDLE`, where a model directory is asked for."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FILE_NAME).write_text(IDLE[name].metadata.model_dump_json())
    return folder
