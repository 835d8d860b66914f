"""Builds an ONNX graph, node by node: what the ONNX forms of layers are written in.

Blobs have Caffe's axis order throughout, so that no layer changes the layout.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from conversion.arrays import Array
from conversion.layers.onnx_value import IR_VERSION, OPSET, Dim, Value, element_type, import_onnx, output_type

if TYPE_CHECKING:
    import onnx

__all__ = ["OPSET", "Dim", "OnnxGraph", "Value"]

Attribute = int | float | str | Sequence[int] | Sequence[float]
_FEW = 64  # elements of a constant that shape inference may need: shapes, pads, axes


class OnnxGraph:
    """A graph that grows by one node at a time, each with the shapes of its outputs.

    Names of values follow the scope (the layer) that is open; they are unique, and differ from every reserved one.

    Args:
        reserved: Names that no value gets.
        opset: The version of ONNX's operations.
    """

    def __init__(self, reserved: Iterable[str] = (), *, opset: int = OPSET) -> None:
        self._onnx = import_onnx()
        self._opset = opset
        self._taken = set(reserved)
        self._scope = ""
        self._nodes: list[onnx.NodeProto] = []
        self._inputs: list[Value] = []
        self._outputs: list[tuple[str, Value]] = []
        self._constants: dict[str, Value] = {}
        self._tensors: dict[str, onnx.TensorProto] = {}
        self._memo: dict[object, Value] = {}

    @contextlib.contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Names the nodes that are added meanwhile after `name`, such as a layer's."""
        outer, self._scope = self._scope, name
        try:
            yield
        finally:
            self._scope = outer

    def input(self, name: str, dtype: str, shape: Sequence[Dim], *, finite: bool = False) -> Value:
        """Adds an input of the graph."""
        value = Value(name, dtype, tuple(shape), finite)
        self._taken.add(name)
        self._inputs.append(value)
        return value

    def output(self, name: str, value: Value) -> None:
        """Makes a value an output of the graph under this name, which must be reserved."""
        self._outputs.append((name, value))

    def constant(self, array: Array) -> Value:
        """Returns a constant; one node or many may use it. Equal small ones are one."""
        array = np.ascontiguousarray(array) if array.ndim else array
        key = (str(array.dtype), array.shape, array.tobytes()) if array.size <= _FEW else id(array)
        if key not in self._memo:
            self._memo[key] = self._known(array, "constant")
        return self._memo[key]

    def integers(self, values: Sequence[int]) -> Value:
        """Returns a constant vector of int64: a shape, axes, amounts of padding."""
        return self.constant(np.array(values, np.int64))

    def scalar(self, number: float, like: Value) -> Value:
        """Returns a constant without axes, in the type of `like`."""
        return self.constant(np.array(number, like.dtype))

    def variable(self, array: Array, tensor: onnx.TensorProto | None = None) -> Value:
        """Returns a learned blob.

        Args:
            array: Its values, float32.
            tensor: How the graph refers to a file that holds them (external data), named or not; None: the graph holds
                them.
        """
        value = self._known(array, "weights", stored=tensor is not None)
        if tensor is not None:
            self._tensors[value.name] = tensor
            tensor.name = value.name
        return value

    def declared(self, tensor: onnx.TensorProto) -> Value:
        """Returns a learned blob whose values lie outside the graph and are not looked at; they are finite."""
        value = Value(self._name("weights"), "float32", tuple(tensor.dims), finite=True, stored=True)
        tensor.name = value.name
        self._constants[value.name], self._tensors[value.name] = value, tensor
        return value

    def _known(self, array: Array, kind: str, *, stored: bool = False) -> Value:
        value = Value(
            self._name(kind), str(array.dtype), array.shape, bool(np.isfinite(array).all()), array, stored=stored
        )
        self._constants[value.name] = value
        return value

    def node(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        *,
        shape: Sequence[Dim] | None = None,
        finite: bool | None = None,
        **attributes: Attribute,
    ) -> Value:
        """Adds a node with one output; see `nodes`."""
        (value,) = self._add(op_type, inputs, 1, shape=shape, finite=finite, attributes=attributes)
        return value

    def nodes(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        outputs: int,
        *,
        shape: Sequence[Dim] | None = None,
        finite: bool | None = None,
        **attributes: Attribute,
    ) -> list[Value]:
        """Adds a node and returns its outputs.

        Args:
            op_type: An operation of the graph's opset.
            inputs: None for an optional input that is left out.
            outputs: How many outputs it has.
            shape: Lengths of axes of the first output that ONNX's shape inference cannot know; it fills in the rest.
            finite: Whether the outputs are finite; by default if all inputs are.
            attributes: By ONNX's names.
        """
        return self._add(op_type, inputs, outputs, shape=shape, finite=finite, attributes=attributes)

    def _add(
        self,
        op_type: str,
        inputs: Sequence[Value | None],
        outputs: int,
        *,
        shape: Sequence[Dim] | None = None,
        finite: bool | None = None,
        attributes: Mapping[str, Attribute],
    ) -> list[Value]:
        helper = self._onnx.helper
        names = [self._name(op_type) for _ in range(outputs)]
        node = helper.make_node(op_type, ["" if i is None else i.name for i in inputs], names, names[0], **attributes)
        given = {i.name: i for i in inputs if i is not None}
        small = {
            name: self._onnx.numpy_helper.from_array(i.array, name)
            for name, i in given.items()
            if i.array is not None and i.array.size <= _FEW
        }
        types = self._onnx.shape_inference.infer_node_outputs(
            self._onnx.defs.get_schema(op_type, self._opset, ""),
            node,
            {
                name: helper.make_tensor_type_proto(element_type(self._onnx, i.dtype), i.shape)
                for name, i in given.items()
            },
            small,
            opset_imports=[helper.make_opsetid("", self._opset)],
            ir_version=IR_VERSION,
        )
        self._nodes.append(node)
        if finite is None:
            finite = all(i.finite for i in given.values())
        stated = [shape, *[None] * (outputs - 1)]
        return [
            Value(name, *output_type(self._onnx, types[name], known), finite=finite)
            for name, known in zip(names, stated, strict=True)
        ]

    def cast(self, value: Value, dtype: str) -> Value:
        """Returns the value in another type."""
        if value.dtype == dtype:
            return value
        if value.foldable and value.array is not None:
            with np.errstate(over="ignore"):  # infinity, which the verification of the model finds
                return self._folded(value, ("cast", dtype), value.array.astype(dtype))
        return self._once(value, "Cast", "to", element_type(self._onnx, dtype))

    def transposed(self, value: Value, order: Sequence[int]) -> Value:
        """Returns the value with its axes in another order."""
        if list(order) == list(range(value.rank)):
            return value
        if value.foldable and value.array is not None:
            array = np.ascontiguousarray(value.array.transpose(order))
            return self._folded(value, ("transposed", *order), array)
        return self._once(value, "Transpose", "perm", list(order))

    def reshaped(self, value: Value, shape: Sequence[int]) -> Value:
        """Returns the value under another shape that is known, but for one -1."""
        if tuple(shape) == value.shape:
            return value
        if value.foldable and value.array is not None:
            return self._folded(value, ("reshaped", *shape), value.array.reshape(shape))
        return self.node("Reshape", [value, self.integers(shape)])

    def concatenated(self, values: Sequence[Value], axis: int) -> Value:
        """Returns values joined along an axis."""
        if len(values) == 1:
            return values[0]
        if all(value.foldable for value in values):
            names = tuple(value.name for value in values)
            array = np.concatenate([value.array for value in values if value.array is not None], axis)
            return self._folded(values[0], ("concatenated", axis, names), array)
        return self.node("Concat", values, axis=axis)

    def _folded(self, source: Value, how: tuple[object, ...], array: Array) -> Value:
        """Returns a constant computed from another, the same one for every layer that shares the weights."""
        key = (source.name, how)
        if key not in self._memo:
            self._memo[key] = self._known(array, "weights")
        return self._memo[key]

    def _once(self, value: Value, op_type: str, attribute: str, setting: int | Sequence[int]) -> Value:
        """Adds a node of one input, unless the graph has it."""
        key = (value.name, op_type, str(setting))
        if key not in self._memo:
            (self._memo[key],) = self._add(op_type, [value], 1, attributes={attribute: setting})
        return self._memo[key]

    def shape_of(self, value: Value) -> Value:
        """Returns the shape as a vector of int64, a constant if every length is known."""
        known = [length for length in value.shape if isinstance(length, int)]
        if len(known) == value.rank:
            return self.integers(known)
        key = (value.name, "Shape")
        if key not in self._memo:
            self._memo[key] = self.node("Shape", [value])
        return self._memo[key]

    def _name(self, kind: str) -> str:
        stem = f"{self._scope}/{kind}" if self._scope else kind
        name, count = stem, 1
        while name in self._taken:
            count += 1
            name = f"{stem}_{count}"
        self._taken.add(name)
        return name

    def model(self, name: str, metadata: Mapping[str, str] | None = None) -> onnx.ModelProto:
        """Returns the graph as a model, with what its outputs need and nothing else.

        Args:
            name: The graph's name.
            metadata: Written to `metadata_props`.
        """
        helper = self._onnx.helper
        nodes, renamed = self._named_outputs()
        used = {i for node in nodes for i in node.input}
        constants = [value for value in self._constants.values() if value.name in used]
        for node in nodes:
            for names in (node.input, node.output):
                names[:] = [renamed.get(old, old) for old in names]
        graph = helper.make_graph(
            nodes,
            name or "network",
            [self._info(value.name, value) for value in self._inputs],
            [self._info(name, value) for name, value in self._outputs],
        )
        model: onnx.ModelProto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self._opset)],
            ir_version=IR_VERSION,
            producer_name="densecast",
        )
        for value in constants:  # one by one, into the model: all of them at once would be another copy in memory
            tensor = self._tensors.get(value.name) or self._onnx.numpy_helper.from_array(value.array, value.name)
            model.graph.initializer.add().CopyFrom(tensor)
        helper.set_model_props(model, dict(metadata or {}))
        return model

    def _named_outputs(self) -> tuple[list[onnx.NodeProto], dict[str, str]]:
        """Returns copies of the nodes that outputs depend on, in order, and new names for values that are outputs."""
        produced = {name for node in self._nodes for name in node.output}
        renamed: dict[str, str] = {}
        copies = []
        for name, value in self._outputs:
            if value.name in produced and value.name not in renamed:
                renamed[value.name] = name
            else:  # an input, a constant, or a second name
                label = self._name(f"{name}/Identity")
                copies.append(self._onnx.helper.make_node("Identity", [value.name], [name], label))
        needed = {value.name for _, value in self._outputs}
        kept = []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(type(node).FromString(node.SerializeToString()))
        return [*reversed(kept), *copies], renamed

    def _info(self, name: str, value: Value) -> onnx.ValueInfoProto:
        info: onnx.ValueInfoProto = self._onnx.helper.make_tensor_value_info(
            name, element_type(self._onnx, value.dtype), value.shape
        )
        return info
