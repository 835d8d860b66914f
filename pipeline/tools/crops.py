"""The difference of a map and the classifier on each window by itself: `densecast verify MODEL --crops`.

The two need not be equal: at the borders of a crop the inner convolutions see zero padding, in the map they see the
surrounding pixels; and a pooling that rounds its size up clips its last window at the end of a crop, where the map has
the whole window. A network that pads nothing and clips nothing at the training size gives the same values both ways.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from rich.table import Table

from pipeline.engines import Engine
from pipeline.errors import EngineError
from pipeline.maps.geometry import geometry_of

CELLS_A_SIDE = 4  # of the map of an example image
_BATCH = 8


class CropsReport(BaseModel):
    """The difference over all cells whose window lies inside their image.

    Attributes:
        images: How many images.
        cells: How many cells were compared.
        largest: The largest difference of one class's probability, 0 to 1.
        mean: The mean absolute difference of probability over cells and classes, 0 to 1.
        mean_total_variation: Half the summed absolute difference of a cell's classes, 0 to 1, averaged over cells.
        changed: The share of cells with another best class, 0 to 1.
    """

    images: int
    cells: int
    largest: float
    mean: float
    mean_total_variation: float
    changed: float


def compare_with_crops(engine: Engine, images: Iterable[NDArray[np.uint8]]) -> CropsReport:
    """Scores images whole and window by window, and compares the probabilities.

    Args:
        engine: An engine that gives all probabilities (`Form.FLOAT32`).
        images: The images, each uint8 RGB [H, W, 3].

    Raises:
        EngineError: No image has room for a whole window, or the engine gives no probabilities.
    """
    count, differences, changed = 0, [], []
    for image in images:
        count += 1
        whole, crops = _both(engine, image)
        differences.append(np.abs(whole - crops))
        changed.append(whole.argmax(axis=-1) != crops.argmax(axis=-1))
    if not sum(map(len, changed)):
        raise EngineError(
            "no window to compare",
            why="each image is smaller than one window",
            remedy=f"give images of at least {engine.metadata.minimum_size} pixels",
        )
    difference, change = np.concatenate(differences), np.concatenate(changed)
    return CropsReport(
        images=count,
        cells=len(change),
        largest=float(difference.max()),
        mean=float(difference.mean()),
        mean_total_variation=float(difference.sum(axis=-1).mean() / 2),
        changed=float(change.mean()),
    )


def example_images(engine: Engine, count: int = 2, seed: int = 0) -> list[NDArray[np.uint8]]:
    """Returns seeded images of coarse blotches, uint8 RGB [H, W, 3], each large enough for a map of 4 x 4 cells."""
    geometry = geometry_of(engine.metadata)
    height = int(geometry.window_y + (CELLS_A_SIDE - 1) * geometry.stride_y)
    width = int(geometry.window_x + (CELLS_A_SIDE - 1) * geometry.stride_x)
    rng = np.random.default_rng(seed)
    blotches = rng.integers(0, 256, (count, height // 16 + 1, width // 16 + 1, 3), dtype=np.uint8)
    return list(blotches.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width])


def _both(engine: Engine, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Returns probabilities [cells, C] of the cells whose window is inside the image: by the map, and by the crops."""
    geometry = geometry_of(engine.metadata)
    whole = _probabilities(engine, image[None])[0]
    cells, crops = [], []
    for y in range(whole.shape[0]):
        for x in range(whole.shape[1]):
            top, left, bottom, right = (round(edge) for edge in geometry.window(y, x))
            if min(top, left) >= 0 and bottom <= image.shape[0] and right <= image.shape[1]:
                cells.append(whole[y, x])
                crops.append(image[top:bottom, left:right])
    single = [
        _probabilities(engine, np.stack(crops[start : start + _BATCH]))[:, 0, 0]
        for start in range(0, len(crops), _BATCH)
    ]
    classes = whole.shape[-1]
    return np.array(cells).reshape(-1, classes), np.concatenate([np.empty((0, classes), np.float32), *single])


def _probabilities(engine: Engine, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Returns all probabilities [N, rows, columns, C], float32."""
    scores = [cells.probabilities for cells in engine.score(images)]
    present: Sequence[NDArray[np.floating]] = [probabilities for probabilities in scores if probabilities is not None]
    if len(present) < len(scores):
        raise EngineError("the engine gives no probabilities", remedy="open it with Form.FLOAT32")
    return np.stack(present).astype(np.float32)


def render(report: CropsReport) -> Table:
    """Returns the report for a terminal."""
    table = Table.grid(padding=(0, 2))
    table.add_row("compared", f"{report.cells} cells of {report.images} images with the classifier on each window")
    table.add_row("largest difference", f"{report.largest:.3g} of probability")
    table.add_row(
        "mean difference", f"{report.mean:.3g} a class; {report.mean_total_variation:.3g} of a cell's mass moves"
    )
    table.add_row("other best class", f"{report.changed:.1%} of the cells")
    return table
