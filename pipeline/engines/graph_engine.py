"""What the engines that run a model's ONNX graph have in common: they differ in the library that computes it."""

from __future__ import annotations

import abc
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conversion import InferenceGraph, KeptBlob, ModelMetadata, inference_graph, load_model_network, read_metadata
from pipeline.engines.base import EngineOutOfMemoryError
from pipeline.engines.cell_scores import FEATURE, Arrays, cell_scores
from pipeline.engines.windows_of_batch import score_prepared
from pipeline.errors import EngineError
from pipeline.maps.classification_map import DEFAULT_K, CellScores
from pipeline.maps.features import parse_features
from pipeline.maps.recipe import Form, Precision
from pipeline.maps.windows import WindowInput

IMAGES = "images"
"""The name of a graph's input."""
_NEEDED_AGAIN = "make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL"
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
"""uint8 RGB [N, H, W, 3]; or what a graph for windows takes, float32 [N, H, W, C]."""


class GraphEngine(abc.ABC):
    """Loads a model directory and runs its ONNX graph. Several threads may call it at once.

    Args:
        model: The directory that `conversion.convert` wrote, with an ONNX form.
        k: Number of classes that a cell keeps; all classes if the model has fewer.
        form: With `TOP_K` the graph selects the best classes; with the other forms all probabilities leave it.
        features: Blobs to return with the map, as in `Recipe.features`. The network is run once for all of them.
        precision: The type that the network computes in. The maps are always float32.
        windows: Prepares windows for `score_windows`; None if there are none.

    Raises:
        ModelError: The directory is not a model, or has no weights that can be read without TensorFlow.
        JobError: The model does not offer such a blob.
        EngineError: The library cannot load the model, or does not have the precision.
        MissingExtraError: onnx or the library are not installed.
    """

    selects = True
    """Whether the library selects the best classes, of equal ones the lower class first."""
    filtered = True
    """Whether the graph has products over cells, see `inference_graph`."""
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
        precision = Precision(precision)
        logging.getLogger("densecast").info("loading the model %s", self._metadata.name)
        library = self._load()
        if precision not in self.precisions:
            raise EngineError(
                f"{library} does not compute in {precision}",
                where=f"model {self._metadata.name}",
                remedy=f"use --precision {' or '.join(self.precisions)}, or --engine tensorflow",
            )
        self._identity = f"{library}, {precision}, {form}, k {self._k}, features {list(features)}" + (
            ", windows" if windows is not None else ""
        )
        graph = inference_graph(
            model,
            self._metadata,
            best=self._k if form is Form.TOP_K and self.selects else None,
            features=[KeptBlob(FEATURE + wanted.name, wanted.blob, wanted.is_before) for wanted in self._features],
            narrow=precision is Precision.FLOAT16,
            prepared=windows is not None,
            filtered=self.filtered,
        )
        try:
            self._open(graph)
        except self._library_errors as error:
            raise EngineError(
                f"{library} does not load the model: {error}", where=self._model, remedy=_NEEDED_AGAIN
            ) from error

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
        return (MemoryError, ValueError, RuntimeError, *self._library_errors)

    @property
    @abc.abstractmethod
    def _library_errors(self) -> tuple[type[Exception], ...]:
        """What the library raises."""

    @abc.abstractmethod
    def _load(self) -> str:
        """Imports the library; returns what computes, for `identity`."""

    @abc.abstractmethod
    def _open(self, graph: InferenceGraph) -> None:
        """Makes what `_compute` needs."""

    @abc.abstractmethod
    def _compute(self, images: Images) -> Arrays:
        """Returns the graph's outputs by name."""

    def _score(self, images: Images) -> list[CellScores]:
        return cell_scores(self._run(images), self._form, self._k, self._features)

    def _run(self, images: Images) -> Arrays:
        """Returns the graph's outputs; its errors are those of `Engine.score`."""
        try:
            return self._compute(images)
        except self._failures as error:
            count, height, width = images.shape[:3]
            if isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SHORT):
                raise EngineOutOfMemoryError(
                    f"a batch of {count} images of {height} x {width} does not fit in memory"
                ) from error
            name = self._identity.split(",")[0]
            raise EngineError(f"{name} failed on {count} images of {height} x {width}: {error}") from error

    def _smallest_tiles(self) -> Images:
        """Returns a seeded image with a map of at least 2 x 2 cells."""
        size = self._metadata.size_of_four_cells
        random = np.random.default_rng(0)
        if self._windows is None:
            return random.integers(0, 256, (1, *size, 3), np.uint8)
        channels = len(self._metadata.preprocessing.mean)
        return random.uniform(-128, 128, (1, *size, channels)).astype(np.float32)
