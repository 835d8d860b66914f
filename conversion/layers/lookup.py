"""Layers at the edges of a net: Embed (a learned table), Parameter (a learned blob as a top), Silence (a sink)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Step, register
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value


@register("Embed")
@dataclasses.dataclass(frozen=True, eq=False)
class Embed(Layer):
    """Row x of a learned table (input_dim, num_output), plus a bias (num_output), for every value x (embed_layer.cpp).

    Shape: [...] -> [..., num_output]. Values are whole numbers in [0, input_dim); fractions are truncated.
    """

    num_output: int = 0
    input_dim: int = 0
    bias_term: bool = True

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `embed_param`."""
        message = definition.embed_param
        layer = cls(definition, message.num_output, message.input_dim, message.bias_term)
        if layer.num_output < 1:
            raise layer.invalid("num_output is missing or 0")
        if layer.input_dim < 1:
            raise layer.invalid("input_dim is missing or 0")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        return [(*bottoms[0], self.num_output)]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:  # noqa: ARG002
        """Returns the table, and biases if there are any."""
        table = (self.input_dim, self.num_output)
        return [table, (self.num_output,)] if self.bias_term else [table]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns None: the axes get another meaning."""
        return None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Indexes the table; raises NetworkError for a value outside it."""
        rows = np.trunc(bottoms[0])
        if not np.all((rows >= 0) & (rows < self.input_dim)):
            raise self.invalid(f"values outside 0 to {self.input_dim - 1}", why="each value is the index of a row")
        top = blobs[0][rows.astype(np.int64)]
        return [top + blobs[1] if self.bias_term else top]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Uses `tf.gather`."""
        tf = import_tensorflow()
        top = tf.gather(variables[0], tf.cast(to_caffe(bottoms[0]), tf.int32))
        return [from_caffe(top + variables[1] if self.bias_term else top)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Uses Gather, which fails past the table; an index below 0 is moved there, lest it count from the end."""
        index = graph.cast(bottoms[0], "int64")
        start, end = (graph.constant(np.array(n, np.int64)) for n in (0, self.input_dim))
        index = graph.node("Where", [graph.node("Less", [index, start]), end, index])
        top = graph.node("Gather", [variables[0], index], axis=0)
        return [graph.node("Add", [top, variables[1]]) if self.bias_term else top]


@register("Parameter")
@dataclasses.dataclass(frozen=True, eq=False)
class Parameter(Layer):
    """A learned blob of the given shape as a top (parameter_layer.hpp)."""

    shape: Shape = ()

    bottom_count = (0, 0)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `parameter_param`."""
        layer = cls(definition, tuple(definition.parameter_param.shape.dim))
        if any(dim < 1 for dim in layer.shape):
            raise layer.invalid(f"shape {layer.shape} has a dimension below 1")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:  # noqa: ARG002
        """Returns the given shape."""
        return [self.shape]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:  # noqa: ARG002
        """Returns the given shape."""
        return [self.shape]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Returns the blob."""
        return [blobs[0]]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Returns the blob, read as a tensor."""
        return [from_caffe(import_tensorflow().convert_to_tensor(variables[0]))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Returns the blob."""
        return [variables[0]]


@register("Silence")
@dataclasses.dataclass(frozen=True, eq=False)
class Silence(Layer):
    """Consumes blobs, so that they are not outputs of the net; computes nothing (silence_layer.cpp)."""

    bottom_count = (1, None)
    top_count = (0, 0)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:  # noqa: ARG002
        """Returns an empty list: there are no tops."""
        return []

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Returns an empty list: there are no tops."""
        return []

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Returns an empty list: there are no tops."""
        return []

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Returns an empty list: there are no tops."""
        return []
