"""Selects the devices that ONNX Runtime uses in this process, by the names of `devices`.

A requested GPU is never replaced silently: if ONNX Runtime cannot use it, an error says why.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Sequence
from types import ModuleType

from conversion import import_onnxruntime
from pipeline.engines.cuda_driver import visible_gpus
from pipeline.engines.devices import AUTO, CPU, THE_CPU, Device, check_wanted, one_of
from pipeline.engines.gpu_diagnosis import explain, gather_for_onnxruntime
from pipeline.engines.onnxruntime_packages import check_onnxruntime_packages
from pipeline.errors import EngineError

CUDA = "CUDAExecutionProvider"

_log = logging.getLogger(__name__)


def open_onnxruntime_devices(
    wanted: str = AUTO, runtime: ModuleType | None = None, gpus: Sequence[str] | None = None
) -> tuple[Device, ...]:
    """Returns the devices to compute on, at least one, and loads CUDA's libraries if they are GPUs.

    Args:
        wanted: `auto` (all visible GPUs, or the CPU if there is none), `cpu`, `gpu` (all visible GPUs), or `gpu:1` (the
            second of the GPUs in CUDA_VISIBLE_DEVICES).
        runtime: The onnxruntime module; imported by default.
        gpus: The names of the GPUs that CUDA's driver shows; by default the driver is asked.

    Raises:
        SettingError: There is no such choice.
        EngineError: A GPU is requested, and there is none, or this ONNX Runtime is built without CUDA.
        MissingExtraError: ONNX Runtime is not installed.
    """
    if check_wanted(wanted) == CPU:
        return (THE_CPU,)
    check_onnxruntime_packages()
    runtime = runtime or import_onnxruntime()
    built = CUDA in runtime.get_available_providers()
    found = (visible_gpus() if gpus is None else gpus) if built else ()
    if not found:
        why, remedy = explain(gather_for_onnxruntime(runtime))
        if wanted != AUTO:
            raise EngineError(f"ONNX Runtime sees no GPU, and the device is {wanted}", why=why, remedy=remedy)
        _log.info("device: CPU, because ONNX Runtime sees no GPU (%s)", why)
        return (THE_CPU,)
    _load_libraries(runtime)
    devices = [Device(f"/device:GPU:{number}", f"GPU:{number} {name}".strip()) for number, name in enumerate(found)]
    chosen = tuple(one_of(devices, wanted))
    _log.info("device: %s", ", ".join(device.label for device in chosen))
    return chosen


def _load_libraries(runtime: ModuleType) -> None:
    """Loads CUDA and cuDNN from the packages of the extra `gpu`. It prints what it does not find; that is logged."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        runtime.preload_dlls()
    if said.getvalue():
        _log.info("%s", said.getvalue().strip())
