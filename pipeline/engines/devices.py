"""Which devices TensorFlow computes on in this process: `auto`, `cpu`, `gpu`, or `gpu:1`.

A GPU is never given up in silence: where one is asked for and none can be seen, an error says why.
"""

from __future__ import annotations

import logging
import os
import re
import threading
from typing import Any, NamedTuple

from conversion import import_tensorflow
from pipeline.engines.gpu_diagnosis import explain, gather
from pipeline.errors import EngineError, JobError

AUTO, CPU, GPU = "auto", "cpu", "gpu"
_WANTED = re.compile(r"(?:auto|cpu|gpu(?::(\d{1,3}))?)")
_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
_LOCK = threading.Lock()

_log = logging.getLogger(__name__)


class Device(NamedTuple):
    """A device.

    Attributes:
        name: As TensorFlow calls it: `/device:GPU:0`.
        label: As people do: `GPU:0 NVIDIA H100 80GB HBM3`, or `CPU`.
    """

    name: str
    label: str

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return ":GPU:" in self.name


def check_wanted(wanted: str) -> str:
    """`wanted` itself; raises JobError if it is no choice of a device. Looks at no device.

    >>> check_wanted("gpu:1")
    'gpu:1'
    """
    if not _WANTED.fullmatch(wanted):
        raise JobError(f"{wanted!r} is no device", remedy="write auto, cpu, gpu, or gpu:0 and so on")
    return wanted


def open_devices(wanted: str = AUTO, tf: Any = None) -> tuple[Device, ...]:
    """The devices to compute on, at least one; makes TensorFlow ready for them.

    GPUs then take memory as they need it (TensorFlow would take all of it), float32 is float32 (TensorFlow would use
    10 bits of its 23 on recent GPUs: TF32), and kernels are chosen such that one input always has one result. GPUs that
    are not wanted are hidden from this process. Doing it again with the same choice changes nothing.

    Args:
        wanted: `auto`: all GPUs that can be seen, the CPU if there is none; `cpu`; `gpu`: all of them; `gpu:1`: the
            second of those that CUDA_VISIBLE_DEVICES lets through.
        tf: The tensorflow module; imported by default.

    Raises:
        JobError: There is no such choice.
        EngineError: A GPU is asked for and there is none, or TensorFlow was initialized too early to be made ready.
        MissingExtraError: TensorFlow is not installed.
    """
    index = _index(check_wanted(wanted))
    tf = tf or import_tensorflow()
    with _LOCK:
        gpus = [] if wanted == CPU else list(tf.config.list_physical_devices("GPU"))
        if not gpus and wanted != CPU:
            if wanted != AUTO:
                why, remedy = explain(gather(tf))
                raise EngineError(f"no GPU can be seen, and the device is to be {wanted}", why=why, remedy=remedy)
            _log.info("device: CPU, for no GPU can be seen (%s)", explain(gather(tf))[0])
        if index is not None:
            if index >= len(gpus):
                raise EngineError(
                    f"there is no {wanted}: {len(gpus)} GPU{'s' * (len(gpus) != 1)} can be seen, counted from gpu:0",
                    remedy=f"name a lower one, or {GPU} for all",
                )
            gpus = [gpus[index]]
        _show(tf, gpus, wanted)
        if gpus:
            _prepare(tf, gpus)
        places = _places(tf, gpus)
        _log.info("device: %s", ", ".join(place.label for place in places))
        return places


def _index(wanted: str) -> int | None:
    match = _WANTED.fullmatch(wanted)
    return int(match[1]) if match and match[1] else None


def _show(tf: Any, gpus: list[Any], wanted: str) -> None:
    """Hides what is not wanted: TensorFlow takes memory of every GPU that it can see."""
    visible = tf.config.get_visible_devices("GPU")
    if visible == gpus:
        return
    try:
        tf.config.set_visible_devices(gpus, "GPU")
    except RuntimeError as error:  # it is initialized already
        if set(gpus) <= set(visible):
            return
        raise EngineError(
            f"the device is to be {wanted}, and this process has hidden it",
            why="what TensorFlow can see is settled by the first engine of a process",
            remedy="use one choice of device a process",
        ) from error


def _prepare(tf: Any, gpus: list[Any]) -> None:
    for gpu in gpus:
        if tf.config.get_logical_device_configuration(gpu):
            continue  # whoever cut it into parts has said what memory these have
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError as error:  # it is initialized already
            if tf.config.experimental.get_memory_growth(gpu) or os.environ.get(_GROWTH, "").lower() == "true":
                continue
            raise EngineError(
                "TensorFlow was initialized before it could be told to take the GPU's memory as it needs it",
                why="it has taken all of it, and leaves none to other processes",
                remedy=f"set {_GROWTH}=true, or open the engine before TensorFlow is used otherwise",
            ) from error
    tf.config.experimental.enable_tensor_float_32_execution(False)
    tf.config.experimental.enable_op_determinism()


def _places(tf: Any, gpus: list[Any]) -> tuple[Device, ...]:
    kind = "GPU" if gpus else "CPU"
    found = tf.config.list_logical_devices(kind)
    visible = tf.config.get_visible_devices(kind)
    if gpus and len(visible) > len(gpus) and len(found) == len(visible):  # hidden ones that could not be hidden
        found = [device for device, physical in zip(found, visible, strict=True) if physical in gpus]
    if not found:
        raise EngineError(
            "TensorFlow lists GPUs and computes on none of them",
            why="it leaves out those with few multiprocessors or an old compute capability, as its log says",
            remedy="use another GPU, or --device cpu",
        )
    models = [tf.config.experimental.get_device_details(gpu).get("device_name", "") for gpu in gpus]
    if len(models) != len(found):  # a CPU, or GPUs that were cut into parts
        models = [models[0] if len(set(models)) == 1 else ""] * len(found)
    places = []
    for device, model in zip(found, models, strict=True):
        short = device.name.removeprefix("/device:")
        label = f"{short} {model}".strip() if gpus or len(found) > 1 else "CPU"
        places.append(Device(device.name, label))
    return tuple(places)
