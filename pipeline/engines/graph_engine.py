"""What the engines that run a model's ONNX graph have in common: they differ in the library that computes it."""

from __future__ import annotations

import abc

import numpy as np

from conversion import InferenceGraph, inference_graph
from pipeline.engines.model_engine import Images, ModelEngine
from pipeline.errors import EngineError
from pipeline.maps.recipe import Form, Precision

IMAGES = "images"
"""The name of a graph's input."""
_NEEDED_AGAIN = "make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL"


class GraphEngine(ModelEngine):
    """Loads a model directory with an ONNX form and runs its ONNX graph; see `ModelEngine`."""

    selects = True
    """Whether the library selects the best classes, of equal ones the lower class first."""
    filtered = True
    """Whether the graph has products over cells, see `inference_graph`."""

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return (*super()._failures, *self._library_errors)

    @property
    @abc.abstractmethod
    def _library_errors(self) -> tuple[type[Exception], ...]:
        """What the library raises."""

    @abc.abstractmethod
    def _open(self, graph: InferenceGraph) -> None:
        """Makes what `_compute` needs."""

    def _open_model(self, library: str) -> None:
        graph = inference_graph(
            self._model,
            self._metadata,
            best=self._k if self._form is Form.TOP_K and self.selects else None,
            features=self._wanted_blobs,
            narrow=self._precision is Precision.FLOAT16,
            prepared=self._windows is not None,
            filtered=self.filtered,
        )
        try:
            self._open(graph)
        except self._library_errors as error:
            raise EngineError(
                f"{library} does not load the model: {error}", where=self._model, remedy=_NEEDED_AGAIN
            ) from error

    def _smallest_tiles(self) -> Images:
        """Returns a seeded image with a map of at least 2 x 2 cells."""
        size = self._metadata.size_of_four_cells
        random = np.random.default_rng(0)
        if self._windows is None:
            return random.integers(0, 256, (1, *size, 3), np.uint8)
        channels = len(self._metadata.preprocessing.mean)
        return random.uniform(-128, 128, (1, *size, channels)).astype(np.float32)
