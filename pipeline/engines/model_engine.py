"""What the engines that read a model's network themselves have in common: they need no TensorFlow."""

from __future__ import annotations

import abc
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conversion import KeptBlob, ModelMetadata, load_model_network, read_metadata
from pipeline.engines.base import EngineOutOfMemoryError
from pipeline.engines.cell_scores import FEATURE, Arrays, cell_scores
from pipeline.engines.windows_of_batch import score_prepared
from pipeline.errors import EngineError
from pipeline.maps.classification_map import DEFAULT_K, CellScores
from pipeline.maps.features import parse_features
from pipeline.maps.recipe import Form, Precision
from pipeline.maps.windows import WindowInput

# What libraries say where memory is short, on CPUs and by CUDA.
_SHORT = (
    "failed to allocate memory",
    "bad_alloc",
    "bad allocation",
    "out of memory",
    "alloc_failed",
    "allocation_failed",
    "smaller than requested bytes",
)

Images = NDArray[np.uint8] | NDArray[np.float32]
"""uint8 RGB [N, H, W, 3]; or what the network's input blob holds, float32 [N, H, W, C]."""


class ModelEngine(abc.ABC):
    """Loads a model directory and computes its maps. Several threads may call it at once.

    Args:
        model: The directory that `conversion.convert` wrote.
        k: Number of classes that a cell keeps; all classes if the model has fewer.
        form: With `TOP_K` the engine selects the best classes; with the other forms all probabilities leave it.
        features: Blobs to return with the map, as in `Recipe.features`. The network is run once for all of them.
        precision: The type that the network computes in. The maps are always float32.
        windows: Prepares windows for `score_windows`; None if there are none.

    Raises:
        ModelError: The directory is not a model, or has no weights that can be read without TensorFlow.
        JobError: The model does not offer such a blob.
        EngineError: The library cannot load the model, or does not have the precision.
        MissingExtraError: The library, or what it needs, is not installed.
    """

    precisions: Sequence[Precision]
    """What the library computes in."""

    def __init__(
        self,
        model: str | Path,
        k: int = DEFAULT_K,
        form: Form = Form.TOP_K,
        features: Sequence[str] = (),
        *,
        precision: Precision = Precision.FLOAT32,
        windows: WindowInput | None = None,
    ) -> None:
        self._model = str(model)
        self._metadata = read_metadata(model)
        self._features = parse_features(features, self._metadata, lambda: load_model_network(model))
        self._windows, self._form = windows, form
        self._k = min(k, self._metadata.classes)
        self._precision = Precision(precision)
        logging.getLogger("densecast").info("loading the model %s", self._metadata.name)
        library = self._load()
        if self._precision not in self.precisions:
            raise EngineError(
                f"{library} does not compute in {self._precision}",
                where=f"model {self._metadata.name}",
                remedy=f"use --precision {' or '.join(self.precisions)}, or --engine tensorflow",
            )
        self._identity = f"{library}, {self._precision}, {form}, k {self._k}, features {list(features)}" + (
            ", windows" if windows is not None else ""
        )
        self._open_model(library)

    @property
    def metadata(self) -> ModelMetadata:
        """The model's `densecast.json`."""
        return self._metadata

    @property
    def identity(self) -> str:
        """See `Engine`."""
        return self._identity

    def score(self, images: NDArray[np.uint8]) -> list[CellScores]:
        """See `Engine`."""
        if self._windows is None:
            return self._score(images)
        # A graph for windows takes them prepared, as NumPy prepares them for Caffe's classifiers.
        prepared = self._metadata.preprocessing.reference(images).astype(np.float32)
        return self._score(np.ascontiguousarray(prepared.transpose(0, 2, 3, 1)))

    def score_windows(self, windows: NDArray[np.float32]) -> list[CellScores]:
        """See `WindowEngine`."""
        return score_prepared(windows, self._windows, self._score)

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        """What a batch may fail with."""
        return (MemoryError, ValueError, RuntimeError)

    @property
    def _wanted_blobs(self) -> list[KeptBlob]:
        """The blobs to return with the map, by the names of the arrays that hold them."""
        return [KeptBlob(FEATURE + wanted.name, wanted.blob, wanted.is_before) for wanted in self._features]

    @abc.abstractmethod
    def _load(self) -> str:
        """Imports the library; returns what computes, for `identity`."""

    @abc.abstractmethod
    def _open_model(self, library: str) -> None:
        """Makes what `_compute` needs; `library` is what `_load` returned."""

    @abc.abstractmethod
    def _compute(self, images: Images) -> Arrays:
        """Returns the results by name, see `cell_scores`."""

    def _score(self, images: Images) -> list[CellScores]:
        return cell_scores(self._run(images), self._form, self._k, self._features)

    def _run(self, images: Images) -> Arrays:
        """Returns the results by name; its errors are those of `Engine.score`."""
        try:
            return self._compute(images)
        except self._failures as error:
            count, height, width = images.shape[:3]
            raise self._failure(error, f"{count} images of {height} x {width}") from error

    def _failure(self, error: Exception, batch: str) -> EngineError:
        """Returns what a batch, in words, fails with."""
        if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SHORT):
            return EngineOutOfMemoryError(f"a batch of {batch} does not fit in memory")
        return EngineError(f"{self._identity.split(',')[0]} failed on {batch}: {error}")
