"""Which engines can run a model as a recipe asks for it: by what is installed, and by what the model has."""

from __future__ import annotations

import contextlib
import importlib.util
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from conversion import ModelMetadata, load_model_network, needs_tensorflow, unplain_layer
from conversion.errors import install_extra
from pipeline.engines.devices import CPU
from pipeline.engines.gpu_diagnosis import hidden
from pipeline.engines.onnxruntime_packages import has_cuda
from pipeline.maps.recipe import Precision
from pipeline.settings import EngineName

_NEEDS: Mapping[EngineName, tuple[str, ...]] = {
    EngineName.NATIVE: ("densecast_native",),
    EngineName.ONNXRUNTIME: ("onnx", "onnxruntime"),
    EngineName.OPENVINO: ("onnx", "openvino"),
    EngineName.TENSORFLOW: ("tensorflow",),
}
"""The modules of each engine, in the order in which `auto` prefers engines of equal speed; densecast's own is first."""
_DISTRIBUTIONS: Mapping[EngineName, tuple[str, ...]] = {
    EngineName.NATIVE: ("densecast-native",),
    EngineName.ONNXRUNTIME: ("onnxruntime", "onnxruntime-gpu"),
    EngineName.OPENVINO: ("openvino",),
    EngineName.TENSORFLOW: ("tensorflow", "tensorflow-cpu"),
}
PRECISIONS = {
    EngineName.NATIVE: (Precision.FLOAT32,),
    EngineName.ONNXRUNTIME: (Precision.FLOAT32, Precision.FLOAT16),
    EngineName.OPENVINO: (Precision.FLOAT32,),
}
"""What the engines besides TensorFlow compute in."""
_AGAIN = "convert it again where {} is installed: densecast convert PROTOTXT WEIGHTS --output MODEL --format both"
_REASONS = {
    (EngineName.ONNXRUNTIME, Precision.BFLOAT16): ": ONNX has convolutions in bfloat16 from opset 22 on, and the "
    "graph is of an earlier one"
}
BUILD_IT = "build it with a C++ compiler, in densecast's repository: pip install ./pipeline/engines/native/extension"
"""How the module of densecast's own engine is installed: no index has it."""
_EXTRAS = {
    EngineName.ONNXRUNTIME: "cpu",
    EngineName.OPENVINO: "openvino",
    EngineName.TENSORFLOW: "cpu",
}


@dataclass(frozen=True)
class Wish:
    """What an engine has to do.

    Attributes:
        model: The model directory.
        metadata: Its `densecast.json`.
        precision: The type to compute in.
        device: `auto`, `cpu`, `gpu` or `gpu:1`.
        xla: Whether XLA compiles the net.
    """

    model: str
    metadata: ModelMetadata
    precision: Precision
    device: str
    xla: bool = False


def refusals(wish: Wish, *, here: bool) -> dict[EngineName, tuple[str, str]]:
    """Returns for every engine why it cannot do what is asked, and the way out; two empty texts if it can.

    Args:
        wish: What is asked.
        here: Whether this machine runs the engine. Otherwise what is installed here, and its devices, do not matter.
    """
    return {name: (_missing(name) if here else None) or _unable(name, wish, here=here) or ("", "") for name in _NEEDS}


def is_installed(engine: EngineName) -> bool:
    """Returns whether an engine's library is installed here; imports nothing."""
    return _missing(engine) is None


def _missing(engine: EngineName) -> tuple[str, str] | None:
    missing = [name for name in _NEEDS[engine] if importlib.util.find_spec(name) is None]
    if not missing:
        return None
    verb = "is" if len(missing) == 1 else "are"
    remedy = BUILD_IT if engine is EngineName.NATIVE else install_extra(_EXTRAS[engine])
    return f"{' and '.join(missing)} {verb} not installed", remedy


def _unable(engine: EngineName, wish: Wish, *, here: bool) -> tuple[str, str] | None:
    """Returns why an engine that is installed cannot do it, from facts that need no engine."""
    if engine is EngineName.TENSORFLOW:
        if "savedmodel" in wish.metadata.forms:
            return None
        return f"the model {wish.metadata.name} has no SavedModel", _AGAIN.format("TensorFlow")
    without = _without_form(engine, wish)
    if without is not None:
        return without
    if wish.precision not in PRECISIONS[engine]:
        known = " or ".join(PRECISIONS[engine])
        why = f"it does not compute in {wish.precision}{_REASONS.get((engine, wish.precision), '')}"
        return why, f"use --precision {known}, or --engine tensorflow"
    if wish.xla:
        return "XLA compiles nets of TensorFlow only", "leave out --xla, or use --engine tensorflow"
    if not wish.device.startswith("gpu") or (engine is EngineName.ONNXRUNTIME and (has_cuda() or not here)):
        return None
    if engine is EngineName.ONNXRUNTIME:
        return (
            "the ONNX Runtime that is installed is built without CUDA",
            "install densecast in a new environment, with its extra `gpu`; or use --device cpu, or --engine tensorflow",
        )
    return "it runs on CPUs only", "use --device cpu, --engine onnxruntime, or --engine tensorflow"


def _without_form(engine: EngineName, wish: Wish) -> tuple[str, str] | None:
    """Returns why an engine other than TensorFlow does not read the model; None if it does."""
    if engine is EngineName.NATIVE:
        if needs_tensorflow(wish.model):
            return f"an older version of densecast made the model {wish.metadata.name}", _AGAIN.format("densecast")
        layer = unplain_layer(load_model_network(wish.model), wish.metadata.output_blob)
        return (layer, "use another engine, such as --engine onnxruntime") if layer else None
    if "onnx" not in wish.metadata.forms or needs_tensorflow(wish.model):
        return f"the model {wish.metadata.name} has no ONNX graph", _AGAIN.format("the extra `onnx`")
    return None


def prefers_gpu(engine: EngineName, device: str) -> bool:
    """Returns whether an engine would use a GPU: the machine has one, and the installed build uses it."""
    devices = Path("/dev")
    if device == CPU or hidden() or not (any(devices.glob("nvidia[0-9]*")) or (devices / "dxg").exists()):
        return False
    if engine is EngineName.ONNXRUNTIME:
        return has_cuda()
    # Wheels of `tensorflow` for other processors than x86-64 compute on CPUs.
    return engine is EngineName.TENSORFLOW and "tensorflow" in versions(engine) and platform.machine() == "x86_64"


def versions(engine: EngineName) -> dict[str, str]:
    """Returns the version of each distribution that is installed of an engine's library."""
    found = {}
    for name in _DISTRIBUTIONS[engine]:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
