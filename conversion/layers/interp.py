"""Interp: bilinear resizing whose corners stay, of DeepLab, PSPNet and their forks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Size, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Step, register
from conversion.layers.layout import import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import as_value, size_of
from conversion.layers.sampling import (
    Taps,
    interpolated,
    interpolated_tensor,
    interpolated_value,
    onnx_float,
    onnx_range,
    sampling_step,
    tensor_ratio,
)

_FACTORS = ("zoom_factor", "shrink_factor", "full_zoom_factor")


@register("Interp")
@dataclasses.dataclass(frozen=True, eq=False)
class Interp(Layer):
    """Bilinear resizing by which the corner cells stay: cell o is read at o * (n - 1) / (m - 1), from n cells to m.

    interp_layer.cpp and interp.cpp of DeepLab's fork, in float32 where a place is computed. The first of these that
    `interp_param` has is the size m: (n - 1) / shrink + 1, rounded down, of `shrink_factor` alone; (n - 1) * zoom + 1
    of `zoom_factor` alone; `height` and `width`; both factors, one after the other; n * zoom of `full_zoom_factor`
    (Synopsys' fork); the size of the second bottom (other forks). `pad_beg` and `pad_end`, negative or 0, cut the
    bottom first.
    """

    height: int = 0
    width: int = 0
    zoom: int | None = None
    shrink: int | None = None
    full_zoom: int | None = None
    cut: tuple[int, int] = (0, 0)  # cells at the beginning and at the end of each axis

    may_be_in_place = False
    bottom_count = (1, 2)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `interp_param`; what the fork would not look at is left out."""
        message = definition.interp_param
        layer = cls(definition, cut=(-message.pad_beg, -message.pad_end))
        if len(definition.bottom) > 1 and any(message.HasField(field) for field in (*_FACTORS, "height", "width")):
            raise layer.invalid(
                "a second bottom and a stated size", why="the forks that read a second bottom accept one or the other"
            )
        for field in _FACTORS:
            if message.HasField(field) and getattr(message, field) < 1:
                raise layer.invalid(f"{field} {getattr(message, field)} is below 1")
        if message.pad_beg > 0 or message.pad_end > 0:
            raise layer.invalid(
                f"pad_beg {message.pad_beg}, pad_end {message.pad_end}", why="Interp only cuts: they are 0 or negative"
            )
        zoom, shrink, full_zoom = (getattr(message, field) if message.HasField(field) else None for field in _FACTORS)
        if (zoom is None) != (shrink is None):
            return dataclasses.replace(layer, zoom=zoom, shrink=shrink)
        if message.HasField("height") and message.HasField("width"):
            if min(message.height, message.width) < 1:
                raise layer.invalid(f"a size of {message.height}x{message.width}")
            return dataclasses.replace(layer, height=message.height, width=message.width)
        if zoom is not None:
            return dataclasses.replace(layer, zoom=zoom, shrink=shrink)
        if full_zoom is None and len(definition.bottom) < 2:
            raise layer.invalid(
                "no size", remedy="give height and width, zoom_factor, shrink_factor, or a second bottom of that size"
            )
        return dataclasses.replace(layer, full_zoom=full_zoom)

    @property
    def reads(self) -> tuple[str, ...]:
        """The first bottom: of the second only the size is read."""
        return self.bottoms[:1]

    def _cells(self, axis: int, size: Size, like: Size) -> tuple[Size, Size]:
        """Returns the cells that are left of `size` along axis 0 (height) or 1 (width), and those of the top."""
        left = size - sum(self.cut)
        if self.height:
            return left, (self.height, self.width)[axis]
        if self.zoom or self.shrink:
            return left, (left - 1) // (self.shrink or 1) * (self.zoom or 1) + 1
        return left, left * self.full_zoom if self.full_zoom else like

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        for bottom in bottoms:
            if len(bottom) != 4:
                raise self.invalid(f"a bottom of {len(bottom)} axes", why="it is defined for N, C, H, W")
        cells = []
        for axis in (0, 1):
            left, top = self._cells(axis, bottoms[0][2 + axis], bottoms[-1][2 + axis])
            if left < 1:
                raise self.invalid(f"pads {self.cut} cut all of {bottoms[0][2 + axis]} cells")
            cells.append(top)
        return [(*bottoms[0][:2], *cells)]

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the four neighbours of every cell, of the largest map: rows are resized before columns."""
        rows = math.prod(bottoms[0][:2]) * tops[0][2] * bottoms[0][3]
        return 4 * max(super().workspace(bottoms, tops), rows)

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns the step; None where it would be another one at another size."""
        if self.height or self.full_zoom:
            return None
        steps = []
        for axis in (0, 1):
            left, top = self._cells(axis, bottoms[0][2 + axis], bottoms[-1][2 + axis])
            if self.zoom or self.shrink:
                stride = Fraction(self.shrink or 1, self.zoom or 1)
                same = (left - 1) % (self.shrink or 1) == 0
            else:
                stride = Fraction(left - 1, top - 1) if min(left, top) > 1 else Fraction(1)
                same = 1 in (stride.numerator, stride.denominator) and (left == 1) == (top == 1)
            if not same:
                return None
            step = sampling_step(stride, Fraction(self.cut[0]))
            steps.append(dataclasses.replace(step, pad_after=step.pad + self.cut[0] - self.cut[1]))
        return steps[0], steps[1]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Resizes one axis after the other."""
        x = bottoms[0]
        for axis in (0, 1):
            left, top = self._cells(axis, bottoms[0].shape[2 + axis], bottoms[-1].shape[2 + axis])
            scale = np.float32(left - 1) / np.float32(top - 1) if top > 1 else np.float32(0)
            place = np.arange(top, dtype=np.float32) * scale
            lower = place.astype(np.int64)
            taps = Taps(lower, np.minimum(lower + 1, left - 1), place - lower.astype(np.float32))
            x = interpolated(np.take(x, np.arange(left) + self.cut[0], 2 + axis), 2 + axis, taps)
        return [x]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Gathers the two cells of each place, one axis after the other."""
        tf = import_tensorflow()
        x = bottoms[0]
        sizes, likes = tf.shape(bottoms[0]), tf.shape(bottoms[-1])
        for axis in (0, 1):
            left, top = self._cells(axis, sizes[1 + axis], likes[1 + axis])
            # The only cell of a top of one is read at 0, whatever the scale.
            scale = tensor_ratio(left - 1, tf.maximum(top - 1, 1))
            place = tf.cast(tf.range(top), tf.float32) * scale
            lower = tf.cast(place, tf.int32)
            upper = tf.minimum(lower + 1, left - 1)
            taps = Taps(lower + self.cut[0], upper + self.cut[0], place - tf.cast(lower, tf.float32))
            x = interpolated_tensor(x, 1 + axis, taps)
        x.set_shape([bottoms[0].shape[0], self.height or None, self.width or None, bottoms[0].shape[3]])
        return [x]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Gathers the two cells of each place, one axis after the other."""
        x = bottoms[0]
        for axis in (2, 3):
            left, top = self._cells(axis - 2, size_of(graph, bottoms[0], axis), size_of(graph, bottoms[-1], axis))
            # The only cell of a top of one is read at 0, whatever the scale.
            span = graph.node("Max", [onnx_float(graph, top - 1), graph.constant(np.ones(1, np.float32))])
            scale = graph.node("Div", [onnx_float(graph, left - 1), span], finite=True)
            place = graph.node("Mul", [onnx_range(graph, top), scale])
            whole = graph.node("Floor", [place])
            first = graph.integers([self.cut[0]])
            lower = graph.cast(whole, "int64")
            upper = graph.node("Min", [graph.node("Add", [lower, graph.integers([1])]), as_value(graph, left - 1)])
            lower, upper = (graph.node("Add", [cell, first]) if self.cut[0] else cell for cell in (lower, upper))
            taps = (lower, upper, graph.node("Sub", [place, whole]))
            x = interpolated_value(graph, x, taps, axis=axis, cells=top)
        return [x]
