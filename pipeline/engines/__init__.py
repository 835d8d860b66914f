"""What runs a dense model: one module an engine, all behind `Engine`."""

from pipeline.engines.base import Engine, EngineOutOfMemoryError, OpenEngine
from pipeline.engines.device_pool import Counting, SharedEngine, counts_of
from pipeline.engines.factory import OpenTensorFlow
from pipeline.engines.tensorflow import TensorFlowEngine

__all__ = [
    "Counting",
    "Engine",
    "EngineOutOfMemoryError",
    "OpenEngine",
    "OpenTensorFlow",
    "SharedEngine",
    "TensorFlowEngine",
    "counts_of",
]
