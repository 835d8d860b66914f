"""The OpenVINO engine: runs a model's ONNX graph on the CPU. It needs no TensorFlow."""

from __future__ import annotations

import io
import threading
from typing import Any

from conversion import InferenceGraph
from conversion.errors import ConversionError
from pipeline.engines.candidates import PRECISIONS
from pipeline.engines.cell_scores import Arrays
from pipeline.engines.graph_engine import IMAGES, GraphEngine
from pipeline.engines.load_openvino import import_openvino
from pipeline.engines.model_engine import Images
from pipeline.engines.threads import usable_cores
from pipeline.errors import EngineError
from pipeline.malloc_trim import release_free_memory
from pipeline.settings import EngineName


class OpenVinoEngine(GraphEngine):
    """Runs a model by OpenVINO; see `GraphEngine`.

    It makes a program for every shape that it meets and keeps some of them, and it holds the weights several times
    while it loads.
    """

    precisions = PRECISIONS[EngineName.OPENVINO]
    selects = False  # its TopK leaves open which of equal probabilities come first, and which are among the best
    filtered = False  # it reorders the weights of its own convolutions, which are faster than products of matrices

    @property
    def _library_errors(self) -> tuple[type[Exception], ...]:
        return (RuntimeError,)

    def _load(self) -> str:
        self._openvino = import_openvino()
        return f"OpenVINO {self._openvino.__version__}, CPU, {usable_cores()} threads"

    def _open(self, graph: InferenceGraph) -> None:
        core = self._openvino.Core()
        try:
            whole = graph.whole()
        except ConversionError as error:
            raise EngineError(error.what, where=self._model, why=error.why, remedy=error.remedy) from error
        model = core.read_model(io.BytesIO(whole))
        del whole
        settings = {
            "EXECUTION_MODE_HINT": "ACCURACY",
            "INFERENCE_NUM_THREADS": usable_cores(),
            "INFERENCE_PRECISION_HINT": "f32",
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        compiled = core.compile_model(model, "CPU", settings)
        self._request: Any = compiled.create_infer_request()
        self._lock = threading.Lock()
        del model
        release_free_memory()

    def _compute(self, images: Images) -> Arrays:
        with self._lock:  # a request computes one batch at a time
            out = self._request.infer({IMAGES: images})
            return {output.get_any_name(): value.copy() for output, value in out.items()}
