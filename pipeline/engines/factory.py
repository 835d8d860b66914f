"""How a worker makes its engine."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from pipeline.engines.base import Engine
from pipeline.engines.device_pool import DevicePool
from pipeline.engines.devices import AUTO, CPU, Device, check_wanted, open_devices
from pipeline.engines.load_tensorflow import load_tensorflow
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.engines.xla import BatchShape
from pipeline.maps.recipe import Recipe


@dataclass(frozen=True)
class TensorFlowEngineFactory:
    """Opens a model on the devices of the process that calls it; pickled on the way to the workers.

    Attributes:
        model: The model directory.
        recipe: What is made of every image.
        device: `auto`, `cpu`, `gpu` or `gpu:1`, see `open_devices`.
        compiled: Shapes of batches that XLA compiles when an engine is opened.
    """

    model: str
    recipe: Recipe
    device: str = AUTO
    compiled: tuple[BatchShape, ...] = ()

    def __post_init__(self) -> None:
        check_wanted(self.device)

    def check(self) -> None:
        """Raises EngineError where a GPU is asked for and there is none; else it loads nothing."""
        if self.device not in (AUTO, CPU):
            _places(self.device)

    def __call__(self) -> Engine:
        """One engine for all threads of this process, on every device that it may use."""
        return DevicePool(self._open, _places(self.device), first=os.getpid())

    def _open(self, place: Device) -> Engine:
        recipe = self.recipe
        return TensorFlowEngine(
            self.model,
            recipe.k,
            recipe.form,
            recipe.features,
            place=place,
            precision=recipe.precision,
            compiled=self.compiled,
        )


def _places(device: str) -> tuple[Device, ...]:
    load_tensorflow(debug=logging.getLogger().isEnabledFor(logging.INFO))
    return open_devices(device)
