"""The ONNX Runtime engine: runs a model's ONNX graph on the CPU. It needs no TensorFlow."""

from __future__ import annotations

import gc
import importlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conversion import InferenceGraph, import_onnxruntime
from pipeline.engines.candidates import PRECISIONS
from pipeline.engines.cell_scores import Arrays
from pipeline.engines.graph_engine import IMAGES, GraphEngine
from pipeline.engines.model_engine import Images
from pipeline.engines.onnxruntime_packages import check_onnxruntime_packages
from pipeline.engines.threads import usable_cores
from pipeline.malloc_trim import release_free_memory
from pipeline.settings import EngineName

_FATAL_ONLY = 4  # errors are raised too
_FOLDER = "session.model_external_initializers_file_folder_path"
_SPIN_DURATION = "session.intra_op.spin_duration_us"
_SPIN_MICROSECONDS = 100
_ERRORS = ("EPFail", "Fail", "InvalidArgument", "InvalidGraph", "NotImplemented", "RuntimeException")

Weights = dict[str, NDArray[np.float32]]


class OnnxRuntimeEngine(GraphEngine):
    """Runs a model by ONNX Runtime; see `GraphEngine`."""

    precisions = PRECISIONS[EngineName.ONNXRUNTIME]

    @property
    def _library_errors(self) -> tuple[type[Exception], ...]:
        errors = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        return tuple(getattr(errors, name) for name in _ERRORS)

    def _load(self) -> str:
        check_onnxruntime_packages()
        self._runtime = import_onnxruntime()
        return f"ONNX Runtime {self._runtime.__version__}, CPU, {usable_cores()} threads"

    def _open(self, graph: InferenceGraph) -> None:
        weights = dict(graph.arrays())
        # ONNX Runtime opens no file outside of the model directory. These arrays are the file itself, mapped.
        self._linked = dict(graph.stored()) if graph.is_linked else {}
        release_free_memory()
        self._session = self._new_session(graph.proto, {**weights, **self._linked})
        self._outputs = [output.name for output in self._session.get_outputs()]
        self._kept = self._needed(graph, weights)
        del weights
        gc.collect()
        release_free_memory()

    def _compute(self, images: Images) -> Arrays:
        return dict(zip(self._outputs, self._session.run(self._outputs, {IMAGES: images}), strict=True))

    def _new_session(self, graph: bytes, weights: Weights) -> Any:
        """Returns the session; it refers to the weights."""
        options = self._session_options(weights)
        return self._runtime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def _session_options(self, weights: Weights) -> Any:
        """Returns the options of a session that refers to the weights."""
        options = self._runtime.SessionOptions()
        options.log_severity_level = _FATAL_ONLY
        options.intra_op_num_threads = usable_cores()
        options.add_session_config_entry(_FOLDER, self._model)
        # Its threads wait awake for the next operation: to wake them up took a tenth of the time of a small image. But
        # not for the next batch: for milliseconds, the default, they would keep cores from the processes that decode.
        options.add_session_config_entry(_SPIN_DURATION, str(_SPIN_MICROSECONDS))
        if weights:
            values = [self._runtime.OrtValue.ortvalue_from_numpy(array) for array in weights.values()]
            options.add_external_initializers(list(weights), values)
        return options

    def _needed(self, graph: InferenceGraph, weights: Weights) -> Weights:
        """Returns the weights if the session still refers to them; none if it has packed each into a copy of its own.

        It does not say what it has packed. So they are overwritten, and a map is computed before and after.
        """
        if not weights:
            return {}
        images = self._smallest_tiles()
        before = self._run(images)
        for array in weights.values():
            array.fill(np.nan)
        after = self._run(images)
        if all(np.array_equal(before[name], after[name]) for name in before):
            return {}
        for name, array in graph.arrays():
            weights[name][...] = array
        return weights
