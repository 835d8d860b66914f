"""What runs a dense model: one module an engine, all behind `Engine`."""

from pipeline.engines.base import Engine, EngineOutOfMemoryError, OpenEngine
from pipeline.engines.tensorflow import TensorFlowEngine

__all__ = ["Engine", "EngineOutOfMemoryError", "OpenEngine", "TensorFlowEngine"]
