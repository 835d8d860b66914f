"""The ONNX Runtime engine on an NVIDIA GPU, by its CUDA execution provider. It needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from conversion import InferenceGraph
from pipeline.engines.cell_scores import Arrays
from pipeline.engines.devices import Device
from pipeline.engines.graph_engine import IMAGES
from pipeline.engines.model_engine import Images
from pipeline.engines.node_placement import RECORD_PLACEMENT, in_words, misplaced, placement
from pipeline.engines.onnxruntime import OnnxRuntimeEngine, Weights
from pipeline.engines.onnxruntime_devices import CUDA
from pipeline.errors import EngineError
from pipeline.maps.classification_map import DEFAULT_K
from pipeline.maps.recipe import Form, Precision
from pipeline.maps.windows import WindowInput

_ELSEWHERE = "use --device cpu, or --engine tensorflow"


class OnnxRuntimeGpuEngine(OnnxRuntimeEngine):
    """Runs a model by ONNX Runtime on a GPU; see `GraphEngine`.

    Images are copied to the GPU as uint8, and the outputs of the graph alone come back. float32 is full float32, not
    TF32. cuDNN chooses its kernels by the shapes, and never by timing them.

    Args:
        model: See `GraphEngine`.
        k: See `GraphEngine`.
        form: See `GraphEngine`.
        features: See `GraphEngine`.
        device: The GPU, as `open_onnxruntime_devices` returns it.
        precision: See `GraphEngine`.
        windows: See `GraphEngine`.

    Raises:
        EngineError: ONNX Runtime cannot use the GPU, or would run nodes on the CPU.
    """

    filtered = False  # products over cells are what suits a CPU; cuDNN chooses among convolutions itself
    provider = CUDA
    """The execution provider that all of the graph has to run on."""
    memory = "cuda"
    """ONNX Runtime's name for the memory of the device."""

    def __init__(
        self,
        model: str | Path,
        k: int = DEFAULT_K,
        form: Form = Form.TOP_K,
        features: Sequence[str] = (),
        *,
        device: Device,
        precision: Precision = Precision.FLOAT32,
        windows: WindowInput | None = None,
    ) -> None:
        self._device = device
        super().__init__(model, k, form, features, precision=precision, windows=windows)

    @property
    def _library_errors(self) -> tuple[type[Exception], ...]:
        return (*super()._library_errors, RuntimeError, ValueError)  # of CUDA's calls, and of unknown options

    def _load(self) -> str:
        super()._load()
        runtime = self._runtime
        return f"ONNX Runtime {runtime.__version__}, CUDA {runtime.cuda_version or 'unknown'}, {self._device.label}"

    def _open(self, graph: InferenceGraph) -> None:
        super()._open(graph)
        active = self._session.get_providers()
        if self.provider not in active:
            raise EngineError(
                f"ONNX Runtime has not opened the model on {self._device.label}",
                where=self._model,
                why=f"it has fallen back to {' and '.join(active)}: CUDA's or cuDNN's libraries are missing, are of "
                "another version than it was built for, or the driver is too old for them",
                remedy="install densecast with its extra `gpu`, which brings them, and run nvidia-smi; or "
                + _ELSEWHERE,
            )
        elsewhere = misplaced(placement(self._session), self.provider, graph.size_nodes())
        if elsewhere:
            raise EngineError(
                f"ONNX Runtime would run {len(elsewhere)} of the model's operations on the CPU, not on "
                f"{self._device.label}",
                where=self._model,
                why=f"it has no CUDA kernels for {in_words(elsewhere)}",
                remedy=_ELSEWHERE,
            )

    def _new_session(self, graph: bytes, weights: Weights) -> Any:
        options = self._session_options(weights)
        options.use_deterministic_compute = True
        options.add_session_config_entry(RECORD_PLACEMENT, "1")
        # With its fallback it would print an error to the standard output, and go on with the CPU alone.
        return self._runtime.InferenceSession(graph, options, providers=self._providers(), enable_fallback=0)

    def _providers(self) -> list[Any]:
        """Returns the execution providers with their options; the CPU's is for the nodes that compute sizes."""
        options = {
            "device_id": str(self._device.number),
            "use_tf32": "0",
            "cudnn_conv_algo_search": "HEURISTIC",  # by shapes; EXHAUSTIVE, the default, times kernels
            # Twice as much each time, the default, would leave less and less for batches of many shapes.
            "arena_extend_strategy": "kSameAsRequested",
        }
        return [(self.provider, options), "CPUExecutionProvider"]

    def _compute(self, images: Images) -> Arrays:
        place = self.memory, self._device.number
        binding = self._session.io_binding()
        binding.bind_ortvalue_input(IMAGES, self._runtime.OrtValue.ortvalue_from_numpy(images, *place))
        for name in self._outputs:
            binding.bind_output(name, *place)
        binding.synchronize_inputs()  # the session computes in a stream of its own
        self._session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return dict(zip(self._outputs, binding.copy_outputs_to_cpu(), strict=True))
