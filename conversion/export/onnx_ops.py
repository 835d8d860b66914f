"""Refuses ONNX graphs of model directories that are not plain arithmetic over the model's own weights.

The graph is read as a message, and nothing of it is run. ONNX Runtime would open whatever file a graph names as the
place of its weights, and would run operations of other domains.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from conversion.errors import ModelError
from conversion.export.onnx_model import GRAPH_FILE
from conversion.export.weights_store import read_index
from conversion.layers.onnx_value import import_onnx

if TYPE_CHECKING:
    import onnx

# What the layers are made of, and their close relatives. No operation of ONNX's own domain touches anything but its
# inputs; those with graphs of their own, random numbers, sequences and strings are left out.
_NAMES = """
Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
ConvTranspose CumSum DepthToSpace Div Einsum Elu Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gemm
GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual HardSigmoid HardSwish Hardmax Identity
InstanceNormalization IsInf IsNaN LRN LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max
MaxPool MaxUnpool Mean MeanVarianceNormalization Min Mish Mod Mul Neg NonZero Not OneHot Or PRelu Pad Pow Range
Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
ReduceSumSquare Relu Reshape Resize Round ScatterElements ScatterND Selu Shape Sigmoid Sign Size Slice Softmax Softplus
Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tanh ThresholdedRelu Tile TopK Transpose Unsqueeze Where Xor
"""
ARITHMETIC = frozenset(_NAMES.split())
_OWN_DOMAIN = ("", "ai.onnx")
_MAX_BYTES = 256 << 20  # without weights; ResNet-50 makes 100 kB


def check_onnx(model: str | Path) -> None:
    """Checks the ONNX graph of a model directory without running it.

    Raises:
        ModelError: It has operations that no layer needs, graphs within its graph, or weights at other places than the
            model's own; it cannot be read.
    """
    path = Path(model) / GRAPH_FILE
    proto = _read(path)
    _check_model(proto, str(path))
    index = read_index(model)
    size = (Path(model) / index.file).stat().st_size
    for tensor in proto.graph.initializer:
        _check_tensor(tensor, index.file, size, str(path))


def _check_model(proto: onnx.ModelProto, where: str) -> None:
    if proto.functions or proto.training_info or proto.graph.sparse_initializer:
        raise _refusal("the graph has functions, training steps or sparse weights", where)
    found: dict[str, str] = {}
    for node in proto.graph.node:
        if node.op_type not in ARITHMETIC or node.domain not in _OWN_DOMAIN:
            found[f"{node.domain}.{node.op_type}".lstrip(".")] = node.name
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            found[f"{node.op_type} with a graph of its own"] = node.name
        if any(attribute.t.external_data or attribute.t.data_location for attribute in node.attribute):
            found[f"{node.op_type} with a file of its own"] = node.name
        if any(attribute.HasField("sparse_tensor") or attribute.sparse_tensors for attribute in node.attribute):
            found[f"{node.op_type} with sparse weights"] = node.name
        if any(attribute.tensors for attribute in node.attribute):
            found[f"{node.op_type} with several tensors"] = node.name
    if found:
        shown = ", ".join(f"{op} (node {name!r})" for op, name in sorted(found.items())[:5])
        raise _refusal(f"the graph has operations that no layer needs: {shown}", where)


def _check_tensor(tensor: onnx.TensorProto, file: str, size: int, where: str) -> None:
    """Raises ModelError if an initializer lies outside the graph, and elsewhere than within the model's weights."""
    if not (tensor.data_location or tensor.external_data):
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    numbers = [entries.get(key, "") for key in ("offset", "length")]
    if entries.get("location") != file or not all(number.isascii() and number.isdigit() for number in numbers):
        raise _refusal(f"weights {tensor.name!r} are in {entries.get('location')!r}, not in {file}", where)
    if sum(map(int, numbers)) > size:
        raise _refusal(f"weights {tensor.name!r} lie outside {file}", where)


def _read(path: Path) -> onnx.ModelProto:
    onnx_module = import_onnx()
    from google.protobuf.message import DecodeError

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
        if len(data) > _MAX_BYTES:
            raise _refusal(f"the graph has more than {_MAX_BYTES:,} bytes", str(path))
        proto: onnx.ModelProto = onnx_module.ModelProto.FromString(data)
    except (OSError, DecodeError) as error:
        raise ModelError(
            f"the graph cannot be read: {error}",
            where=str(path),
            remedy="make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL",
        ) from error
    return proto


def _refusal(what: str, where: str) -> ModelError:
    return ModelError(
        what,
        where=where,
        why="a graph may name files and operations of other programs, so only what densecast writes is loaded",
        remedy="convert the classifier's Caffe files with: densecast convert PROTOTXT WEIGHTS --output MODEL",
    )
