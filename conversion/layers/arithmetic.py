"""Layers that combine blobs, or a blob and learned values: Eltwise, Axpy, Scale, Bias."""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import EltwiseParameter, LayerParameter
from conversion.layers.base import ElementwiseLayer, Layer, Narrow, canonical_axis, register
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import reshaped, size_of


@register("Eltwise")
@dataclasses.dataclass(frozen=True, eq=False)
class Eltwise(Layer):
    """The product, weighted sum or maximum of blobs of one shape, value by value (eltwise_layer.cpp).

    The second bottom may have fewer axes, as in Synopsys' fork: its axes are the first one's from `axis` on (0 by
    default), and its values are repeated over the others.
    """

    operation: str = "SUM"
    coeff: tuple[float, ...] = ()
    axis: int = 0

    bottom_count = (2, None)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `eltwise_param`."""
        message = definition.eltwise_param
        layer = cls(definition, EltwiseParameter.EltwiseOp.Name(message.operation), tuple(message.coeff), message.axis)
        if layer.coeff and len(layer.coeff) != len(definition.bottom):
            raise layer.invalid(f"{len(layer.coeff)} coeff for {len(definition.bottom)} bottoms")
        if layer.coeff and layer.operation == "PROD":
            raise layer.invalid("coeff with PROD", why="Eltwise layer only takes coefficients for summation (Caffe)")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the common shape."""
        first, second = bottoms[:2]
        axis = canonical_axis(self, self.axis, len(first)) if first else 0
        repeated = len(second) < len(first) and first[axis : axis + len(second)] == second
        same = [shape for shape in bottoms if shape == first]
        if len(same) + repeated < len(bottoms):
            raise self.invalid(
                f"bottoms of different shapes {list(bottoms)}",
                why=f"only the second may have fewer axes, and they must be the first one's from axis {axis} on",
            )
        return [first]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        return [self._combine(self._aligned(bottoms), np.maximum)]

    def _aligned(self, bottoms: Sequence[Tensor]) -> list[Tensor]:
        """Returns the bottoms in Caffe's order, the second with trailing axes of size 1 where it is repeated."""
        first, second, *others = bottoms
        covered, rank = len(second.shape), len(first.shape)
        trailing = rank - canonical_axis(self, self.axis, rank) - covered if covered < rank else 0
        return [first, second[(..., *[None] * trailing)], *others]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula, in Caffe's axis order where a bottom is repeated."""
        maximum = import_tensorflow().maximum
        if bottoms[0].shape.rank == bottoms[1].shape.rank:
            return [self._combine(bottoms, maximum)]
        return [from_caffe(self._combine(self._aligned([to_caffe(bottom) for bottom in bottoms]), maximum))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Mul, Max or Add on two bottoms at a time."""
        kind = {"PROD": "Mul", "MAX": "Max", "SUM": "Add"}[self.operation]
        first, second, *others = bottoms
        covered = second.rank
        if covered < first.rank:
            last = covered + first.rank - canonical_axis(self, self.axis, first.rank) - covered
            axes = graph.integers(range(covered, last))
            bottoms = [first, graph.node("Unsqueeze", [second, axes]) if last > covered else second, *others]
        coeff = (self.coeff or (1.0,) * len(bottoms)) if kind == "Add" else (1.0,) * len(bottoms)
        terms = [
            graph.node("Mul", [x, graph.scalar(c, x)]) if c != 1.0 else x for c, x in zip(coeff, bottoms, strict=True)
        ]
        return [functools.reduce(lambda a, b: graph.node(kind, [a, b]), terms)]

    def _combine(self, bottoms: Sequence[Tensor], maximum: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        if self.operation == "PROD":
            return functools.reduce(lambda a, b: a * b, bottoms)
        if self.operation == "MAX":
            return functools.reduce(maximum, bottoms)
        coeff = self.coeff or (1.0,) * len(bottoms)
        return functools.reduce(
            lambda a, b: a + b, (c * x if c != 1.0 else x for c, x in zip(coeff, bottoms, strict=True))
        )


@register("Axpy")
@dataclasses.dataclass(frozen=True, eq=False)
class Axpy(Layer):
    """a * x + y, one factor a per channel of each item (Hu et al. 2017, SENet; axpy_layer.cpp of its fork).

    Bottoms: a, [N, C] or [N, C, 1, 1]; x, [N, C, ...]; and y, of x's shape.
    """

    may_be_in_place = False
    bottom_count = (3, 3)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shape of x."""
        factor, x, y = bottoms
        if x != y:
            raise self.invalid(f"bottoms of different shapes {x} and {y}", why="they are added")
        if len(x) < 2 or factor not in (x[:2], (*x[:2], 1, 1)):
            raise self.invalid(
                f"a factor of {factor} for a bottom of {x}",
                why="it has one value for each channel of each item, at one position",
            )
        return [x]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        factor, x, y = bottoms
        return [factor.reshape(*x.shape[:2], *[1] * (x.ndim - 2)) * x + y]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula, with channels last where the rank is 4."""
        tf = import_tensorflow()
        factor, x, y = bottoms
        rank = x.shape.rank
        items, channels = tf.shape(factor)[0], factor.shape[-1 if factor.shape.rank == 4 else 1]
        ones = [1] * (rank - 2)
        shape = [items, *ones, channels] if rank == 4 else [items, channels, *ones]
        # A factor with several positions has more values than the new shape: it fails at run time too.
        return [tf.reshape(factor, tf.stack(shape)) * x + y]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Mul and Add; a factor with several positions fails at run time."""
        factor, x, y = bottoms
        one = reshaped(graph, factor, [size_of(graph, factor, 0), factor.known(1), *[1] * (x.rank - 2)])
        return [graph.node("Add", [graph.node("Mul", [one, x]), y])]


class OperandLayer(ElementwiseLayer):
    """Base of Scale and Bias: an operand covers some axes of the bottom and is repeated over the others.

    The operand is a learned blob that covers `num_axes` axes from `axis` on (-1: all of them, 0: a single value), or
    the second bottom, whose number of axes counts.
    """

    axis: int
    num_axes: int

    bottom_count = (1, 2)

    def check_parameters(self) -> Self:
        """Returns the layer itself; raises NetworkError if `num_axes` is below -1."""
        if self.num_axes < -1:
            raise self.invalid(f"num_axes {self.num_axes} is below -1")
        return self

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the first bottom's shape; a second one must match its axes."""
        self.operand(bottoms)
        return [bottoms[0]]

    def operand(self, bottoms: Sequence[Shape]) -> Shape:
        """Returns the shape of the operand."""
        if len(bottoms) == 2 and not bottoms[1]:
            return ()  # a single value fits any axis
        axis = canonical_axis(self, self.axis, len(bottoms[0]))
        if len(bottoms) == 2:
            end = axis + len(bottoms[1])
            if bottoms[0][axis:end] != bottoms[1]:
                raise self.invalid(
                    f"an operand of {bottoms[1]} does not match axes {axis} to {end - 1} of {bottoms[0]}"
                )
            return bottoms[1]
        end = len(bottoms[0]) if self.num_axes == -1 else axis + self.num_axes
        if end > len(bottoms[0]):
            raise self.invalid(
                f"axis {axis} and num_axes {self.num_axes} reach past a bottom of {len(bottoms[0])} axes"
            )
        return bottoms[0][axis:end]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes the formula; operands get trailing axes of size 1 up to the bottom's last axis."""
        return [self.combine(bottoms[0], self._aligned(bottoms, blobs))]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Computes the formula, in Caffe's axis order where it must."""
        x = bottoms[0]
        if x.shape.rank == 4 and len(bottoms) == 1 and self.axis in (1, -3) and self.num_axes == 1:
            # One value per channel, the common case: channels are last, so that it broadcasts without a transpose.
            return [self.combine(x, variables)]
        caffe = [to_caffe(b) for b in bottoms]
        return [from_caffe(self.combine(caffe[0], self._aligned(caffe, variables)))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Computes the formula; operands get trailing axes of size 1, as in the reference."""
        x = bottoms[0]
        given = []
        for operand in bottoms[1:]:
            trailing = self._trailing(x.rank, operand.rank)
            axes = graph.integers(range(operand.rank, operand.rank + trailing))
            given.append(graph.node("Unsqueeze", [operand, axes]) if trailing else operand)
        learned = [
            graph.reshaped(v, [*(v.known(axis) for axis in range(v.rank)), *[1] * self._trailing(x.rank, v.rank)])
            for v in variables
        ]
        return [self.onnx_combine(graph, x, [*given, *learned])]

    def _trailing(self, rank: int, covered: int) -> int:
        """Returns the number of the bottom's axes after those that an operand covers; 0 for a single value."""
        return rank - canonical_axis(self, self.axis, rank) - covered if covered else 0

    def _aligned(self, bottoms: Sequence[Tensor], blobs: Sequence[Tensor]) -> list[Tensor]:
        """Returns the operands, in order, each broadcastable to the first bottom."""
        rank = len(bottoms[0].shape)
        operands = (*bottoms[1:], *blobs)
        return [operand[(..., *[None] * self._trailing(rank, len(operand.shape)))] for operand in operands]

    @abstractmethod
    def combine(self, x: Tensor, operands: Sequence[Tensor]) -> Tensor:
        """Computes the formula, the same for arrays and tensors."""

    @abstractmethod
    def onnx_combine(self, graph: OnnxGraph, x: Value, operands: Sequence[Value]) -> Value:
        """Computes the formula as nodes of an ONNX graph."""


@register("Scale")
@dataclasses.dataclass(frozen=True, eq=False)
class Scale(OperandLayer):
    """x * scale (+ bias) (scale_layer.cpp); the bias has the scale's shape and is always learned."""

    axis: int = 1
    num_axes: int = 1
    bias_term: bool = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `scale_param`."""
        message = definition.scale_param
        return cls(definition, message.axis, message.num_axes, message.bias_term).check_parameters()

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the scale unless it is a bottom; the bias if there is one."""
        return [self.operand(bottoms)] * ((len(bottoms) == 1) + self.bias_term)

    def plausible(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns them with scales near 1."""
        return [1 + blobs[0], *blobs[1:]] if len(self.bottoms) == 1 else list(blobs)

    def combine(self, x: Tensor, operands: Sequence[Tensor]) -> Tensor:
        """Returns what the class states."""
        return x * operands[0] + operands[1] if self.bias_term else x * operands[0]

    def onnx_combine(self, graph: OnnxGraph, x: Value, operands: Sequence[Value]) -> Value:
        """Returns what the class states."""
        top = graph.node("Mul", [x, operands[0]])
        return graph.node("Add", [top, operands[1]]) if self.bias_term else top


@register("Bias")
@dataclasses.dataclass(frozen=True, eq=False)
class Bias(OperandLayer):
    """x + bias (bias_layer.cpp)."""

    axis: int = 1
    num_axes: int = 1

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `bias_param`."""
        return cls(definition, definition.bias_param.axis, definition.bias_param.num_axes).check_parameters()

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bias, unless it is a bottom."""
        return [self.operand(bottoms)] if len(bottoms) == 1 else []

    def combine(self, x: Tensor, operands: Sequence[Tensor]) -> Tensor:
        """Returns what the class states."""
        return x + operands[0]

    def onnx_combine(self, graph: OnnxGraph, x: Value, operands: Sequence[Value]) -> Value:
        """Returns what the class states."""
        return graph.node("Add", [x, operands[0]])
