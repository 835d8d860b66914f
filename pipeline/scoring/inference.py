"""Runs batches on an engine in a thread of its own, so that rows are made of one batch while the next one runs."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from pipeline.engines import Engine, MixedEngine, WindowEngine, counts_of
from pipeline.errors import EngineError
from pipeline.images.samples import Pixels
from pipeline.images.window_filters import Floats32
from pipeline.maps.classification_map import CellScores
from pipeline.timing import timed


class Inference:
    """Calls an engine in a thread, in the order of the calls; the thread starts with the first one.

    Args:
        engine: The engine.
        counts: Where the seconds of the engine are added, and what it counts: it counts by thread.
    """

    def __init__(self, engine: Engine, counts: MutableMapping[str, float]) -> None:
        self._engine, self._counts = engine, counts
        self._thread = ThreadPoolExecutor(1, "densecast-engine")

    def start(self, images: Sequence[Pixels | Floats32]) -> Future[list[CellScores]]:
        """Starts a batch, after those that were started before.

        Args:
            images: Images of one size, uint8 RGB [h, w, 3]; of several sizes, for an engine that takes them; or as many
                windows of each, float32 RGB [n, h, w, 3].

        Returns:
            Their maps, in order; or EngineError.
        """
        return self._thread.submit(self._score, images)

    def close(self) -> None:
        """Ends the thread, after the batch that runs."""
        self._thread.shutdown(cancel_futures=True)

    def _score(self, images: Sequence[Pixels | Floats32]) -> list[CellScores]:
        try:
            with timed(self._counts, "infer"):
                return self._call(images)
        finally:
            for name, count in counts_of(self._engine).items():
                self._counts[name] = self._counts.get(name, 0) + count

    def _call(self, images: Sequence[Pixels | Floats32]) -> list[CellScores]:
        if isinstance(self._engine, MixedEngine) and self._engine.mixed and images[0].dtype == np.uint8:
            return self._engine.score_mixed([image.astype(np.uint8, copy=False) for image in images])
        # One image is not copied.
        stacked = np.stack(images) if len(images) > 1 else images[0][np.newaxis]
        if stacked.dtype == np.uint8:
            return self._engine.score(stacked.astype(np.uint8, copy=False))
        if not isinstance(self._engine, WindowEngine):
            raise EngineError(f"{type(self._engine).__name__} does not classify windows", remedy="leave out --windows")
        return self._engine.score_windows(stacked.astype(np.float32, copy=False))
