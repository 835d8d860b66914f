"""The interface of an engine: images in, cells out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from conversion import ModelMetadata
from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores

BatchShape = tuple[int, int, int]
"""Images, rows and columns of a batch."""


class EngineOutOfMemoryError(EngineError):
    """A batch does not fit in the device's memory; a smaller one may fit."""


class Engine(Protocol):
    """Runs one dense model."""

    @property
    def metadata(self) -> ModelMetadata:
        """The model's `densecast.json`."""

    @property
    def identity(self) -> str:
        """What computes, in words: library, version, device, and settings that change the last bits of a map."""

    def score(self, images: NDArray[np.uint8]) -> list[CellScores]:
        """Returns the maps of a batch.

        Args:
            images: uint8 RGB [N, H, W, 3].

        Returns:
            One for each image, in order.

        Raises:
            EngineOutOfMemoryError: The batch does not fit in memory; a smaller one may fit.
            EngineError: The engine failed on this batch.
        """


@runtime_checkable
class ExactEngine(Engine, Protocol):
    """An engine that may promise bits."""

    @property
    def exact(self) -> bool:
        """Whether the bits of a map follow from model and image alone: no batch has to be measured or respected."""


@runtime_checkable
class MixedEngine(ExactEngine, Protocol):
    """An engine that may take images of several sizes at once."""

    @property
    def mixed(self) -> bool:
        """Whether it takes them."""

    def score_mixed(self, images: Sequence[NDArray[np.uint8]]) -> list[CellScores]:
        """Returns the maps of images of any sizes.

        Args:
            images: uint8 RGB [h, w, 3] each.

        Returns:
            One for each image, in order; the same bits as `score` returns of the image alone.

        Raises:
            EngineOutOfMemoryError: They do not fit in memory; fewer may fit.
            EngineError: The engine failed on them.
        """


@runtime_checkable
class WindowEngine(Engine, Protocol):
    """An engine that also classifies windows of the size that the net was trained at."""

    def score_windows(self, windows: NDArray[np.float32]) -> list[CellScores]:
        """Returns the maps of the images of a batch, each 1 x n cells.

        Args:
            windows: float32 RGB [N, n, H, W, 3], 0 to 255: n windows of each image.

        Returns:
            One for each image, in order.

        Raises:
            EngineOutOfMemoryError: The batch does not fit in memory; a smaller one may fit.
            EngineError: The engine failed on this batch, or was opened without windows.
        """


OpenEngine = Callable[[], Engine]
"""Makes an engine on a worker; it is pickled to get there."""
