"""The GPUs that CUDA's driver shows to this process, in its order: those of CUDA_VISIBLE_DEVICES."""

from __future__ import annotations

import ctypes

_LIBRARY = "libcuda.so.1"
_NAME_LENGTH = 256


def visible_gpus() -> tuple[str, ...]:
    """Returns the names of the GPUs; none if there is no driver, or if it shows none.

    It asks the driver itself, as ONNX Runtime has no call that counts GPUs. No memory is taken on a GPU.
    """
    try:
        driver = ctypes.CDLL(_LIBRARY)
        count = ctypes.c_int()
        if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
            return ()
        return tuple(_name(driver, number) for number in range(count.value))
    except (OSError, AttributeError):  # there is no such library, or it is another one
        return ()


def _name(driver: ctypes.CDLL, number: int) -> str:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(_NAME_LENGTH)
    if driver.cuDeviceGet(ctypes.byref(device), number) or driver.cuDeviceGetName(name, _NAME_LENGTH, device):
        return ""
    return name.value.decode(errors="replace")
