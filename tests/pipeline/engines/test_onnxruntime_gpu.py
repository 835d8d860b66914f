"""ONNX Runtime on a GPU, as far as it can be tried without one: devices are faked, and sessions run on the CPU.

What needs a GPU is in `tests/gpu`.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from conversion import InferenceGraph, inference_graph, read_metadata
from pipeline.engines import EngineFactory, EngineOutOfMemoryError
from pipeline.engines.candidates import _NEEDS, Wish, prefers_gpu, refusals
from pipeline.engines.cuda_driver import visible_gpus
from pipeline.engines.devices import Device
from pipeline.engines.gpu_diagnosis import GpuFacts, gather_for_onnxruntime
from pipeline.engines.node_placement import PlacedNode, in_words, misplaced, placement
from pipeline.engines.onnxruntime import OnnxRuntimeEngine
from pipeline.engines.onnxruntime_devices import CUDA, open_onnxruntime_devices
from pipeline.engines.onnxruntime_gpu import OnnxRuntimeGpuEngine
from pipeline.engines.onnxruntime_packages import has_cuda
from pipeline.errors import EngineError, SettingError
from pipeline.maps.recipe import Form, Precision, Recipe
from pipeline.settings import EngineName
from tests.support.bound_on_cpu import GPU, BoundOnCpu
from tests.support.map_distance import distance

CPU = "CPUExecutionProvider"
IMAGES = np.random.default_rng(0).integers(0, 256, (2, 240, 300, 3), dtype=np.uint8)
ENGINES = "pipeline.engines."


class FakeRuntime(SimpleNamespace):
    """The onnxruntime module, built with CUDA or without it."""

    def __init__(self, *providers: str, says: str = "") -> None:
        super().__init__(cuda_version="13.0" if providers else "", loaded=0, says=says)
        self._providers = [*providers, CPU]

    def get_available_providers(self) -> list[str]:
        return self._providers

    def preload_dlls(self) -> None:
        self.loaded += 1
        sys.stdout.write(self.says)


# --- devices


@pytest.mark.parametrize(
    ("wanted", "numbers"), [("auto", [0, 1, 2]), ("gpu", [0, 1, 2]), ("gpu:0", [0]), ("gpu:2", [2])]
)
def test_the_gpus_that_the_driver_shows(wanted: str, numbers: list[int]):
    runtime = FakeRuntime(CUDA)
    devices = open_onnxruntime_devices(wanted, runtime, ["NVIDIA A", "NVIDIA B", ""])
    assert [device.number for device in devices] == numbers
    assert all(device.is_gpu for device in devices)
    labels = ["GPU:0 NVIDIA A", "GPU:1 NVIDIA B", "GPU:2"]
    assert [device.label for device in devices] == [labels[number] for number in numbers]
    assert runtime.loaded == 1


def test_a_number_beyond_the_gpus_is_an_error():
    with pytest.raises(EngineError, match="there is no gpu:1: 1 GPU visible, counted from gpu:0"):
        open_onnxruntime_devices("gpu:1", FakeRuntime(CUDA), ["NVIDIA A"])


def test_other_words_are_not_a_device():
    with pytest.raises(SettingError, match="is not a device"):
        open_onnxruntime_devices("cuda", FakeRuntime(CUDA), ["NVIDIA A"])


def test_cpu_does_not_look_for_gpus():
    runtime = FakeRuntime(CUDA)
    [device] = open_onnxruntime_devices("cpu", runtime, ["NVIDIA A"])
    assert (device.label, device.is_gpu, runtime.loaded) == ("CPU", False, 0)


@pytest.mark.parametrize("wanted", ["gpu", "gpu:0"])
@pytest.mark.parametrize(("providers", "why"), [((), "this ONNX Runtime is built without CUDA"), ((CUDA,), "NVIDIA")])
def test_a_gpu_that_is_not_there_is_an_error(wanted: str, providers: tuple[str, ...], why: str):
    with pytest.raises(EngineError, match=f"ONNX Runtime sees no GPU, and the device is {wanted}") as caught:
        open_onnxruntime_devices(wanted, FakeRuntime(*providers), [])
    assert why in caught.value.why
    assert caught.value.remedy


def test_a_build_without_cuda_has_no_gpu_even_where_there_is_one():
    with pytest.raises(EngineError, match="sees no GPU") as caught:
        open_onnxruntime_devices("gpu", FakeRuntime(), ["NVIDIA A"])
    assert "its extra `gpu`" in caught.value.remedy


def test_auto_without_a_gpu_is_the_cpu_and_says_so(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.INFO, ENGINES + "onnxruntime_devices"):
        [device] = open_onnxruntime_devices("auto", FakeRuntime(CUDA), [])
    assert device.label == "CPU"
    assert "device: CPU, because ONNX Runtime sees no GPU" in caplog.text


def test_what_the_loader_prints_is_logged(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]):
    """The standard output is the command's, and may be JSON."""
    with caplog.at_level(logging.INFO, ENGINES + "onnxruntime_devices"):
        open_onnxruntime_devices("gpu", FakeRuntime(CUDA, says="Failed to load libcudnn.so.9"), ["NVIDIA A"])
    assert "Failed to load libcudnn.so.9" in caplog.text
    assert capsys.readouterr().out == ""


