"""Layers that combine blobs, or a blob and learned values, by arithmetic: Eltwise, Scale."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from conversion.caffe_pb2 import EltwiseParameter, LayerParameter
from conversion.layers.base import Array, ElementwiseLayer, Layer, Shape, Tensor, canonical_axis, register
from conversion.layers.layout import from_caffe, tensorflow, to_caffe


@register("Eltwise")
@dataclasses.dataclass(frozen=True, eq=False)
class Eltwise(Layer):
    """The product, weighted sum or maximum of blobs of one shape, value by value; nothing is broadcast."""

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
        """The common shape."""
        if len(set(bottoms)) > 1:
            raise self.invalid(f"bottoms of different shapes {list(bottoms)}", why="Eltwise does not broadcast")
        return [bottoms[0]]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """The formula."""
        return [self._combine(bottoms, np.maximum)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """The formula."""
        return [self._combine(bottoms, tensorflow().maximum)]

    def _combine(self, bottoms: Sequence[Any], maximum: Any) -> Any:
        if self.operation == "PROD":
            return functools.reduce(lambda a, b: a * b, bottoms)
        if self.operation == "MAX":
            return functools.reduce(maximum, bottoms)
        coeff = self.coeff or (1.0,) * len(bottoms)
        return functools.reduce(lambda a, b: a + b, (c * x if c != 1.0 else x for c, x in zip(coeff, bottoms, strict=True)))


@register("Scale")
@dataclasses.dataclass(frozen=True, eq=False)
class Scale(ElementwiseLayer):
    """x * scale (+ bias), where scale covers `num_axes` axes of the bottom from `axis` on (scale_layer.cpp).

    The scale is a learned blob, or the second bottom; `num_axes: -1` covers all axes from `axis`, 0 is a single value.
    """

    axis: int = 1
    num_axes: int = 1
    bias_term: bool = False

    bottom_count = (1, 2)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `scale_param`."""
        message = definition.scale_param
        layer = cls(definition, message.axis, message.num_axes, message.bias_term)
        if layer.num_axes < -1:
            raise layer.invalid(f"num_axes {layer.num_axes} is below -1")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The first bottom's shape; a second one must match its axes."""
        self._operand(bottoms)
        return [bottoms[0]]

    def _operand(self, bottoms: Sequence[Shape]) -> tuple[int, Shape]:
        """(axis, shape) of the scale."""
        axis = canonical_axis(self, self.axis, len(bottoms[0]))
        if len(bottoms) == 2:
            axis = 0 if not bottoms[1] else axis
            end = axis + len(bottoms[1])
            if bottoms[0][axis:end] != bottoms[1]:
                raise self.invalid(f"a scale of {bottoms[1]} does not match axes {axis} to {end - 1} of {bottoms[0]}")
            return axis, bottoms[1]
        end = len(bottoms[0]) if self.num_axes == -1 else axis + self.num_axes
        if end > len(bottoms[0]):
            raise self.invalid(f"axis {axis} and num_axes {self.num_axes} reach past a bottom of {len(bottoms[0])} axes")
        return axis, bottoms[0][axis:end]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The scale unless it is a bottom; the bias if there is one."""
        shape = self._operand(bottoms)[1]
        return [shape] * ((len(bottoms) == 1) + self.bias_term)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """The formula."""
        return [self._apply(bottoms, blobs, bottoms[0].shape)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """The formula in Caffe's axis order where it must be."""
        x = bottoms[0]
        if x.shape.rank == 4 and len(bottoms) == 1 and self.axis in (1, -3) and self.num_axes == 1:
            # One value a channel, the common case: channels are last, so that it broadcasts without a transpose.
            y = x * variables[0]
            return [y + variables[1] if self.bias_term else y]
        caffe = [to_caffe(b) for b in bottoms]
        return [from_caffe(self._apply(caffe, variables, caffe[0].shape))]

    def _apply(self, bottoms: Sequence[Any], blobs: Sequence[Any], shape: Sequence[Any]) -> Any:
        axis = canonical_axis(self, self.axis, len(shape))
        views = []
        for operand in (*bottoms[1:], *blobs):
            trailing = len(shape) - axis - len(operand.shape) if len(operand.shape) else 0
            views.append(operand[(..., *[None] * trailing)])
        return bottoms[0] * views[0] + views[1] if self.bias_term else bottoms[0] * views[0]
