"""Engines, which run a dense model: one module per engine, all behind `Engine`."""

from pipeline.engines.base import Engine, EngineOutOfMemoryError, OpenEngine, WindowEngine
from pipeline.engines.device_pool import Counting, DevicePool, counts_of
from pipeline.engines.factory import TensorFlowEngineFactory
from pipeline.engines.tensorflow import TensorFlowEngine

__all__ = [
    "Counting",
    "DevicePool",
    "Engine",
    "EngineOutOfMemoryError",
    "OpenEngine",
    "TensorFlowEngine",
    "TensorFlowEngineFactory",
    "WindowEngine",
    "counts_of",
]