def test_the_facts_of_onnxruntime(tmp_path: Path):
    facts = gather_for_onnxruntime(FakeRuntime(CUDA), {"CUDA_VISIBLE_DEVICES": "1"}, tmp_path)
    assert facts == GpuFacts(True, "13.0", "1", library="ONNX Runtime", extra="gpu")


def test_without_a_driver_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ENGINES + "cuda_driver._LIBRARY", "libthere-is-none.so.1")
    assert visible_gpus() == ()


def fake_driver(status: int) -> SimpleNamespace:
    """CUDA's driver with two GPUs."""

    def count(found: Any) -> int:
        found._obj.value = 2
        return 0

    def get(device: Any, number: int) -> int:
        device._obj.value = number
        return 0

    def name(text: Any, _: int, device: Any) -> int:
        text.value = f"NVIDIA {device.value}".encode()
        return 0

    return SimpleNamespace(cuInit=lambda _: status, cuDeviceGetCount=count, cuDeviceGet=get, cuDeviceGetName=name)


@pytest.mark.parametrize(("status", "expected"), [(0, ("NVIDIA 0", "NVIDIA 1")), (100, ())])
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, status: int, expected: tuple[str, ...]):
    monkeypatch.setattr("ctypes.CDLL", lambda _: fake_driver(status))
    assert visible_gpus() == expected


# --- the engine


def test_a_bound_engine_gives_the_maps_of_the_engine_for_cpus(small_model: Path):
    """Its graph has convolutions where the other has products over cells."""
    options: dict[str, Any] = {"k": 5, "features": ("fc7", "pool5")}
    bound = BoundOnCpu(small_model, **options, device=GPU)
    plain = OnnxRuntimeEngine(small_model, **options)
    assert distance(bound.score(IMAGES), plain.score(IMAGES)) <= 1e-5
    for cells, expected in zip(bound.score(IMAGES), plain.score(IMAGES), strict=True):
        for feature, other in zip(cells.features, expected.features, strict=True):
            np.testing.assert_allclose(feature.values, other.values, atol=1e-4 * np.abs(other.values).max())
    assert "GPU:0 NVIDIA H100, float32" in bound.identity


def test_float16(small_model: Path):
    narrow = BoundOnCpu(small_model, form=Form.FLOAT32, device=GPU, precision=Precision.FLOAT16)
    exact = OnnxRuntimeEngine(small_model, form=Form.FLOAT32)
    assert 0 < distance(narrow.score(IMAGES), exact.score(IMAGES), classes=False) < 0.01


def test_tf32_is_off_and_kernels_are_not_timed(small_model: Path):
    engine = BoundOnCpu(small_model, device=Device("/device:GPU:3", "GPU:3"))
    (provider, options), fallback = OnnxRuntimeGpuEngine._providers(engine)
    assert (provider, fallback) == (CPU, CPU)
    assert (options["device_id"], options["use_tf32"], options["cudnn_conv_algo_search"]) == ("3", "0", "HEURISTIC")
    assert engine._session.get_session_options().use_deterministic_compute


