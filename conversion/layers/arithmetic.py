"""Layers that combine blobs, or a blob and learned values: Eltwise, Scale, Bias."""

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


@register("Eltwise")
@dataclasses.dataclass(frozen=True, eq=False)
class Eltwise(Layer):
    """The product, weighted sum or maximum of blobs of one shape, value by value, without broadcasting."""

    operation: str = "SUM"
    coeff: tuple[float, ...] = ()

    bottom_count = (2, None)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `eltwise_param`."""
        message = definition.eltwise_param
        layer = cls(definition, EltwiseParameter.EltwiseOp.Name(message.operation), tuple(message.coeff))
        if layer.coeff and len(layer.coeff) != len(definition.bottom):
            raise layer.invalid(f"{len(layer.coeff)} coeff for {len(definition.bottom)} bottoms")
        if layer.coeff and layer.operation == "PROD":
            raise layer.invalid("coeff with PROD", why="Eltwise layer only takes coefficients for summation (Caffe)")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the common shape."""
        if len(set(bottoms)) > 1:
            raise self.invalid(f"bottoms of different shapes {list(bottoms)}", why="Eltwise does not broadcast")
        return [bottoms[0]]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        return [self._combine(bottoms, np.maximum)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula."""
        return [self._combine(bottoms, import_tensorflow().maximum)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Mul, Max or Add on two bottoms at a time."""
        kind = {"PROD": "Mul", "MAX": "Max", "SUM": "Add"}[self.operation]
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
