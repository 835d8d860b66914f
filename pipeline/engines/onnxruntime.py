"""The ONNX Runtime engine: runs a model's graph on the CPU, or on a GPU through CUDA. It needs no TensorFlow."""

from __future__ import annotations

import gc
import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conversion import (
    InferenceGraph,
    KeptBlob,
    ModelMetadata,
    import_onnxruntime,
    inference_graph,
    load_model_network,
    read_metadata,
)
from pipeline.engines.base import EngineOutOfMemoryError
from pipeline.engines.cell_scores import FEATURE, cell_scores
from pipeline.engines.threads import usable_cores
from pipeline.engines.windows_of_batch import score_prepared
from pipeline.errors import EngineError
from pipeline.malloc_trim import release_free_memory
from pipeline.maps.classification_map import DEFAULT_K, CellScores
from pipeline.maps.features import parse_features
from pipeline.maps.recipe import Form, Precision
from pipeline.maps.windows import WindowInput

_IMAGES = "images"
_FATAL_ONLY = 4  # errors are raised too
_FOLDER = "session.model_external_initializers_file_folder_path"
_SPINNING = "session.intra_op.allow_spinning"
_CPU = "CPUExecutionProvider"
# What ONNX Runtime says where memory is short, on CPUs and by CUDA.
_SHORT = ("failed to allocate memory", "bad_alloc", "bad allocation", "out of memory", "alloc_failed")


Arrays = dict[str, NDArray[np.float32]]


class OnnxRuntimeEngine:
    """Loads a model directory and runs the model. Several threads may call it at once.

    Args:
        model: The directory that `conversion.convert` wrote, with an ONNX form.
        k: Number of classes that a cell keeps; all classes if the model has fewer.
        form: With `TOP_K` the graph selects the best classes; with the other forms all probabilities leave it.
        features: Blobs to return with the map, as in `Recipe.features`. The network is run once for all of them.
        precision: The type that the network computes in, float32 or float16. The maps are always float32.
        windows: Prepares windows for `score_windows`; None if there are none.

    Raises:
        ModelError: The directory is not a model, or has no weights that can be read without TensorFlow.
        JobError: The model does not offer such a blob.
        EngineError: ONNX Runtime cannot load the model, or does not have the precision.
        MissingExtraError: onnx or ONNX Runtime are not installed.
    """

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
        self._metadata = read_metadata(model)
        self._features = parse_features(features, self._metadata, lambda: load_model_network(model))
        self._windows, self._form = windows, form
        self._k = min(k, self._metadata.classes)
        logging.getLogger("densecast").info("loading the model %s", self._metadata.name)
        if precision is Precision.BFLOAT16:
            raise EngineError(
                "ONNX Runtime does not compute in bfloat16 on a CPU",
                where=f"model {self._metadata.name}",
                remedy="use --precision float16, or --engine tensorflow",
            )
        self._runtime = import_onnxruntime()
        errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        self._errors = tuple(
            getattr(errors, name)
            for name in ("Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException", "EPFail")
        )
        threads = usable_cores()
        self._identity = (
            f"ONNX Runtime {self._runtime.__version__}, CPU, {threads} threads, {precision}, {form}, k {self._k},"
            f" features {list(features)}" + (", windows" if windows is not None else "")
        )
        graph = inference_graph(
            model,
            self._metadata,
            best=self._k if form is Form.TOP_K else None,
            features=[KeptBlob(FEATURE + wanted.name, wanted.blob, wanted.is_before) for wanted in self._features],
            narrow=precision is Precision.FLOAT16,
            prepared=windows is not None,
        )
        arrays = dict(graph.arrays())
        release_free_memory()
        self._session = self._open(graph.proto, arrays, str(model), threads)
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._kept = self._needed(graph, arrays)
        del graph, arrays
        gc.collect()
        release_free_memory()

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

    def _score(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> list[CellScores]:
        return cell_scores(self._run(images), self._form, self._k, self._features)

    def _run(self, images: NDArray[np.uint8] | NDArray[np.float32]) -> dict[str, NDArray[np.generic]]:
        """Returns what the graph computes; its errors are those of `Engine.score`."""
        try:
            out = self._session.run(self._outputs, {_IMAGES: images})
        except (*self._errors, MemoryError, ValueError, RuntimeError) as error:
            message = str(error)
            if isinstance(error, MemoryError) or any(sign in message.lower() for sign in _SHORT):
                count, height, width = images.shape[:3]
                raise EngineOutOfMemoryError(
                    f"a batch of {count} images of {height} x {width} does not fit in memory"
                ) from error
            raise EngineError(f"ONNX Runtime failed on images of {images.shape}: {message}") from error
        return dict(zip(self._outputs, out, strict=True))

    def _open(self, graph: bytes, arrays: Arrays, model: str, threads: int) -> Any:
        """Returns the session; it refers to the arrays."""
        runtime = self._runtime
        options = runtime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = threads
        options.add_session_config_entry(_FOLDER, model)
        # Between batches its threads would keep cores from the processes that decode.
        options.add_session_config_entry(_SPINNING, "0")
        if arrays:
            values = [runtime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
            options.add_external_initializers(list(arrays), values)
        try:
            return runtime.InferenceSession(graph, options, providers=[_CPU])
        except self._errors as error:
            raise EngineError(
                f"ONNX Runtime {runtime.__version__} does not load the model: {error}",
                where=model,
                remedy="make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL",
            ) from error

    def _needed(self, graph: InferenceGraph, arrays: Arrays) -> Arrays:
        """Returns the arrays if the session still refers to them; none if it has packed each into a copy of its own.

        It does not say what it has packed. So they are overwritten, and a map is computed before and after.
        """
        if not arrays:
            return arrays
        stride = self._metadata.geometry.y.stride, self._metadata.geometry.x.stride
        size = [int(side + step) for side, step in zip(self._metadata.minimum_size, stride, strict=True)]
        if self._windows is None:
            images = np.full((1, *size, 3), 127, np.uint8)
        else:
            images = np.full((1, *size, len(self._metadata.preprocessing.mean)), 127, np.float32)
        before = self._run(images)
        for array in arrays.values():
            array.fill(np.nan)
        after = self._run(images)
        if all(np.array_equal(before[name], after[name]) for name in before):
            return {}
        for name, array in graph.arrays():
            arrays[name][...] = array
        return arrays
