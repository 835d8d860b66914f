"""What an engine is: images in, cells out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from conversion import ModelMetadata
from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores


class EngineOutOfMemoryError(EngineError):
    """A batch does not fit in the device's memory; a smaller one may."""


class Engine(Protocol):
    """Runs one dense model."""

    @property
    def metadata(self) -> ModelMetadata:
        """What the model says about itself."""

    def score(self, images: NDArray[np.uint8]) -> list[CellScores]:
        """The maps of a batch.

        Args:
            images: uint8 RGB [N, H, W, 3].

        Returns:
            One for each image, in order.

        Raises:
            EngineOutOfMemoryError: A smaller batch may fit.
            EngineError: The engine failed on this batch.
        """


# Makes an engine where it is needed: called on the worker, pickled on the way there.
OpenEngine = Callable[[], Engine]
"""How a worker makes its engine."""
