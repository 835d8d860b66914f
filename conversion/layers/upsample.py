"""Upsample of SegNet, by the mask of a pooling, and of YOLO's forks, by a factor; UpsampleDarknet."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Size, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Narrow, Step, register
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import reshaped, size_of, vector
from conversion.layers.sampling import repeated_step

Pair = tuple[int, int]


def _repeated(x: Array, factors: Pair) -> Array:
    return x.repeat(factors[0], axis=2).repeat(factors[1], axis=3)


def _repeated_tensor(x: Tensor, factors: Pair) -> Tensor:
    tf = import_tensorflow()
    top = tf.repeat(tf.repeat(x, factors[0], axis=1), factors[1], axis=2)
    sides = [None if n is None else n * f for n, f in zip(x.shape[1:3], factors, strict=True)]
    top.set_shape([x.shape[0], *sides, x.shape[3]])
    return top


def _repeated_value(graph: OnnxGraph, x: Value, factors: Pair) -> Value:
    sides = [n * f if isinstance(n, int) else None for n, f in zip(x.shape[2:], factors, strict=True)]
    scales = graph.constant(np.array([1, 1, *factors], np.float32))
    modes = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.node("Resize", [x, None, scales], shape=[*x.shape[:2], *sides], finite=x.finite, **modes)


@register("Upsample")
@dataclasses.dataclass(frozen=True, eq=False)
class Upsample(Layer):
    """Two layers of this name, told apart by the number of bottoms. Both: upsample_layer.cpp of the fork.

    With one bottom (MobileNet-YOLO and other YOLO forks) every cell becomes `scale` x `scale` cells.

    With two (SegNet) the second is the mask of a pooling: each value goes to the place y * W + x of the top's plane
    that the mask has for it, and all other places are 0. Of values for one place the last stays; a mask of -1 has
    no place. The top is `upsample_h` x `upsample_w`, or the bottom times `scale` (2 by default) or `scale_h` and
    `scale_w`, less 1 with `pad_out_h` or `pad_out_w`.

    A third bottom, with `densecast_param { size_of_last_bottom: true }`, is the map that was pooled: the top has its
    size. `cast` adds it, so that the mask fits at every size.
    """

    scale: Pair = (2, 2)
    less: Pair = (0, 0)
    size: Pair | None = None
    like: bool = False

    may_be_in_place = False
    bottom_count = (1, 3)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `upsample_param`."""
        message = definition.upsample_param
        layer = cls(definition, like=definition.densecast_param.size_of_last_bottom)
        count = len(definition.bottom)
        if (count == 3) != layer.like:
            raise layer.invalid(f"{count} bottom blobs, Caffe requires 1 or 2")
        if count == 1:
            others = [field.name for field, _ in message.ListFields() if field.name != "scale"]
            if others or not message.HasField("scale"):
                raise layer.invalid(
                    f"{others[0]} without a mask" if others else "scale is missing",
                    remedy="give `scale`, or the mask of a pooling as the second bottom",
                )
        size, scale = layer._pair("upsample"), layer._pair("scale")
        if message.HasField("scale") and scale:
            raise layer.invalid("both scale and scale_h / scale_w are given", why="the fork accepts one or the other")
        least = 1 if count == 1 else 2
        scale = scale or (message.scale, message.scale)
        if min(size or scale) < least:
            raise layer.invalid(f"{'a top' if size else 'a scale'} of {min(size or scale)}", why=f"least is {least}")
        less = (int(message.pad_out_h), int(message.pad_out_w))
        if not size and any(cut and factor != 2 for cut, factor in zip(less, scale, strict=True)):
            raise layer.invalid("pad_out_h or pad_out_w with a scale other than 2", why="the size is not defined then")
        return dataclasses.replace(layer, scale=scale, less=less, size=size)

    def _pair(self, name: str) -> Pair | None:
        """Returns the fields `<name>_h` and `<name>_w`, or None; raises NetworkError if there is only one."""
        message, fields = self.definition.upsample_param, (f"{name}_h", f"{name}_w")
        given = [message.HasField(field) for field in fields]
        if any(given) and not all(given):
            raise self.invalid(f"{fields[given.index(False)]} is missing", why="the fork requires both")
        return (getattr(message, fields[0]), getattr(message, fields[1])) if all(given) else None

    @property
    def reads(self) -> tuple[str, ...]:
        """All but the map that was pooled, of which only the size is read."""
        return self.bottoms[:-1] if self.like else self.bottoms

    def _cells(self, sides: Sequence[Size], like: Sequence[Size]) -> tuple[Size, Size]:
        """Returns the sides of the top; integers or tensors."""
        if self.like:
            return like[0], like[1]
        if self.size is not None:
            return self.size
        y, x = (side * factor - cut for side, factor, cut in zip(sides, self.scale, self.less, strict=True))
        return y, x

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        for bottom in bottoms:
            if len(bottom) != 4:
                raise self.invalid(f"a bottom of {len(bottom)} axes", why="it is defined for N, C, H, W")
        if len(bottoms) > 1 and bottoms[1] != bottoms[0]:
            raise self.invalid(f"a mask of {bottoms[1]} for a bottom of {bottoms[0]}", why="each value has its place")
        if self.like and bottoms[2][:2] != bottoms[0][:2]:
            raise self.invalid(f"a pooled map of {bottoms[2]} for a bottom of {bottoms[0]}")
        return [(*bottoms[0][:2], *self._cells(bottoms[0][2:], bottoms[-1][2:]))]

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the repeated rows; or the places of all values, and what each cell of the top gets, as integers."""
        if len(bottoms) == 1:
            return math.prod(bottoms[0]) * self.scale[0]  # rows are repeated before columns
        return 4 * math.prod(bottoms[0]) + 3 * math.prod(tops[0])

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns that of repeated cells, within which the mask places a value; None for a size that is fixed."""
        if self.size is not None:
            return None
        factors = [-(-top // side) for top, side in zip(bottoms[-1][2:], bottoms[0][2:], strict=True)]
        return repeated_step(factors if self.like else self.scale)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Repeats cells; or assigns the values of each plane, in order."""
        x = bottoms[0]
        if len(bottoms) == 1:
            return [_repeated(x, self.scale)]
        shape = self.output_shapes([bottom.shape for bottom in bottoms])[0]
        planes = np.zeros((math.prod(shape[:2]), math.prod(shape[2:])))
        places = bottoms[1].reshape(len(planes), -1).astype(np.int64)
        if places.max(initial=-1) >= planes.shape[1]:
            raise self.invalid(
                f"a mask of {places.max()} for a top of {shape[2]}x{shape[3]}",
                why="the map that was pooled was larger",
                remedy="give its size: upsample_h and upsample_w",
            )
        for plane, place, values in zip(planes, places, x.reshape(len(planes), -1), strict=True):
            plane[place[place >= 0]] = values[place >= 0]
        return [planes.reshape(shape)]

    @property
    def narrow(self) -> Narrow:
        """A mask has indices, which 16 bits do not hold."""
        return Narrow.INFER if len(self.bottoms) == 1 else Narrow.DENY

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Repeats cells; or finds for each place the last value that has it, since scattering has no order."""
        if len(bottoms) == 1:
            return [_repeated_tensor(bottoms[0], self.scale)]
        tf = import_tensorflow()
        x, mask = (tf.reshape(to_caffe(bottom), [-1]) for bottom in bottoms[:2])
        n, h, w, c = tf.unstack(tf.shape(bottoms[0], out_type=tf.int64), num=4)
        height, width = self._cells((h, w), tf.unstack(tf.shape(bottoms[-1], out_type=tf.int64)[1:3], num=2))
        cells = tf.cast(height * width, tf.int64)
        place = tf.cast(mask, tf.int64)
        plane = tf.range(tf.size(x, out_type=tf.int64)) // (h * w)
        # A place past the top is one past all planes, which fails: the map that was pooled was larger.
        inside = tf.where(place < cells, plane * cells + place, n * c * cells)
        place = tf.where(place < 0, place, inside)
        last = tf.math.unsorted_segment_max(tf.range(tf.size(x, out_type=tf.int64)), place, n * c * cells)
        values = tf.where(last >= 0, tf.gather(x, tf.maximum(last, 0)), 0.0)
        top = from_caffe(tf.reshape(values, tf.stack([n, c, tf.cast(height, tf.int64), tf.cast(width, tf.int64)])))
        static = bottoms[0].shape
        scaled = [
            None if n is None else n * factor - cut
            for n, factor, cut in zip(static[1:3], self.scale, self.less, strict=True)
        ]
        sides = bottoms[-1].shape[1:3] if self.like else self.size or scaled
        top.set_shape([static[0], *sides, static[3]])
        return [top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Resize; or ScatterElements in each plane, which has one cell more for values without a place."""
        x = bottoms[0]
        if len(bottoms) == 1:
            return [_repeated_value(graph, x, self.scale)]
        n, channels = size_of(graph, x, 0), x.known(1)
        sides = [size_of(graph, x, axis) for axis in (2, 3)]
        height, width = self._cells(sides, [size_of(graph, bottoms[-1], axis) for axis in (2, 3)])
        flat, mask = (reshaped(graph, value, [n, channels, -1]) for value in bottoms[:2])
        cells = graph.node("Mul", [vector(graph, [height]), vector(graph, [width])])
        place, one = graph.cast(mask, "int64"), graph.integers([1])
        # A place past the plane moves past the additional cell too, so that the run fails.
        outside = graph.node("Less", [place, cells])
        place = graph.node("Where", [outside, place, graph.node("Add", [place, one])])
        place = graph.node("Where", [graph.node("Less", [place, graph.integers([0])]), cells, place])
        shape = graph.node("Concat", [vector(graph, [n, channels]), graph.node("Add", [cells, one])], axis=0)
        empty = graph.node("Expand", [graph.scalar(0.0, x), shape], shape=[x.shape[0], channels, None], finite=True)
        spread = graph.node("ScatterElements", [empty, place, flat], axis=2)
        planes = graph.node("Slice", [spread, graph.integers([0]), cells, graph.integers([2])])
        return [reshaped(graph, planes, [n, channels, height, width])]


@register("UpsampleDarknet")
@dataclasses.dataclass(frozen=True, eq=False)
class UpsampleDarknet(Layer):
    """Every cell becomes `stride` x `stride` cells (upsample_darknet_layer.cpp of Synopsys' fork)."""

    stride: int = 1

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `upsample_darknet_param`."""
        layer = cls(definition, definition.upsample_darknet_param.stride)
        if layer.stride < 1:
            raise layer.invalid(f"stride {layer.stride} is below 1")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.invalid(f"a bottom of {len(shape)} axes", why="it is defined for N, C, H, W")
        return [(*shape[:2], shape[2] * self.stride, shape[3] * self.stride)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns the step of repeated cells."""
        return repeated_step((self.stride, self.stride))

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Repeats cells."""
        return [_repeated(bottoms[0], (self.stride, self.stride))]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Repeats cells."""
        return [_repeated_tensor(bottoms[0], (self.stride, self.stride))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Resize."""
        return [_repeated_value(graph, bottoms[0], (self.stride, self.stride))]
