"""Explains why a library sees no GPU, from facts about the machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

# Values of CUDA_VISIBLE_DEVICES that hide all GPUs: CUDA stops at the first entry that is not a device.
_NOTHING = ("", "-1", "none", "void", "NoDevFiles")


@dataclass(frozen=True)
class GpuFacts:
    """Facts that are known without CUDA.

    Attributes:
        cuda_build: Whether the library was built with CUDA.
        cuda_version: The CUDA version that it was built with; empty if it was not.
        visible_devices: CUDA_VISIBLE_DEVICES; None if it is not set.
        device_files: NVIDIA's device files, as /dev/nvidia0.
        driver: The version of NVIDIA's kernel driver; empty if none is loaded.
        library: The library's name.
        extra: The extra of densecast that installs the library with CUDA.
    """

    cuda_build: bool
    cuda_version: str = ""
    visible_devices: str | None = None
    device_files: tuple[str, ...] = ()
    driver: str = ""
    library: str = "TensorFlow"
    extra: str = "gpu-tensorflow"


def gather(tf: ModuleType, environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> GpuFacts:
    """Returns the facts about this machine and TensorFlow.

    Args:
        tf: The tensorflow module.
        environment: The environment variables of the process.
        root: The folder with /dev and /proc.
    """
    build = tf.sysconfig.get_build_info()
    facts = GpuFacts(bool(build.get("is_cuda_build")), str(build.get("cuda_version", "")))
    return _of_machine(facts, environment, root)


def gather_for_onnxruntime(
    runtime: ModuleType, environment: Mapping[str, str] = os.environ, root: Path = Path("/")
) -> GpuFacts:
    """Returns the facts about this machine and ONNX Runtime.

    Args:
        runtime: The onnxruntime module.
        environment: The environment variables of the process.
        root: The folder with /dev and /proc.
    """
    built = "CUDAExecutionProvider" in runtime.get_available_providers()
    facts = GpuFacts(built, str(runtime.cuda_version), library="ONNX Runtime", extra="gpu")
    return _of_machine(facts, environment, root)


def hidden(environment: Mapping[str, str] = os.environ) -> bool:
    """Returns whether CUDA_VISIBLE_DEVICES hides all GPUs."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.split(",")[0].strip() in _NOTHING


def _of_machine(facts: GpuFacts, environment: Mapping[str, str], root: Path) -> GpuFacts:
    """Returns the facts with those about the machine."""
    try:
        lines = (root / "proc/driver/nvidia/version").read_text().splitlines()
    except OSError:
        lines = []
    # NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024
    words = [word for word in (lines[0].split() if lines else []) if word[0].isdigit() and "." in word]
    files = [*(root / "dev").glob("nvidia[0-9]*"), *(root / "dev").glob("dxg")]  # dxg: the GPU under WSL
    return replace(
        facts,
        visible_devices=environment.get("CUDA_VISIBLE_DEVICES"),
        device_files=tuple(sorted(f"/dev/{file.name}" for file in files)),
        driver=words[0] if words else "",
    )


def explain(facts: GpuFacts) -> tuple[str, str]:
    """Returns why there is no GPU and what to do; the first thing to fix comes first.

    >>> explain(GpuFacts(cuda_build=False, device_files=("/dev/nvidia0",)))
    ('this TensorFlow is built without CUDA', 'install densecast in a new environment, with its extra `gpu-tensorflow`')
    """
    whys, remedies = [], []
    if not facts.cuda_build:
        whys.append(f"this {facts.library} is built without CUDA")
        remedies.append(f"install densecast in a new environment, with its extra `{facts.extra}`")
    if not facts.device_files:
        whys.append("there is no NVIDIA device file (/dev/nvidia0): no GPU, no driver, or a container without access")
        remedies.append("start the container with the GPU (docker run --gpus all; nvidia.com/gpu in Kubernetes)")
    if facts.visible_devices is not None and hidden({"CUDA_VISIBLE_DEVICES": facts.visible_devices}):
        whys.append(f"CUDA_VISIBLE_DEVICES={facts.visible_devices!r} hides all GPUs")
        remedies.append("unset CUDA_VISIBLE_DEVICES, or name a GPU in it")
    if not whys:
        driver = f"NVIDIA's driver is {facts.driver}" if facts.driver else "NVIDIA's driver is not loaded"
        whys.append(
            f"{driver}, and {facts.library} (for CUDA {facts.cuda_version or 'unknown'}) cannot use it: CUDA's "
            "libraries are missing, or the driver is too old for them"
        )
        remedies.append(f"run nvidia-smi, and densecast --debug, which shows {facts.library}'s message on each library")
    return "; ".join(whys), "; ".join(remedies)
