"""Refuses SavedModels whose graph does more than arithmetic; `saved_model.pb` is read, and nothing of it is run.

A SavedModel is a program. TensorFlow has operations that read and write files, open connections and call Python. Only
operations that the layers of densecast are made of are accepted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from conversion.errors import ModelError
from conversion.layers.layout import import_tensorflow

GRAPH_FILE = "saved_model.pb"

# What the layers, the preprocessing and the signatures are made of, in the versions of TensorFlow that densecast has
# used and their close relatives. None of them touches anything but its inputs and the model's variables.
_NAMES = """
Abs Add AddN AddV2 All Any ArgMax ArgMin Assert AssignVariableOp AvgPool AvgPool3D BatchMatMul BatchMatMulV2
BatchToSpaceND BiasAdd BroadcastTo Cast Ceil ClipByValue Concat ConcatV2 Const Conv2D Conv2DBackpropInput Conv3D
DepthToSpace DepthwiseConv2dNative DepthwiseConv2dNativeBackpropInput DisableCopyOnRead Einsum Elu Equal Exp
ExpandDims Expm1 ExtractImagePatches Fill Floor FloorDiv FloorMod FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3
Gather GatherNd GatherV2 Greater GreaterEqual Identity IdentityN LRN LeakyRelu Less LessEqual Log Log1p LogSoftmax
LogicalAnd LogicalNot LogicalOr MatMul Max MaxPool MaxPool3D MaxPoolV2 MaxPoolWithArgmax Maximum Mean Min Minimum
MirrorPad Mul Neg NoOp NotEqual OnesLike Pack Pad PadV2 PartitionedCall Placeholder Pow Prod Range Rank
ReadVariableOp RealDiv Reciprocal Relu Relu6 Reshape ResourceGather ReverseV2 Round Rsqrt Select SelectV2 Selu Shape
ShapeN Sigmoid Sign Size Slice Softmax Softplus SpaceToBatchND SpaceToDepth Split SplitV Sqrt Square
SquaredDifference Squeeze StatefulPartitionedCall StopGradient StridedSlice Sub Sum Tanh Tile TopK TopKV2 Transpose
Unpack UnsortedSegmentMax VarHandleOp Where ZerosLike
"""
ARITHMETIC = frozenset(_NAMES.split())
# What TensorFlow adds to every SavedModel so that its variables can be saved and restored.
_SAVER = frozenset(
    ["MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename", "StaticRegexFullMatch", "StringJoin"]
)
_SAVER_PREFIXES = ("__inference__traced_save", "__inference__traced_restore")
_OBJECTS = frozenset(("user_object", "function", "variable", "bare_concrete_function", "constant", "captured_tensor"))


def check_graph(model: str | Path) -> None:
    """Checks that the graph of a model does arithmetic only, without running it.

    Raises:
        ModelError: It has other operations, other objects, or another form than densecast writes; it cannot be read.
    """
    where = str(Path(model) / GRAPH_FILE)
    others = [path.name for path in Path(model).glob("saved_model.*") if path.name != GRAPH_FILE]
    if others:
        raise _refusal(f"the graph has a second form, {others[0]}", where)
    meta_graph = _read(Path(model) / GRAPH_FILE)
    library = meta_graph.graph_def.library.function
    savers = {function.signature.name for function in library if function.signature.name.startswith(_SAVER_PREFIXES)}
    found: dict[str, str] = {}
    for function in library:
        name = function.signature.name
        allowed = ARITHMETIC | _SAVER if name in savers else ARITHMETIC
        found |= {node.op: name for node in function.node_def if node.op not in allowed}
        if savers.intersection(_called(function.node_def)):
            raise _refusal(f"function {name!r} calls the function that saves or restores variables", where)
    found |= {node.op: "the main graph" for node in meta_graph.graph_def.node if node.op not in ARITHMETIC}
    if found:
        shown = ", ".join(f"{op} in {place}" for op, place in sorted(found.items())[:5])
        raise _refusal(f"the graph has operations that no layer needs: {shown}", where)
    _check_objects(meta_graph.object_graph_def, savers, where)


def _read(path: Path) -> Any:
    """Returns the meta graph, as a protobuf message."""
    import_tensorflow()
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    message = saved_model_pb2.SavedModel()
    try:
        message.ParseFromString(path.read_bytes())
    except (OSError, DecodeError) as error:
        raise ModelError(
            f"the graph cannot be read: {error}",
            where=str(path),
            remedy="make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL",
        ) from error
    if len(message.meta_graphs) != 1 or not message.meta_graphs[0].object_graph_def.nodes:
        raise _refusal("the graph is not in the form that densecast writes", str(path))
    return message.meta_graphs[0]


def _called(nodes: Iterable[Any]) -> Iterator[str]:
    """Yields the names of the functions that nodes call."""
    for node in nodes:
        for value in node.attr.values():
            yield value.func.name
            yield from (function.name for function in value.list.func)


def _check_objects(graph: Any, savers: set[str], where: str) -> None:
    """Raises ModelError if loading would restore objects by code of their own, or offers the saver's functions."""
    kinds = {node.WhichOneof("kind") or "nothing" for node in graph.nodes}
    if kinds - _OBJECTS:
        raise _refusal(f"the model holds objects of another kind: {', '.join(sorted(kinds - _OBJECTS))}", where)
    if any(node.registered_saver or node.registered_name for node in graph.nodes):
        raise _refusal("the model asks for a class that is registered in the program that loads it", where)
    if savers.intersection(graph.concrete_functions):
        raise _refusal("the model offers the function that saves or restores variables", where)


def _refusal(what: str, where: str) -> ModelError:
    return ModelError(
        what,
        where=where,
        why="a SavedModel is a program: its graph may read files or run code, so only the operations that densecast "
        "writes are loaded",
        remedy="convert the classifier's Caffe files with: densecast convert PROTOTXT WEIGHTS --output MODEL",
    )
