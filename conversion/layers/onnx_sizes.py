"""Sizes in an ONNX graph: whole numbers where they are known, nodes where they come at run time."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from conversion.layers.onnx_graph import Dim, OnnxGraph, Value


@dataclasses.dataclass(eq=False)
class RunTimeSize:
    """The length of an axis, or a number computed from it, as a vector of one int64; computes like a whole number.

    Attributes:
        graph: The graph that computes it.
        source: The value and the axis of which it is the length; None if it is computed.
        computed: What holds the number; None until it is needed.
    """

    graph: OnnxGraph
    source: tuple[Value, int] | None = None
    computed: Value | None = None

    @property
    def value(self) -> Value:
        """The number in the graph."""
        if self.computed is None:
            if self.source is None:
                raise ValueError("a size needs a source or a value")
            of, axis = self.source
            shape = self.graph.shape_of(of)
            self.computed = self.graph.node("Gather", [shape, self.graph.integers([axis])], axis=0)
        return self.computed

    @property
    def dim(self) -> Dim:
        """Its name in shapes, if it has one."""
        return self.source[0].shape[self.source[1]] if self.source else None

    def _apply(self, op_type: str, left: Size, right: Size) -> RunTimeSize:
        inputs = [as_value(self.graph, left), as_value(self.graph, right)]
        return RunTimeSize(self.graph, computed=self.graph.node(op_type, inputs))

    def __add__(self, other: Size) -> Size:
        return self if _is(other, 0) else self._apply("Add", self, other)

    def __radd__(self, other: int) -> Size:
        return self + other

    def __sub__(self, other: Size) -> Size:
        return self if _is(other, 0) else self._apply("Sub", self, other)

    def __rsub__(self, other: int) -> Size:
        return self._apply("Sub", other, self)

    def __neg__(self) -> Size:
        return self._apply("Sub", 0, self)

    def __mul__(self, other: Size) -> Size:
        return self if _is(other, 1) else self._apply("Mul", self, other)

    def __rmul__(self, other: int) -> Size:
        return self * other

    def __floordiv__(self, other: int) -> Size:
        if other == 1:
            return self
        # ONNX's Div rounds towards 0; less the remainder, which has the divisor's sign, the division is exact.
        return self._apply("Div", self - self._apply("Mod", self, other), other)


Size = int | RunTimeSize


def _is(size: Size, number: int) -> bool:
    return isinstance(size, int) and size == number


def size_of(graph: OnnxGraph, value: Value, axis: int) -> Size:
    """Returns the length of an axis."""
    length = value.shape[axis]
    return length if isinstance(length, int) else RunTimeSize(graph, (value, axis))


def as_value(graph: OnnxGraph, size: Size) -> Value:
    """Returns a size as a vector of one int64."""
    return graph.integers([size]) if isinstance(size, int) else size.value


def as_dim(size: Size) -> Dim:
    """Returns a size as it stands in the shape of a value; None for -1, which is inferred."""
    if isinstance(size, int):
        return None if size == -1 else size
    return size.dim


def vector(graph: OnnxGraph, sizes: Sequence[Size]) -> Value:
    """Returns sizes as a vector of int64."""
    whole = [size for size in sizes if isinstance(size, int)]
    if len(whole) == len(sizes):
        return graph.integers(whole)
    return graph.node("Concat", [as_value(graph, size) for size in sizes], axis=0)


def smaller(one: Size, other: Size) -> Size:
    """Returns the smaller of two sizes."""
    return _choose("Min", one, other)


def larger(one: Size, other: Size) -> Size:
    """Returns the larger of two sizes."""
    return _choose("Max", one, other)


def _choose(op_type: str, one: Size, other: Size) -> Size:
    if isinstance(one, RunTimeSize):
        return one._apply(op_type, one, other)
    if isinstance(other, RunTimeSize):
        return other._apply(op_type, one, other)
    return min(one, other) if op_type == "Min" else max(one, other)


def reshaped(graph: OnnxGraph, value: Value, sizes: Sequence[Size]) -> Value:
    """Returns the value under a new shape, one size of which may be -1.

    The run fails if the number of values differs.
    """
    if all(_copies(size, value, axis) for axis, size in enumerate(sizes)) and len(sizes) == value.rank:
        return value
    dims = [as_dim(size) for size in sizes]
    if all(isinstance(size, int) or _copies(size, value, axis) for axis, size in enumerate(sizes)):
        # ONNX copies an axis where the new shape has a 0.
        return graph.node(
            "Reshape", [value, graph.integers([s if isinstance(s, int) else 0 for s in sizes])], shape=dims
        )
    return graph.node("Reshape", [value, vector(graph, sizes)], shape=dims)


def _copies(size: Size, value: Value, axis: int) -> bool:
    """Returns whether a size is the length of that axis of the value."""
    if isinstance(size, int):
        return axis < value.rank and value.shape[axis] == size
    return size.source is not None and size.source[0] is value and size.source[1] == axis


def padded(graph: OnnxGraph, value: Value, amounts: Sequence[Size], number: float) -> Value:
    """Returns a value with its last axes padded by a number.

    Args:
        graph: The graph.
        value: Any value.
        amounts: The cells before each of these axes, then those after each of them; known or not, none below 0.
        number: What the new cells hold.
    """
    if all(_is(size, 0) for size in amounts):
        return value
    before, after = amounts[: len(amounts) // 2], amounts[len(amounts) // 2 :]
    lead = [0] * (value.rank - len(before))
    lengths = [size_of(graph, value, axis) for axis in range(len(lead), value.rank)]
    shape = [*value.shape[: len(lead)], *(_sum(*sizes) for sizes in zip(lengths, before, after, strict=True))]
    pads = vector(graph, [*lead, *before, *lead, *after])
    return graph.node("Pad", [value, pads, graph.scalar(number, value)], shape=shape, mode="constant")


def _sum(*sizes: Size) -> int | None:
    """Returns the sum if all are known."""
    whole = [size for size in sizes if isinstance(size, int)]
    return sum(whole) if len(whole) == len(sizes) else None


def lowest(value: Value) -> float:
    """Returns the lowest number of the value's type: -FLT_MAX, or its counterpart in 16 bits."""
    return float(np.finfo(value.dtype).min)
