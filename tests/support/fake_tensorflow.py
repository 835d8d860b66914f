"""As much of TensorFlow's configuration as the choice of devices looks at, with any number of GPUs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple


class Physical(NamedTuple):
    name: str
    device_type: str


class FakeTensorFlow:
    """One process's TensorFlow.

    Args:
        gpus: How many the driver shows.
        initialized: Whether some op has run: nothing can be configured any more then.
        growth: What memory growth is set to from outside.
        parts: Into how many logical devices each GPU was cut.
    """

    def __init__(self, gpus: int = 0, *, initialized: bool = False, growth: bool = False, parts: int = 0) -> None:
        self.physical = [Physical(f"/physical_device:GPU:{n}", "GPU") for n in range(gpus)]
        self.visible, self.initialized, self.parts = list(self.physical), initialized, parts
        self.growth = dict.fromkeys(self.physical, growth)
        self.tf32, self.deterministic = True, False
        self.config = SimpleNamespace(
            list_physical_devices=lambda kind: list(self._devices(kind, self.physical)),
            get_visible_devices=lambda kind: list(self._devices(kind, self.visible)),
            set_visible_devices=self._set_visible,
            list_logical_devices=self._logical,
            get_logical_device_configuration=lambda gpu: [object()] * parts or None,
            experimental=SimpleNamespace(
                set_memory_growth=self._set_growth,
                get_memory_growth=self.growth.__getitem__,
                get_device_details=lambda gpu: {"device_name": "NVIDIA H100", "compute_capability": (9, 0)},
                enable_tensor_float_32_execution=lambda on: setattr(self, "tf32", on),
                enable_op_determinism=lambda: setattr(self, "deterministic", True),
            ),
        )
        self.sysconfig = SimpleNamespace(get_build_info=lambda: {"is_cuda_build": True, "cuda_version": "12.5.1"})

    def _devices(self, kind: str, gpus: list[Physical]) -> list[Physical]:
        return gpus if kind == "GPU" else [Physical("/physical_device:CPU:0", "CPU")]

    def _logical(self, kind: str) -> list[Any]:
        self.initialized = True
        count = len(self._devices(kind, self.visible)) * (self.parts if kind == "GPU" and self.parts else 1)
        return [SimpleNamespace(name=f"/device:{kind}:{n}") for n in range(count)]

    def _set_visible(self, gpus: list[Physical], kind: str) -> None:
        assert kind == "GPU"
        self._check()
        self.visible = list(gpus)

    def _set_growth(self, gpu: Physical, on: bool) -> None:
        if self.growth[gpu] != on:
            self._check()
        self.growth[gpu] = on

    def _check(self) -> None:
        if self.initialized:
            raise RuntimeError("cannot be modified after being initialized")
