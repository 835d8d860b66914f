"""What a GPU is worth to ONNX Runtime: `python tests/gpu/check.py GRAPHS`; prints JSON.

It needs NumPy, onnx and onnxruntime-gpu, and none of densecast: a machine without network has them from a few files.
`export.py` writes the graphs, which are small: the weights are drawn here, from a seed.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
PROBABILITIES, SCORES = "probabilities", "before-softmax"
FLOAT32, TF32, BFLOAT16, FLOAT16 = "float32", "tf32", "bfloat16", "float16"
CONVOLUTIONS_IN_BFLOAT16 = 22
"""The first opset in which Conv takes bfloat16."""
ELEMENTS = {
    FLOAT32: TensorProto.FLOAT,
    TF32: TensorProto.FLOAT,
    BFLOAT16: TensorProto.BFLOAT16,
    FLOAT16: TensorProto.FLOAT16,
}
_PLACEMENT = "session.record_ep_graph_assignment_info"
_PRODUCTS = 8
_REASON_LENGTH = 400

Images = NDArray[np.uint8]


class NotOnDeviceError(RuntimeError):
    """The session does not run on the provider that it was made for."""


def with_weights(graph: onnx.ModelProto, seed: int = 0) -> onnx.ModelProto:
    """Returns a graph with its weights, which were places in a file: normal, of He's variance (2 / inputs)."""
    model = onnx.ModelProto()
    model.CopyFrom(graph)
    rng = np.random.default_rng(seed)
    for tensor in model.graph.initializer:
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        inputs = math.prod(tensor.dims[1:])
        deviation = math.sqrt(2 / inputs) if len(tensor.dims) > 1 else 0.01
        drawn = rng.standard_normal(tuple(tensor.dims), np.float32) * np.float32(deviation)
        tensor.CopyFrom(numpy_helper.from_array(drawn, tensor.name))
    return model


