"""Scoring of windows by an engine that scores batches of prepared images."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores, MapError
from pipeline.maps.windows import WindowInput, as_map


def score_prepared(
    windows: NDArray[np.float32],
    prepares: WindowInput | None,
    score: Callable[[NDArray[np.float32]], list[CellScores]],
) -> list[CellScores]:
    """Returns the maps of the images of a batch, each 1 x n cells; see `WindowEngine.score_windows`.

    Args:
        windows: float32 RGB [N, n, H, W, 3], 0 to 255.
        prepares: Prepares windows; None if the engine was opened without.
        score: Returns the maps of what the network's input blob holds, float32 [N * n, H, W, C].

    Raises:
        EngineError: The engine was opened without windows, or a window has not one cell.
    """
    if prepares is None:
        raise EngineError("the engine was opened without windows", remedy="open it with a recipe that has windows")
    count = windows.shape[1]
    data = prepares.prepare(windows)
    maps = score(data.reshape(-1, *data.shape[2:]))
    try:
        return [as_map(maps[start : start + count]) for start in range(0, len(maps), count)]
    except MapError as error:
        raise EngineError(error.what, why=error.why, remedy=error.remedy) from error
