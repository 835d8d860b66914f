"""Crop: cuts a blob to the size of another."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from fractions import Fraction
from typing import Self

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Narrow, Step, canonical_axis, register
from conversion.layers.layout import carried_axis, import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import reshaped, size_of, vector


@register("Crop")
@dataclasses.dataclass(frozen=True, eq=False)
class Crop(Layer):
    """The first bottom cut to the second one's size from `axis` on (2 by default), at `offsets` (crop_layer.cpp).

    No offset means 0; one offset applies to all those axes; otherwise each axis has one.
    """

    axis: int = 2
    offsets: tuple[int, ...] = ()

    bottom_count = (2, 2)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `crop_param`."""
        return cls(definition, definition.crop_param.axis, tuple(definition.crop_param.offset))

    @property
    def reads(self) -> tuple[str, ...]:
        """The first bottom: of the second only the size is read."""
        return self.bottoms[:1]

    def cuts(self, rank: int, like: int) -> dict[int, int]:
        """Returns Caffe's axes that are cut, with their offsets, for bottoms of these ranks."""
        axis = canonical_axis(self, self.axis, rank)
        count = rank - axis
        if len(self.offsets) > 1 and len(self.offsets) != count:
            raise self.invalid(
                f"{len(self.offsets)} offset for the {count} axes from axis {axis} on",
                remedy="give one, or one per axis",
            )
        if like < rank:
            raise self.invalid(
                f"a second bottom of {like} axes for a first of {rank}",
                why="it must have the size of each axis that is cut",
            )
        offsets = self.offsets or (0,)
        return dict(zip(range(axis, rank), offsets * count if len(offsets) == 1 else offsets, strict=True))

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape, like = bottoms
        top = list(shape)
        for axis, offset in self.cuts(len(shape), len(like)).items():
            if offset + like[axis] > shape[axis]:
                raise self.invalid(
                    f"offset {offset} and size {like[axis]} reach past the {shape[axis]} of axis {axis}",
                    why="the crop is out of bounds",
                )
            top[axis] = like[axis]
        return [tuple(top)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell, shifted by `offset` in the first bottom."""
        if len(bottoms[0]) != 4:
            return None
        cuts = self.cuts(4, len(bottoms[1]))
        y, x = (Step(pad=Fraction(-cuts.get(axis, 0))) for axis in (2, 3))
        return y, x

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Slices."""
        x, like = bottoms
        cuts = self.cuts(x.ndim, like.ndim)
        return [x[tuple(slice(cuts[a], cuts[a] + like.shape[a]) if a in cuts else slice(None) for a in range(x.ndim))]]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.slice`, which refuses to reach past the end; indexing would return less."""
        tf = import_tensorflow()
        x, like = bottoms
        rank, other = x.shape.rank, like.shape.rank
        begin, static = [0] * rank, x.shape.as_list()
        size = tf.unstack(tf.shape(x), num=rank)
        for axis, offset in self.cuts(rank, other).items():
            to, of = carried_axis(axis, rank), carried_axis(axis, other)
            begin[to], size[to], static[to] = offset, tf.shape(like)[of], like.shape[of]
        top = tf.slice(x, begin, tf.stack(size))
        top.set_shape(static)
        return [top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Slice; since that returns less where it would reach past the end, a Reshape insists on the size."""
        x, like = bottoms
        cuts = {
            axis: offset
            for axis, offset in self.cuts(x.rank, like.rank).items()
            if offset or x.shape[axis] is None or x.shape[axis] != like.shape[axis]
        }
        if not cuts:
            return [x]
        axes = list(cuts)
        ends = vector(graph, [size_of(graph, like, axis) + offset for axis, offset in cuts.items()])
        shape = [like.shape[axis] if axis in cuts else length for axis, length in enumerate(x.shape)]
        inputs = [x, graph.integers(list(cuts.values())), ends, graph.integers(axes)]
        top = graph.node("Slice", inputs, shape=shape)
        if all(isinstance(x.shape[axis], int) and isinstance(like.shape[axis], int) for axis in axes):
            return [top]
        return [reshaped(graph, top, [size_of(graph, like if axis in cuts else x, axis) for axis in range(x.rank)])]