def bfloat16_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a float32 graph whose convolutions compute in bfloat16, between casts; all else stays float32."""
    changed: onnx.ModelProto = onnx.version_converter.convert_version(model, CONVOLUTIONS_IN_BFLOAT16)
    nodes: list[onnx.NodeProto] = []
    for node in changed.graph.node:
        if node.op_type != "Conv":
            nodes.append(node)
            continue
        (top,) = node.output
        for place, name in enumerate(node.input):
            narrow = f"{top}/bfloat16/{place}"
            nodes.append(helper.make_node("Cast", [name], [narrow], narrow, to=TensorProto.BFLOAT16))
            node.input[place] = narrow
        node.output[0] = f"{top}/bfloat16"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [top], f"{top}/float32", to=TensorProto.FLOAT)]
    del changed.graph.node[:]
    del changed.graph.value_info[:]
    changed.graph.node.extend(nodes)
    return changed


def multiply_adds(graph: onnx.ModelProto, side: int) -> int:
    """Returns the multiply-adds of the convolutions and products of matrices for one image.

    Raises:
        ValueError: ONNX's shape inference does not know a shape.
    """
    sized = onnx.ModelProto()
    sized.CopyFrom(graph)
    (given,) = sized.graph.input
    for dim, length in zip(given.type.tensor_type.shape.dim, (1, side, side, 3), strict=True):
        dim.ClearField("dim_param")
        dim.dim_value = length
    del sized.graph.value_info[:]
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(sized, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in inferred.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        shapes[value.name] = [dim.dim_value for dim in kind.shape.dim] if kind.HasField("shape") else [0]
    total = 0
    for node in inferred.node:
        if node.op_type not in ("Conv", "MatMul", "Gemm"):
            continue
        top, weights = shapes.get(node.output[0], [0]), shapes.get(node.input[1], [0])
        each = math.prod(weights[1:]) if node.op_type == "Conv" else weights[0]
        if not math.prod(top) * math.prod(weights):
            raise ValueError(f"the shapes of {node.op_type} {node.name} are not known")
        total += math.prod(top) * each
    return total


class Ruler:
    """Makes sessions on a device and measures them.

    Args:
        provider: `CUDAExecutionProvider`, or `CPUExecutionProvider` to try the script itself.
        seconds: For how long a measurement goes on.
    """

    def __init__(self, provider: str, seconds: float) -> None:
        self.provider, self._seconds = provider, seconds
        self.memory = "cuda" if provider == CUDA else "cpu"

    def session(self, model: onnx.ModelProto, *, tf32: bool = False) -> Any:
        """Returns a session with all that computes on the device.

        Raises:
            NotOnDeviceError: Some of it would run on the CPU; the message names it.
        """
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.add_session_config_entry(_PLACEMENT, "1")
        settings = {
            "use_tf32": str(int(tf32)),
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
        }
        providers = [(CUDA, settings), CPU] if self.provider == CUDA else [CPU]
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=providers, enable_fallback=0
        )
        sizes = _size_nodes(model)
        elsewhere = [
            f"{node.op_type} {node.name}"
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
            if part.ep_name != self.provider and node.name not in sizes
        ]
        if elsewhere or self.provider not in session.get_providers():
            raise NotOnDeviceError(f"on the CPU: {', '.join(elsewhere[:8]) or 'everything'}")
        return session

    def run(self, session: Any, images: Images) -> dict[str, NDArray[Any]]:
        """Returns the outputs by name. The images go to the device, and the outputs come back."""
        names = [output.name for output in session.get_outputs()]
        binding = session.io_binding()
        value = onnxruntime.OrtValue.ortvalue_from_numpy(images, self.memory, 0)
        binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
        for name in names:
            binding.bind_output(name, self.memory, 0)
        binding.synchronize_inputs()
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()
        return dict(zip(names, binding.copy_outputs_to_cpu(), strict=True))

    def median(self, call: Callable[[], object]) -> float:
        """Returns the median seconds of a call, after two to warm up; of three calls at least."""
        call()
        call()
        times: list[float] = []
        ends = time.perf_counter() + self._seconds
        while len(times) < 3 or time.perf_counter() < ends:
            started = time.perf_counter()
            call()
            times.append(time.perf_counter() - started)
        return statistics.median(times)

    def matrix_peak(self, kind: str, side: int) -> float:
        """Returns the FLOP/s of products of square matrices, which stay on the device."""
        session = self.session(_products(ELEMENTS[kind], side), tf32=kind == TF32)
        given = np.random.default_rng(0).standard_normal((1, side), np.float32) / np.float32(math.sqrt(side))
        return _PRODUCTS * 2 * side**3 / self.median(lambda: self.run(session, given))


def _products(element: int, side: int) -> onnx.ModelProto:
    """Returns a graph that multiplies a matrix by u u' several times, and returns one number; u [1, side] is given."""
    nodes = [
        helper.make_node("Cast", ["u"], ["row"], "cast", to=element),
        helper.make_node("Transpose", ["row"], ["column"], "column", perm=[1, 0]),
        helper.make_node("Mul", ["column", "row"], ["matrix"], "matrix"),
    ]
    last = "matrix"
    for number in range(_PRODUCTS):
        nodes.append(helper.make_node("MatMul", [last, "matrix"], [f"product{number}"], f"product{number}"))
        last = f"product{number}"
    nodes += [
        helper.make_node("ReduceSum", [last], ["sum"], "sum", keepdims=0),
        helper.make_node("Cast", ["sum"], ["result"], "result", to=TensorProto.FLOAT),
    ]
    u = helper.make_tensor_value_info("u", TensorProto.FLOAT, [1, side])
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, [])
    body = helper.make_graph(nodes, "products", [u], [result])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def _size_nodes(model: onnx.ModelProto) -> set[str]:
    """Returns the names of the nodes that depend on nothing but sizes, which ONNX Runtime computes on the CPU."""
    constant = {tensor.name for tensor in model.graph.initializer} | {""}
    sizes: set[str] = set()
    names: set[str] = set()
    for node in model.graph.node:
        inputs = set(node.input) - constant
        if node.op_type in ("Shape", "Size"):
            sizes.update(node.output)
        elif inputs and inputs <= sizes:
            sizes.update(node.output)
            names.add(node.name)
    return names


