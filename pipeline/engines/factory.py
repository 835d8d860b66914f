"""Makes the engine of a worker."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from conversion import read_metadata
from pipeline.engines.base import BatchShape, Engine
from pipeline.engines.device_pool import DevicePool
from pipeline.engines.devices import AUTO, CPU, THE_CPU, Device, check_wanted, open_devices
from pipeline.engines.load_tensorflow import load_tensorflow
from pipeline.engines.onnxruntime_devices import open_onnxruntime_devices
from pipeline.errors import SettingError
from pipeline.maps.recipe import Recipe
from pipeline.maps.windows import WindowInput
from pipeline.settings import EngineName


@dataclass(frozen=True)
class EngineFactory:
    """Opens a model on the devices of the calling process; it is pickled to get to the workers.

    Attributes:
        model: The model directory.
        recipe: How maps are computed and stored.
        engine: What runs the model; not `AUTO`, which is decided once where a run starts.
        device: `auto`, `cpu`, `gpu` or `gpu:1`, see `open_devices`.
        compiled: Shapes of batches that XLA compiles when an engine is opened; only by TensorFlow.

    Raises:
        SettingError: There is no such device, or the engine is not decided.
    """

    model: str
    recipe: Recipe
    engine: EngineName
    device: str = AUTO
    compiled: tuple[BatchShape, ...] = ()

    def __post_init__(self) -> None:
        check_wanted(self.device)
        if self.engine is EngineName.AUTO:
            raise SettingError("the engine is not decided", remedy="decide it with choose_engine, or name an engine")
        if self.compiled and self.engine is not EngineName.TENSORFLOW:
            raise SettingError(f"XLA compiles nets of TensorFlow, not of {self.engine}", remedy="leave out `compiled`")
        if self.device.startswith("gpu") and self.engine in (EngineName.NATIVE, EngineName.OPENVINO):
            raise SettingError(
                f"the engine {self.engine} computes on CPUs", remedy="use --device cpu, or another engine"
            )

    def check(self) -> None:
        """Raises EngineError if a GPU is requested and there is none; an engine is loaded only for that."""
        if self.device not in (AUTO, CPU):
            self._devices()

    def __call__(self) -> Engine:
        """Returns an engine for all threads of this process, on all of its devices."""
        return DevicePool(self._open, self._devices(), first=os.getpid())

    def _devices(self) -> tuple[Device, ...]:
        if self.engine is EngineName.ONNXRUNTIME:
            return open_onnxruntime_devices(self.device)
        if self.engine is not EngineName.TENSORFLOW:
            return (THE_CPU,)
        load_tensorflow(debug=logging.getLogger().isEnabledFor(logging.INFO))
        return open_devices(self.device)

    def _open(self, device: Device) -> Engine:
        """Returns the engine of a device. The modules of the engines are imported here, each with its own library."""
        recipe = self.recipe
        windows = None
        if recipe.windows is not None:
            windows = WindowInput.of(self.model, read_metadata(self.model), recipe)
        how = (self.model, recipe.k, recipe.form, recipe.features)
        if device.is_gpu and self.engine is EngineName.ONNXRUNTIME:
            from pipeline.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine

            return OnnxRuntimeGpuEngine(*how, device=device, precision=recipe.precision, windows=windows)
        if self.engine is EngineName.ONNXRUNTIME:
            from pipeline.engines.onnxruntime import OnnxRuntimeEngine

            return OnnxRuntimeEngine(*how, precision=recipe.precision, windows=windows)
        if self.engine is EngineName.NATIVE:
            from pipeline.engines.native.engine import NativeEngine

            return NativeEngine(*how, precision=recipe.precision, windows=windows)
        if self.engine is EngineName.OPENVINO:
            from pipeline.engines.openvino import OpenVinoEngine

            return OpenVinoEngine(*how, precision=recipe.precision, windows=windows)
        from pipeline.engines.tensorflow import TensorFlowEngine

        return TensorFlowEngine(
            *how, device=device, precision=recipe.precision, compiled=self.compiled, windows=windows
        )
