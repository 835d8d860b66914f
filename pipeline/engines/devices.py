"""The names of devices, `auto`, `cpu`, `gpu`, or `gpu:1`, and those that TensorFlow uses in this process.

A requested GPU is never replaced silently: if TensorFlow does not see it, an error says why.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Sequence
from types import ModuleType
from typing import NamedTuple, TypeVar

from conversion import import_tensorflow
from pipeline.engines.gpu_diagnosis import explain, gather
from pipeline.errors import EngineError, SettingError

AUTO, CPU, GPU = "auto", "cpu", "gpu"
_WANTED = re.compile(r"(?:auto|cpu|gpu(?::(\d{1,3}))?)")
_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
_LOCK = threading.Lock()
Gpu = TypeVar("Gpu")

_log = logging.getLogger(__name__)


class Device(NamedTuple):
    """A device.

    Attributes:
        name: As TensorFlow names it, for every engine: `/device:GPU:0`.
        label: The name for people: `GPU:0 NVIDIA H100 80GB HBM3`, or `CPU`.
    """

    name: str
    label: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return ":GPU:" in self.name

    @property
    def number(self) -> int:
        """Its number among the devices of its kind that this process sees, from 0."""
        return int(self.name.rpartition(":")[2])


THE_CPU = Device("/device:CPU:0", "CPU")


def check_wanted(wanted: str) -> str:
    """Returns `wanted`; raises SettingError if it is not a valid choice. Does not look at devices.

    >>> check_wanted("gpu:1")
    'gpu:1'
    """
    if not _WANTED.fullmatch(wanted):
        raise SettingError(f"{wanted!r} is not a device", remedy="write auto, cpu, gpu, or gpu:0 and so on")
    return wanted


def open_devices(wanted: str = AUTO, tf: ModuleType | None = None) -> tuple[Device, ...]:
    """Returns the devices to compute on, at least one, and configures TensorFlow for them.

    GPUs then allocate memory as needed (by default TensorFlow takes all of it), float32 is full float32 (by default
    TensorFlow uses TF32 on recent GPUs, with 10 of the 23 bits), and kernels are deterministic. GPUs that are not
    selected are hidden from this process. A second call with the same choice changes nothing.

    Args:
        wanted: `auto` (all visible GPUs, or the CPU if there is none), `cpu`, `gpu` (all visible GPUs), or `gpu:1` (the
            second of the GPUs in CUDA_VISIBLE_DEVICES).
        tf: The tensorflow module; imported by default.

    Raises:
        JobError: There is no such choice.
        EngineError: A GPU is requested and there is none, or TensorFlow was initialized before it could be configured.
        MissingExtraError: TensorFlow is not installed.
    """
    check_wanted(wanted)
    tf = tf or import_tensorflow()
    with _LOCK:
        gpus = [] if wanted == CPU else list(tf.config.list_physical_devices("GPU"))
        if not gpus and wanted != CPU:
            if wanted != AUTO:
                why, remedy = explain(gather(tf))
                raise EngineError(f"TensorFlow sees no GPU, and the device is {wanted}", why=why, remedy=remedy)
            _log.info("device: CPU, because TensorFlow sees no GPU (%s)", explain(gather(tf))[0])
        gpus = list(one_of(gpus, wanted))
        _show(tf, gpus, wanted)
        if gpus:
            _prepare(tf, gpus)
        devices = _devices(tf, gpus)
        _log.info("device: %s", ", ".join(device.label for device in devices))
        return devices


def one_of(gpus: Sequence[Gpu], wanted: str) -> Sequence[Gpu]:
    """Returns the GPU that `wanted` has the number of; all GPUs if it has none.

    Raises:
        EngineError: There is no such GPU.
    """
    match = _WANTED.fullmatch(wanted)
    if not match or not match[1]:
        return gpus
    if int(match[1]) >= len(gpus):
        raise EngineError(
            f"there is no {wanted}: {len(gpus)} GPU{'s' * (len(gpus) != 1)} visible, counted from gpu:0",
            remedy=f"use a lower number, or {GPU} for all GPUs",
        )
    return [gpus[int(match[1])]]


def _show(tf: ModuleType, gpus: Sequence[object], wanted: str) -> None:
    """Hides all other GPUs: TensorFlow allocates memory on every GPU that it sees."""
    visible = tf.config.get_visible_devices("GPU")
    if visible == gpus:
        return
    try:
        tf.config.set_visible_devices(gpus, "GPU")
    except RuntimeError as error:  # TensorFlow is already initialized
        if set(gpus) <= set(visible):
            return
        raise EngineError(
            f"the device is {wanted}, and this process has hidden it",
            why="the first engine of a process decides which devices TensorFlow sees",
            remedy="use one choice of device per process",
        ) from error


def _prepare(tf: ModuleType, gpus: Sequence[object]) -> None:
    """Configures the GPUs: memory as needed, full float32, deterministic kernels."""
    for gpu in gpus:
        if tf.config.get_logical_device_configuration(gpu):
            continue  # cut into logical devices, whose memory is configured
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:  # TensorFlow is already initialized
            if tf.config.experimental.get_memory_growth(gpu) or os.environ.get(_GROWTH, "").lower() == "true":
                continue
            raise EngineError(
                "TensorFlow was initialized before it could be configured to allocate the GPU's memory as needed",
                why="it has allocated all of the memory, and leaves none to other processes",
                remedy=f"set {_GROWTH}=true, or open the engine before any other use of TensorFlow",
            ) from error
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()


def _devices(tf: ModuleType, gpus: Sequence[object]) -> tuple[Device, ...]:
    """Returns the logical devices of the GPUs; the CPU if there are none."""
    kind = "GPU" if gpus else "CPU"
    logical = tf.config.list_logical_devices(kind)
    visible = tf.config.get_visible_devices(kind)
    if gpus and len(visible) > len(gpus) and len(logical) == len(visible):  # it was too late to hide some
        logical = [device for device, physical in zip(logical, visible, strict=True) if physical in gpus]
    if not logical:
        raise EngineError(
            "TensorFlow lists GPUs but uses none of them",
            why="it ignores GPUs with few multiprocessors or an old compute capability; its log says which",
            remedy="use another GPU, or --device cpu",
        )
    models = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    if len(models) != len(logical):  # a CPU, or GPUs that are cut into logical devices
        models = [models[0] if len(set(models)) == 1 else ""] * len(logical)
    devices = []
    for device, model in zip(logical, models, strict=True):
        short = device.name.removeprefix("/device:")
        label = f"{short} {model}".strip() if gpus or len(logical) > 1 else "CPU"
        devices.append(Device(device.name, label))
    return tuple(devices)
