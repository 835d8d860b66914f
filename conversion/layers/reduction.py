"""Layers that search or add up values: ArgMax, Reduction."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter, ReductionParameter
from conversion.layers.base import Layer, Step, canonical_axis, register
from conversion.layers.layout import carried_axis, from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import as_value, size_of


@register("ArgMax")
@dataclasses.dataclass(frozen=True, eq=False)
class ArgMax(Layer):
    """The indices of the `top_k` largest values, largest first; of equal ones the last first (argmax_layer.cpp).

    With `axis`: along it, whose size becomes top_k; `out_max_val` returns the values instead.
    Without: over all values of an item in Caffe's order, [N, 1, top_k], or [N, 2, top_k] with indices and then values
    for `out_max_val`; bottoms of more than three axes get trailing axes of size 1.
    """

    top_k: int = 1
    out_max_val: bool = False
    axis: int | None = None

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `argmax_param`."""
        message = definition.argmax_param
        layer = cls(definition, message.top_k, message.out_max_val, message.axis if message.HasField("axis") else None)
        if layer.top_k < 1:
            raise layer.invalid(f"top_k {layer.top_k} is below 1")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape = bottoms[0]
        if self.axis is None:
            if not shape:
                raise self.invalid("a bottom without axes", why="axis 0 counts the items")
            self._check(math.prod(shape[1:]), "an item")
            return [(shape[0], 2 if self.out_max_val else 1, self.top_k, *[1] * (len(shape) - 3))]
        axis = canonical_axis(self, self.axis, len(shape))
        self._check(shape[axis], f"axis {axis}")
        return [(*shape[:axis], self.top_k, *shape[axis + 1 :])]

    def _check(self, available: int, of: str) -> None:
        if self.top_k > available:
            raise self.invalid(f"top_k {self.top_k} is more than the {available} values of {of}")

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell along channels, otherwise the whole bottom."""
        if self.axis is None:
            return None
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Sorts by value, then by place."""
        x = bottoms[0]
        rows = x.reshape(x.shape[0], -1) if self.axis is None else np.moveaxis(x, self.axis, -1)
        order = np.lexsort((np.broadcast_to(np.arange(rows.shape[-1]), rows.shape), rows), axis=-1)
        places = order[..., : -self.top_k - 1 : -1]
        values = np.take_along_axis(rows, places, axis=-1)
        if self.axis is not None:
            return [np.moveaxis(values if self.out_max_val else places.astype(np.float64), -1, self.axis)]
        top = np.stack([places, values] if self.out_max_val else [places], axis=1)
        return [top.reshape(self.output_shapes([x.shape])[0]).astype(np.float64)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.math.top_k` on the reversed rows, since it takes the first of equal values."""
        tf = import_tensorflow()
        x = bottoms[0]
        rank = x.shape.rank
        if self.axis is None:
            items = to_caffe(x)
            places, values = self._largest(tf, tf.reshape(items, [tf.shape(items)[0], -1]))
            top = tf.stack([places, values] if self.out_max_val else [places], axis=1)
            return [from_caffe(top[(..., *[tf.newaxis] * (rank - 3))])]
        at = carried_axis(canonical_axis(self, self.axis, rank), rank)
        last = [*(a for a in range(rank) if a != at), at]
        places, values = self._largest(tf, tf.transpose(x, last) if at != rank - 1 else x)
        top = values if self.out_max_val else places
        back = [*range(at), rank - 1, *range(at, rank - 1)]
        return [tf.transpose(top, back) if at != rank - 1 else top]

    def _largest(self, tf: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        values, places = tf.math.top_k(tf.reverse(rows, [-1]), k=self.top_k)
        return tf.cast(tf.shape(rows)[-1] - 1 - places, rows.dtype), values

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses ArgMax with the last of equal values, or TopK on reversed rows, since it takes the first of them."""
        x = bottoms[0]
        if self.axis is not None:
            places, values = self._onnx_largest(graph, x, canonical_axis(self, self.axis, x.rank))
            return [values if self.out_max_val else places]
        found = self._onnx_largest(graph, graph.node("Flatten", [x], axis=1), 1)
        rows = [graph.node("Unsqueeze", [v, graph.integers([1])]) for v in found[: 2 if self.out_max_val else 1]]
        top = graph.concatenated(rows, 1)
        return [graph.node("Unsqueeze", [top, graph.integers(range(3, x.rank))]) if x.rank > 3 else top]

    def _onnx_largest(self, graph: OnnxGraph, x: Value, axis: int) -> tuple[Value, Value]:
        """Returns places, as numbers of the bottom's type, and values of the largest values along an axis."""
        if self.top_k == 1:
            place = graph.node("ArgMax", [x], axis=axis, keepdims=1, select_last_index=1)
            return graph.cast(place, x.dtype), graph.node("ReduceMax", [x], axes=[axis], keepdims=1)
        starts, ends, axes, steps = (graph.integers([n]) for n in (-1, np.iinfo(np.int64).min, axis, -1))
        backwards = graph.node("Slice", [x, starts, ends, axes, steps], shape=x.shape)
        values, places = graph.nodes("TopK", [backwards, graph.integers([self.top_k])], 2, axis=axis)
        last = as_value(graph, size_of(graph, x, axis) - 1)
        return graph.cast(graph.node("Sub", [last, places]), x.dtype), values


@register("Reduction")
@dataclasses.dataclass(frozen=True, eq=False)
class Reduction(Layer):
    """coeff times the SUM, ASUM (of magnitudes), SUMSQ (of squares) or MEAN over all axes from `axis` on.

    Shape: [N, C, H, W] -> its first `axis` axes (0 by default: a single value without axes); reduction_layer.cpp.
    """

    operation: str = "SUM"
    axis: int = 0
    coeff: float = 1.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `reduction_param`."""
        message = definition.reduction_param
        return cls(definition, ReductionParameter.ReductionOp.Name(message.operation), message.axis, message.coeff)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        return [bottoms[0][: canonical_axis(self, self.axis, len(bottoms[0]))]]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns None: positions are lost."""
        return None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula on rows."""
        x = bottoms[0]
        lead = self.output_shapes([x.shape])[0]
        rows = x.reshape(math.prod(lead), -1)
        values = {"SUM": rows, "MEAN": rows, "ASUM": np.abs(rows), "SUMSQ": rows**2}[self.operation]
        sums = values.mean(axis=1) if self.operation == "MEAN" else values.sum(axis=1)
        return [self.coeff * sums.reshape(lead)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.reduce_sum` or `tf.reduce_mean`."""
        tf = import_tensorflow()
        x = bottoms[0]
        rank = x.shape.rank
        axis = canonical_axis(self, self.axis, rank)
        if self.operation == "ASUM":
            x = tf.abs(x)
        elif self.operation == "SUMSQ":
            x = tf.square(x)
        reduce = tf.reduce_mean if self.operation == "MEAN" else tf.reduce_sum
        top = reduce(x, axis=[carried_axis(a, rank) for a in range(axis, rank)])
        if (axis, rank) == (3, 4):
            top = tf.transpose(top, (0, 2, 1))  # [N, H, C] is left
        return [top if self.coeff == 1.0 else self.coeff * top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses ReduceSum and its kin."""
        x = bottoms[0]
        axes = list(range(canonical_axis(self, self.axis, x.rank), x.rank))
        if self.operation == "SUM":  # its axes are an input since opset 13, those of the others an attribute
            top = graph.node("ReduceSum", [x, graph.integers(axes)], keepdims=0)
        else:
            kind = {"MEAN": "ReduceMean", "ASUM": "ReduceL1", "SUMSQ": "ReduceSumSquare"}[self.operation]
            top = graph.node(kind, [x], axes=axes, keepdims=0)
        return [top if self.coeff == 1.0 else graph.node("Mul", [top, graph.scalar(self.coeff, x)])]