def test_a_session_without_cuda_is_refused(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    """ONNX Runtime leaves a provider out whose libraries it cannot load."""
    monkeypatch.setattr(OnnxRuntimeGpuEngine, "_providers", lambda _: [CPU])
    with pytest.raises(EngineError, match="has not opened the model on GPU:0 NVIDIA H100") as caught:
        OnnxRuntimeGpuEngine(small_model, device=GPU)
    assert f"it has fallen back to {CPU}" in caught.value.why


def test_nodes_that_would_run_on_the_cpu_are_refused_by_name(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    placed = [PlacedNode(CUDA, "conv1/Conv", "Conv"), PlacedNode(CPU, "pool1/MaxPool", "MaxPool")]
    monkeypatch.setattr(BoundOnCpu, "provider", CUDA)
    monkeypatch.setattr(ENGINES + "onnxruntime_gpu.placement", lambda _: placed)
    session = SimpleNamespace(get_providers=lambda: [CUDA, CPU], get_outputs=list)
    monkeypatch.setattr(BoundOnCpu, "_new_session", lambda *_: session)
    with pytest.raises(EngineError, match="would run 1 of the model's operations on the CPU, not on GPU:0") as caught:
        BoundOnCpu(small_model, device=GPU)
    assert "no CUDA kernels for MaxPool pool1/MaxPool" in caught.value.why
    assert "--device cpu" in caught.value.remedy


def test_a_library_that_fails_while_a_session_is_made_is_told(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object) -> Any:
        raise RuntimeError("CUDA failure 35: driver version is insufficient")

    monkeypatch.setattr(BoundOnCpu, "_new_session", failing)
    with pytest.raises(EngineError, match="does not load the model: CUDA failure 35"):
        BoundOnCpu(small_model, device=GPU)


@pytest.mark.parametrize(
    "message",
    [
        "CUDA failure 2: out of memory ; GPU=0",
        "Failed to allocate memory for requested buffer of size 4294967296",
        "Available memory of 5 is smaller than requested bytes of 9",
        "CUDNN failure 4: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED",
    ],
)
def test_memory_that_a_gpu_lacks_is_told(small_model: Path, monkeypatch: pytest.MonkeyPatch, message: str):
    engine = BoundOnCpu(small_model, device=GPU)

    def failing(_: object) -> Any:
        raise RuntimeError(message)

    monkeypatch.setattr(engine, "_compute", failing)
    with pytest.raises(EngineOutOfMemoryError, match="2 images of 240 x 300 does not fit in memory"):
        engine.score(IMAGES)


def test_a_factory_opens_one_session_a_gpu(small_model: Path, monkeypatch: pytest.MonkeyPatch):
    opened: list[Device] = []

    class Remembered(BoundOnCpu):
        def __init__(self, *how: Any, device: Device, **options: Any) -> None:
            opened.append(device)
            super().__init__(*how, device=device, **options)

    monkeypatch.setattr(ENGINES + "onnxruntime_gpu.OnnxRuntimeGpuEngine", Remembered)
    second = Device("/device:GPU:1", "GPU:1 NVIDIA H100")
    monkeypatch.setattr(ENGINES + "factory.open_onnxruntime_devices", lambda _: (GPU, second))
    engine = EngineFactory(str(small_model), Recipe(), EngineName.ONNXRUNTIME, "gpu")()
    assert len(engine.score(IMAGES)) == 2
    assert len(opened) == 1
    assert opened[0] in (GPU, second)


# --- the placement of nodes


def graph_with_sizes() -> InferenceGraph:
    """Relu(x) reshaped by its own size: `size`, `first` and `shape` compute sizes; `relu` and `top` compute."""
    nodes = [
        helper.make_node("Relu", ["x"], ["y"], "relu"),
        helper.make_node("Shape", ["y"], ["s"], "size"),
        helper.make_node("Gather", ["s", "zero"], ["n"], "first"),
        helper.make_node("Concat", ["n", "rest"], ["to"], "shape", axis=0),
        helper.make_node("Reshape", ["y", "to"], ["top"], "top"),
    ]
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [1], [0]),
        helper.make_tensor("rest", TensorProto.INT64, [1], [-1]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h"])
    top = helper.make_tensor_value_info("top", TensorProto.FLOAT, ["n", "m"])
    proto = helper.make_model(
        helper.make_graph(nodes, "sizes", [x], [top], constants),
        opset_imports=[helper.make_opsetid("", 14)],
        ir_version=8,
    )
    onnx.checker.check_model(proto)
    return InferenceGraph(proto.SerializeToString(), Path(), {})


def test_nodes_that_compute_sizes_may_be_on_the_cpu_and_no_others():
    sizes = graph_with_sizes().size_nodes()
    assert sizes == {"first", "shape"}
    names = ["relu", "size", "first", "shape", "top"]
    assert not misplaced([PlacedNode(CUDA, name, "") for name in names], CUDA, sizes)
    wrong = misplaced([PlacedNode(CPU, name, "") for name in names], CUDA, sizes)
    assert [node.name for node in wrong] == ["relu", "size", "top"]
    # One that ONNX Runtime has made itself has a name of its own, or none.
    assert misplaced([PlacedNode(CPU, "", "FusedConv")], CUDA, sizes)


def test_a_session_tells_its_placement(small_model: Path):
    engine = BoundOnCpu(small_model, device=GPU)
    placed = placement(engine._session)
    assert {node.provider for node in placed} == {CPU}
    assert {"Conv", "MaxPool", "LRN", "Softmax", "TopK"} <= {node.operation for node in placed}
    graph = inference_graph(small_model, read_metadata(small_model), best=3, filtered=False)
    assert misplaced(placed, CUDA, graph.size_nodes()), "all of them compute"


def test_many_nodes_are_cut_short():
    nodes = [PlacedNode(CPU, f"n{number}", "Conv") for number in range(11)]
    assert in_words(nodes).endswith("Conv n7, and 3 more")


# --- which engine a machine with a GPU uses


def wish(model: Path, **changed: Any) -> Wish:
    return Wish(**{"model": str(model), "metadata": read_metadata(model), "precision": Precision.FLOAT32, **changed})


@pytest.mark.parametrize("built", [False, True])
def test_onnxruntime_is_asked_for_a_gpu_only_if_it_is_built_with_cuda(
    small_model: Path, monkeypatch: pytest.MonkeyPatch, *, built: bool
):
    monkeypatch.setattr(ENGINES + "candidates.has_cuda", lambda: built)
    found = refusals(wish(small_model, device="gpu:1"), here=True)
    assert found[EngineName.ONNXRUNTIME][0] == (
        "" if built else "the ONNX Runtime that is installed is built without CUDA"
    )
    assert "CPUs only" in found[EngineName.OPENVINO][0]
    narrow = refusals(wish(small_model, device="gpu", precision=Precision.BFLOAT16), here=True)[EngineName.ONNXRUNTIME]
    assert "opset 22" in narrow[0]
    assert "--engine tensorflow" in narrow[1]


@pytest.mark.parametrize(
    ("device", "built", "visible", "expected"),
    [
        ("auto", True, None, True),
        ("gpu:0", True, "0", True),
        ("auto", False, None, False),
        ("cpu", True, None, False),
        ("auto", True, "", False),
        ("auto", True, "-1", False),
    ],
)
def test_auto_prefers_onnxruntime_with_cuda(
    monkeypatch: pytest.MonkeyPatch, device: str, visible: str | None, *, built: bool, expected: bool
):
    monkeypatch.setattr("pathlib.Path.exists", lambda _: True)  # /dev/nvidia0
    monkeypatch.setattr(ENGINES + "candidates.has_cuda", lambda: built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert prefers_gpu(EngineName.ONNXRUNTIME, device) is expected
    assert not prefers_gpu(EngineName.OPENVINO, device)
    first = next(name for name in _NEEDS if name is not EngineName.NATIVE)
    assert first is EngineName.ONNXRUNTIME, "the first that prefers a GPU is taken"


def test_without_a_device_file_no_engine_prefers_a_gpu(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pathlib.Path.exists", lambda _: False)
    monkeypatch.setattr(ENGINES + "candidates.has_cuda", lambda: True)
    assert not any(prefers_gpu(name, "auto") for name in _NEEDS)


@pytest.mark.parametrize("built", [False, True])
def test_a_build_with_cuda_is_known_by_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, built: bool):
    (tmp_path / "capi").mkdir()
    if built:
        (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    found = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr("importlib.util.find_spec", lambda _: found)
    assert has_cuda() is built


def test_no_onnxruntime_has_no_cuda(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert not has_cuda()
