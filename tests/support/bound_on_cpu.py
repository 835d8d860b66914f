"""ONNX Runtime's engine for GPUs, with the CPU in the GPU's place."""

from __future__ import annotations

from typing import Any

from pipeline.engines.devices import Device
from pipeline.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine

GPU = Device("/device:GPU:0", "GPU:0 NVIDIA H100")


class BoundOnCpu(OnnxRuntimeGpuEngine):
    """The engine with the CPU's provider in place of CUDA's."""

    provider = "CPUExecutionProvider"
    memory = "cpu"

    def _providers(self) -> list[Any]:
        return [self.provider]
