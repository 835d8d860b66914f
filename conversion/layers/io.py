"""Input: the inputs of a net."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from conversion.arrays import Array, Shape, Tensor
from conversion.layers.base import Layer, register
from conversion.layers.onnx_graph import OnnxGraph, Value


@register("Input")
@dataclasses.dataclass(frozen=True, eq=False)
class Input(Layer):
    """The net's inputs: one top each, with its own shape or one shape for all."""

    bottom_count = (0, 0)
    top_count = (1, None)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:  # noqa: ARG002
        """Returns the shapes of `input_param`."""
        shapes = [tuple(shape.dim) for shape in self.definition.input_param.shape]
        if len(shapes) not in (1, len(self.tops)):
            raise self.invalid(
                f"{len(shapes)} shapes for {len(self.tops)} tops",
                why="an Input layer has one shape, or one per top",
                remedy="add `input_param { shape { dim: 1 dim: 3 dim: 227 dim: 227 } }` with the training size",
            )
        if any(dim < 1 for shape in shapes for dim in shape):
            raise self.invalid(f"shape {shapes} has a dimension below 1")
        return shapes * len(self.tops) if len(shapes) == 1 else shapes

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Raises NetworkError: the values of an input are given, not computed."""
        raise self.invalid("an input must be given its value")

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Raises NetworkError: the values of an input are given, not computed."""
        raise self.invalid("an input must be given its value")

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Raises NetworkError: the values of an input are given, not computed."""
        raise self.invalid("an input must be given its value")
