"""The native engine: computes a model's network itself, on the CPU, with the same bits everywhere."""

from __future__ import annotations

import collections
import importlib
import importlib.util
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conversion import name_after_cast, plain_network
from conversion.errors import MissingExtraError, NetworkError, UnsupportedError
from pipeline.engines.candidates import BUILD_IT, PRECISIONS
from pipeline.engines.cell_scores import CLASSES, PROBABILITIES, SCORES, Arrays, cell_scores
from pipeline.engines.model_engine import Images, ModelEngine
from pipeline.engines.native.filters import FilterStore
from pipeline.engines.native.planning import Planner, Sizes
from pipeline.engines.threads import usable_cores
from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Form
from pipeline.settings import EngineName

EXTENSION = "densecast_native"
"""The module of the extension."""
_PROGRAMS = 16
"""Of so many mixes of sizes the programs are kept."""


class NativeEngine(ModelEngine):
    """Computes a model by an extension of densecast's own; see `ModelEngine`.

    The bits of a map follow from the model and the image: not from other images, threads, or the kind of processor.

    Args:
        *args: See `ModelEngine`.
        extension: What computes; by default the module `densecast_native`.
        **how: See `ModelEngine`.
    """

    precisions = PRECISIONS[EngineName.NATIVE]

    def __init__(self, *args: Any, extension: Any = None, **how: Any) -> None:
        self._extension = load_extension() if extension is None else extension
        super().__init__(*args, **how)

    @property
    def exact(self) -> bool:
        """See `ExactEngine`."""
        return True

    @property
    def mixed(self) -> bool:
        """See `MixedEngine`."""
        return True

    def score(self, images: NDArray[np.uint8]) -> list[CellScores]:
        """See `Engine`."""
        return self._score(images)

    def score_mixed(self, images: Sequence[NDArray[np.uint8]]) -> list[CellScores]:
        """See `MixedEngine`."""
        named: list[dict[str, NDArray[np.generic]]] = [{} for _ in images]
        try:
            sizes = _sizes(images)
            arrays = []
            for name, value, channels, dtype in self._outputs:
                for size, of_image in zip(sizes, named, strict=True):
                    of_image[name] = np.empty((1, *self._planner.shapes(size)[value][1:], channels), dtype)
                    arrays.append(of_image[name][0])
            self._execute(images, sizes, arrays)
        except self._failures as error:
            raise self._failure(error, f"{len(images)} images") from error
        return [cells for arrays in named for cells in cell_scores(arrays, self._form, self._k, self._features)]

    @property
    def _failures(self) -> tuple[type[Exception], ...]:
        return (*super()._failures, NetworkError)

    def _load(self) -> str:
        return f"densecast's own kernels {self._extension.__version__}, CPU"

    def _open_model(self, library: str) -> None:
        metadata, wanted = self._metadata, self._wanted_blobs
        try:
            network = plain_network(self._model, metadata, [kept.blob for kept in wanted])
        except UnsupportedError as error:
            raise EngineError(
                f"{library}: {error.what}", where=self._model, why=error.why, remedy=error.remedy
            ) from error
        best = self._k if self._form is Form.TOP_K else 0
        results = [(network.last[metadata.output_blob], best)]
        for kept in wanted:
            values = network.first if kept.before else network.last
            results.append((values[name_after_cast(kept.blob, values)], 0))
        self._planner = Planner(network, metadata.preprocessing, results, metadata.minimum_size)
        head = [(CLASSES, np.int64), (SCORES, np.float32)] if best else [(PROBABILITIES, np.float32)]
        outputs = [(name, results[0][0], best or metadata.classes, dtype) for name, dtype in head]
        for kept, (value, _) in zip(wanted, results[1:], strict=True):
            outputs.append((kept.name, value, self._planner.channels(value), np.float32))
        self._outputs: list[tuple[str, int, int, Any]] = outputs
        self._pool = self._extension.ThreadPool(usable_cores())
        self._filters = FilterStore(self._extension, self._pool, self._planner.steps)
        self._filters.prepare()
        self._programs: collections.OrderedDict[Sizes, Any] = collections.OrderedDict()
        self._lock = threading.Lock()

    def _compute(self, images: Images) -> Arrays:
        sizes = _sizes(images)
        named: dict[str, NDArray[np.generic]] = {}
        for name, value, channels, dtype in self._outputs:
            _, height, width = self._planner.shapes(sizes[0])[value]
            named[name] = np.empty((len(images), height, width, channels), dtype)
        self._execute(list(images), sizes, [of_image for array in named.values() for of_image in array])
        return named

    def _execute(self, images: Sequence[NDArray[Any]], sizes: Sizes, arrays: Sequence[NDArray[Any]]) -> None:
        """Computes a batch; the arrays are those of every image of every output."""
        self._program(sizes).run([np.ascontiguousarray(image) for image in images], list(arrays))

    def _program(self, sizes: Sizes) -> Any:
        """Returns the program of a batch of these sizes."""
        with self._lock:
            if sizes in self._programs:
                self._programs.move_to_end(sizes)
                return self._programs[sizes]
            plan = self._planner.plan(sizes, self._filters)
            made = self._extension.Program(self._pool, plan.operations, plan.results, plan.arena)
            self._programs[sizes] = made
            if len(self._programs) > _PROGRAMS:
                self._programs.popitem(last=False)
            return made


def load_extension() -> Any:
    """Returns the extension.

    Raises:
        MissingExtraError: It is not installed.
        EngineError: It cannot be loaded, or this processor has no fused multiply-add.
    """
    if importlib.util.find_spec(EXTENSION) is None:
        raise MissingExtraError(
            f"{EXTENSION} is not installed", why="the engine `native` computes with it", remedy=BUILD_IT
        )
    try:
        extension = importlib.import_module(EXTENSION)
    except ImportError as error:
        raise EngineError(
            f"{EXTENSION} cannot be loaded: {error}", remedy=f"{BUILD_IT}, or use another engine"
        ) from error
    if not extension.isas():
        raise EngineError(
            "this processor has no fused multiply-add", why="the engine `native` needs it", remedy="use another engine"
        )
    return extension


def _sizes(images: Sequence[NDArray[Any]] | NDArray[Any]) -> Sizes:
    return tuple((image.shape[0], image.shape[1]) for image in images)
