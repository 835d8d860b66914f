"""Engines, which run a dense model: one module per engine, all behind `Engine`."""

from pipeline.engines.base import Engine, EngineOutOfMemoryError, MixedEngine, OpenEngine, WindowEngine
from pipeline.engines.device_pool import Counting, DevicePool, counts_of
from pipeline.engines.factory import EngineFactory

__all__ = [
    "Counting",
    "DevicePool",
    "Engine",
    "EngineFactory",
    "EngineOutOfMemoryError",
    "MixedEngine",
    "OpenEngine",
    "WindowEngine",
    "counts_of",
]
