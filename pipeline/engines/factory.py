"""Makes the engine of a worker."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from conversion import read_metadata
from pipeline.engines.base import Engine
from pipeline.engines.device_pool import DevicePool
from pipeline.engines.devices import AUTO, CPU, Device, check_wanted, open_devices
from pipeline.engines.load_tensorflow import load_tensorflow
from pipeline.engines.tensorflow import TensorFlowEngine
from pipeline.engines.xla import BatchShape
from pipeline.maps.recipe import Recipe
from pipeline.maps.windows import WindowInput


@dataclass(frozen=True)
class TensorFlowEngineFactory:
    """Opens a model on the devices of the calling process; it is pickled to get to the workers.

    Attributes:
        model: The model directory.
        recipe: How maps are computed and stored.
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
        """Raises EngineError if a GPU is requested and there is none; TensorFlow is loaded only for that."""
        if self.device not in (AUTO, CPU):
            _devices(self.device)

    def __call__(self) -> Engine:
        """Returns an engine for all threads of this process, on all of its devices."""
        return DevicePool(self._open, _devices(self.device), first=os.getpid())

    def _open(self, device: Device) -> Engine:
        recipe = self.recipe
        windows = None
        if recipe.windows is not None:
            windows = WindowInput.of(self.model, read_metadata(self.model), recipe)
        return TensorFlowEngine(
            self.model,
            recipe.k,
            recipe.form,
            recipe.features,
            device=device,
            precision=recipe.precision,
            compiled=self.compiled,
            windows=windows,
        )


def _devices(device: str) -> tuple[Device, ...]:
    load_tensorflow(debug=logging.getLogger().isEnabledFor(logging.INFO))
    return open_devices(device)