def memory_used() -> int | None:
    """Returns the MiB that are in use on the first GPU, by nvidia-smi; None without it."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    query = [command, "--id=0", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    done = subprocess.run(query, capture_output=True, text=True, check=False)
    return int(done.stdout.split()[0]) if done.returncode == 0 and done.stdout.split() else None


def measure(graphs: Path, ruler: Ruler, sides: Sequence[int], batches: Sequence[int], matrix: int) -> dict[str, Any]:
    """Returns what was found by kind of arithmetic; the reason where one is not possible."""
    graph = _read(graphs, "float32")
    rng = np.random.default_rng(1)
    images = {side: rng.integers(0, 256, (max(batches), side, side, 3), dtype=np.uint8) for side in sides}
    exact = Ruler(CPU, 0)
    session = exact.session(with_weights(_read(graphs, "float32-all")))
    expected = {side: exact.run(session, images[side][:1]) for side in sides}
    works = {side: multiply_adds(graph, side) for side in sides}
    found: dict[str, Any] = {}
    for kind in ELEMENTS:
        name = FLOAT16 if kind == FLOAT16 else FLOAT32
        change = bfloat16_convolutions if kind == BFLOAT16 else lambda model: model
        try:
            peak = ruler.matrix_peak(kind, matrix)
            session = ruler.session(change(with_weights(_read(graphs, f"{name}-all"))), tf32=kind == TF32)
            off = {side: _differences(ruler.run(session, images[side][:1]), expected[side]) for side in sides}
            del session  # its memory is not that of the next one
            before = memory_used()
            session = ruler.session(change(with_weights(_read(graphs, name))), tf32=kind == TF32)
        except Exception as error:  # noqa: BLE001 - why it is not possible is a result, and other kinds go on
            found[kind] = {"not possible": f"{type(error).__name__}: {error}"[:_REASON_LENGTH]}
            continue
        speeds = [
            _speed(ruler, session, images[side][:batch], works[side], peak) for side in sides for batch in batches
        ]
        after = memory_used()
        del session
        found[kind] = {
            "matrix peak TFLOP/s": peak / 1e12,
            "largest difference from the CPU in float32": off,
            "memory MiB": None if before is None or after is None else after - before,
            "speeds": speeds,
        }
    return found


def _differences(found: dict[str, NDArray[Any]], expected: dict[str, NDArray[Any]]) -> dict[str, float]:
    """Returns the largest difference of a probability, and that of what Softmax takes, of its largest magnitude."""
    off = {name: float(np.abs(found[name] - expected[name]).max()) for name in (PROBABILITIES, SCORES)}
    return {**off, SCORES: off[SCORES] / float(np.abs(expected[SCORES]).max())}


def _read(graphs: Path, name: str) -> onnx.ModelProto:
    return onnx.load(str(graphs / f"{name}.onnx"), load_external_data=False)


def _speed(ruler: Ruler, session: Any, images: Images, work: int, peak: float) -> dict[str, Any]:
    """Returns the speed of a batch; why not, if it failed."""
    batch, side = images.shape[:2]
    try:
        seconds = ruler.median(lambda: ruler.run(session, images))
    except Exception as error:  # noqa: BLE001 - it may not fit
        return {"side": side, "batch": batch, "not possible": f"{type(error).__name__}: {error}"[:_REASON_LENGTH]}
    return {
        "side": side,
        "batch": batch,
        "milliseconds": seconds * 1e3,
        "images a second": batch / seconds,
        "share of the matrix peak": 2 * work * batch / seconds / peak,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("graphs", type=Path, metavar="GRAPHS", help="the folder that export.py wrote")
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu", help="cpu tries the script itself")
    parser.add_argument("--sides", type=int, nargs="+", default=[451], help="sides of the images, in pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64], help="images in a batch")
    parser.add_argument("--seconds", type=float, default=1.0, help="for how long each measurement goes on")
    parser.add_argument("--matrix", type=int, default=8192, help="side of the matrices that give the peak")
    parser.add_argument("--output", type=Path, help="also writes the JSON into this file")
    chosen = parser.parse_args(arguments)
    if chosen.device == "gpu" and CUDA in onnxruntime.get_available_providers():
        onnxruntime.preload_dlls()
    elif chosen.device == "gpu":
        print(f"no GPU: ONNX Runtime {onnxruntime.__version__} is built without CUDA", file=sys.stderr)  # noqa: T201
        return 1
    ruler = Ruler(CUDA if chosen.device == "gpu" else CPU, chosen.seconds)
    report = {
        "device": chosen.device,
        "machine": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "cuda": onnxruntime.cuda_version,
        "found": measure(chosen.graphs, ruler, chosen.sides, chosen.batches, chosen.matrix),
    }
    text = json.dumps(report, indent=2)
    print(text)  # noqa: T201
    if chosen.output is not None:
        chosen.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
