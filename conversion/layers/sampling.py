"""Where the cells of a resized map are read: places and weights along one axis, and the step of geometry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from conversion.arrays import Array, Tensor
from conversion.layers.base import Step
from conversion.layers.layout import import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import Size, as_value


class Taps(NamedTuple):
    """For every cell of the top along one axis, the bottom's cells that it lies between.

    Attributes:
        lower, upper: Their places, integers.
        weight: Of the upper one, float32; the lower one has the rest.
    """

    lower: Array | Tensor
    upper: Array | Tensor
    weight: Array | Tensor


def sampling_step(stride: Fraction, first: Fraction = Fraction(0), *, nearest: bool = False) -> Step:
    """Returns the step by which cell o of the top is read at stride * o + first, in cells of the bottom.

    Args:
        stride: Cells of the bottom between neighbouring cells of the top.
        first: Where cell 0 is read.
        nearest: Whether the cell is that place rounded down; otherwise it lies between two cells.
    """
    # Where a cell is read, within the bottom's cells, repeats with the denominator.
    places = [(stride * o, stride * o + first) for o in range(stride.denominator)]
    before = min(math.floor(place) - middle for middle, place in places)
    after = max((math.floor if nearest else math.ceil)(place) - middle for middle, place in places)
    return Step(after - before + 1, stride, -before)


def repeated_step(factors: Sequence[int]) -> tuple[Step, Step]:
    """Returns the step of a map whose cells are repeated `factor` times along each axis, as a Deconvolution has it."""
    y, x = (sampling_step(Fraction(1, factor), nearest=True) for factor in factors)
    return y, x


def interpolated(x: Array, axis: int, taps: Taps) -> Array:
    """Returns an array that is resized along one axis, in NumPy."""
    shape = [1] * x.ndim
    shape[axis] = -1
    weight = np.reshape(taps.weight, shape).astype(np.float64)
    return np.take(x, taps.lower, axis) * (1 - weight) + np.take(x, taps.upper, axis) * weight


def interpolated_tensor(x: Tensor, axis: int, taps: Taps) -> Tensor:
    """Returns a tensor that is resized along one axis, as TensorFlow ops."""
    tf = import_tensorflow()
    shape = [1] * x.shape.rank
    shape[axis] = -1
    weight = tf.reshape(taps.weight, shape)
    return tf.gather(x, taps.lower, axis=axis) * (1.0 - weight) + tf.gather(x, taps.upper, axis=axis) * weight


def tensor_ratio(size: Tensor, cells: Tensor) -> Tensor:
    """Returns size / cells rounded to float32 once.

    In float32 TensorFlow would multiply by the reciprocal of a constant, which is rounded twice: places would differ.
    """
    tf = import_tensorflow()
    return tf.cast(tf.cast(size, tf.float64) / tf.cast(cells, tf.float64), tf.float32)


def onnx_float(graph: OnnxGraph, size: Size) -> Value:
    """Returns a size as a vector of one float32."""
    return graph.cast(as_value(graph, size), "float32")


def onnx_range(graph: OnnxGraph, cells: Size) -> Value:
    """Returns 0, 1, ... up to `cells`, float32."""
    if isinstance(cells, int):
        return graph.constant(np.arange(cells, dtype=np.float32))
    zero, one = (graph.constant(np.array(number, np.int64)) for number in (0, 1))
    limit = graph.node("Squeeze", [cells.value, graph.integers([0])], shape=[])
    return graph.cast(graph.node("Range", [zero, limit, one], shape=[None], finite=True), "float32")


def onnx_gathered(graph: OnnxGraph, x: Value, places: Value, *, axis: int, cells: Size) -> Value:
    """Returns the cells of a value at these places along one axis, `cells` of them."""
    shape = [*x.shape[:axis], cells if isinstance(cells, int) else None, *x.shape[axis + 1 :]]
    return graph.node("Gather", [x, places], axis=axis, shape=shape, finite=x.finite)


def interpolated_value(graph: OnnxGraph, x: Value, taps: Sequence[Value], *, axis: int, cells: Size) -> Value:
    """Returns a value of an ONNX graph that is resized along one axis; `taps` are those of `Taps`."""
    lower, upper = (onnx_gathered(graph, x, places, axis=axis, cells=cells) for places in taps[:2])
    trailing = graph.integers(range(1, x.rank - axis))
    weight = graph.node("Unsqueeze", [taps[2], trailing]) if axis < x.rank - 1 else taps[2]
    weight = graph.cast(weight, x.dtype)
    rest = graph.node("Sub", [graph.scalar(1.0, x), weight])
    top = graph.node("Add", [graph.node("Mul", [lower, rest]), graph.node("Mul", [upper, weight])])
    return dataclasses.replace(top, shape=lower.shape, finite=x.finite)
