"""Layers that cut, repeat or regroup a blob: Slice, Reshape, Crop, Tile."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Narrow, Step, canonical_axis, register
from conversion.layers.layout import carried_axis, from_caffe, import_tensorflow, to_caffe


@register("Slice")
@dataclasses.dataclass(frozen=True, eq=False)
class Slice(Layer):
    """Cuts the bottom along `axis` (1 by default; `slice_dim` is its old name) into its tops (slice_layer.cpp).

    The cuts are at `points`, or there are none and the pieces are equal.
    """

    axis: int = 1
    points: tuple[int, ...] = ()

    top_count = (1, None)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `slice_param`."""
        message = definition.slice_param
        old = message.HasField("slice_dim")
        layer = cls(definition, message.slice_dim if old else message.axis, tuple(message.slice_point))
        if old and message.HasField("axis"):
            raise layer.invalid("both axis and slice_dim are given", why="they are two names of one parameter")
        if layer.points and len(layer.points) != len(definition.top) - 1:
            raise layer.invalid(
                f"{len(layer.points)} slice_point for {len(definition.top)} tops", why="n points make n + 1 pieces"
            )
        if any(a >= b for a, b in itertools.pairwise((0, *layer.points))):
            raise layer.invalid(
                f"slice_point {list(layer.points)} do not rise from above 0", why="a piece would be empty"
            )
        return layer

    def _sizes(self, whole: int, axis: int) -> list[int]:
        """Sizes of the pieces along the axis."""
        pieces = len(self.tops)
        if not self.points:
            if whole % pieces:
                raise self.invalid(
                    f"{pieces} tops do not evenly divide the {whole} of axis {axis}", remedy="give slice_point"
                )
            return [whole // pieces] * pieces
        if self.points[-1] >= whole:
            raise self.invalid(f"slice_point {self.points[-1]} is outside the {whole} of axis {axis}")
        return [b - a for a, b in itertools.pairwise((0, *self.points, whole))]

    @property
    def shares_memory(self) -> bool:
        """A single top is the bottom (SliceLayer::Reshape)."""
        return len(self.tops) == 1

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """See the class."""
        shape = bottoms[0]
        axis = canonical_axis(self, self.axis, len(shape))
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self._sizes(shape[axis], axis)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """One cell; None where positions are cut, since each top has its own."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """`np.split`."""
        return np.split(bottoms[0], self.points or len(self.tops), axis=self.axis)

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.FOLLOWS

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """`tf.split`; along an axis of unknown size it finds the last piece itself."""
        x = bottoms[0]
        axis = canonical_axis(self, self.axis, x.shape.rank)
        at = carried_axis(axis, x.shape.rank)
        if x.shape[at] is not None:
            pieces: int | list[int] = self._sizes(x.shape[at], axis)
        elif self.points:
            pieces = [*(b - a for a, b in itertools.pairwise((0, *self.points))), -1]
        else:
            pieces = len(self.tops)
        return list(import_tensorflow().split(x, pieces, axis=at))


@register("Reshape")
@dataclasses.dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """The same values, in Caffe's order, under another shape (reshape_layer.cpp).

    `dims` replaces `num_axes` axes from `axis` on (all, by default): 0 copies the bottom's axis at that place, one -1
    takes what is left. A negative `axis` counts from one past the end, so that -1 appends axes.
    """

    dims: tuple[int, ...] = ()
    axis: int = 0
    num_axes: int = -1

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `reshape_param`."""
        message = definition.reshape_param
        layer = cls(definition, tuple(message.shape.dim), message.axis, message.num_axes)
        if layer.dims.count(-1) > 1:
            raise layer.invalid(f"dim {list(layer.dims)} has several -1", why="only one can be inferred")
        if any(dim < -1 for dim in layer.dims):
            raise layer.invalid(f"dim {min(layer.dims)} is below -1")
        if layer.num_axes < -1:
            raise layer.invalid(f"num_axes {layer.num_axes} is below -1")
        return layer

    def _sources(self, rank: int) -> list[tuple[int | None, int]]:
        """For each axis of the top: (the bottom's axis that it copies or None, its size where it copies none)."""
        start = self.axis if self.axis >= 0 else rank + 1 + self.axis
        if not 0 <= start <= rank:
            raise self.invalid(f"axis {self.axis} is outside a bottom of {rank} axes")
        end = rank if self.num_axes == -1 else start + self.num_axes
        if end > rank:
            raise self.invalid(f"axis {start} and num_axes {self.num_axes} reach past a bottom of {rank} axes")
        if any(dim == 0 and start + i >= rank for i, dim in enumerate(self.dims)):
            raise self.invalid(f"dim {list(self.dims)} has a 0 past a bottom of {rank} axes", why="0 copies an axis")
        replaced = [(None, dim) if dim else (start + i, 0) for i, dim in enumerate(self.dims)]
        return [*((i, 0) for i in range(start)), *replaced, *((i, 0) for i in range(end, rank))]

    @property
    def shares_memory(self) -> bool:
        """Always."""
        return True

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """See the class."""
        shape = bottoms[0]
        top = [dim if source is None else shape[source] for source, dim in self._sources(len(shape))]
        count = math.prod(shape)
        if -1 in top:
            known = math.prod(dim for dim in top if dim != -1)
            if count % known:
                raise self.invalid(
                    f"{count} values of {shape} are not divisible by the {known} of dim {list(self.dims)}"
                )
            top[top.index(-1)] = count // known
        if math.prod(top) != count:
            raise self.invalid(f"{shape} has {count} values, the new shape {tuple(top)} has {math.prod(top)}")
        return [tuple(top)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """One cell where the two spatial axes stay as they are or have one position; otherwise positions are gone."""
        shape, top = bottoms[0], self.output_shapes(bottoms)[0]
        kept = len(shape) == len(top) == 4 and shape[2:] == top[2:]
        return super().step(bottoms) if kept or math.prod(shape[2:]) == 1 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """A reshape."""
        return [bottoms[0].reshape(self.output_shapes([bottoms[0].shape])[0])]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.FOLLOWS

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """A reshape in Caffe's order."""
        tf = import_tensorflow()
        x = to_caffe(bottoms[0])
        shape = tf.shape(x)
        sources = self._sources(x.shape.rank)
        top = tf.reshape(x, tf.stack([dim if source is None else shape[source] for source, dim in sources]))
        top.set_shape(self._static(x.shape.as_list()))
        return [from_caffe(top)]

    def _static(self, shape: Sequence[int | None]) -> list[int | None]:
        """The top's shape as far as it is known while tracing; unknown sizes that are copied cancel out of a -1."""
        sources = self._sources(len(shape))
        top = [dim if source is None else shape[source] for source, dim in sources]
        if -1 in top:
            unknown = [axis for axis, dim in enumerate(shape) if dim is None]
            copied = sorted(source for source, _ in sources if source is not None and shape[source] is None)
            left = math.prod(dim for dim in shape if dim is not None)
            taken = math.prod(dim for dim in top if dim is not None and dim != -1)
            top[top.index(-1)] = left // taken if unknown == copied else None
        return top


@register("Crop")
@dataclasses.dataclass(frozen=True, eq=False)
class Crop(Layer):
    """The first bottom cut to the second one's size from `axis` on (2 by default), at `offsets` (crop_layer.cpp).

    No offset means 0; one applies to all those axes; otherwise there is one for each.
    """

    axis: int = 2
    offsets: tuple[int, ...] = ()

    bottom_count = (2, 2)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `crop_param`."""
        return cls(definition, definition.crop_param.axis, tuple(definition.crop_param.offset))

    def _cuts(self, rank: int, like: int) -> dict[int, int]:
        """Caffe's axes that are cut, with their offsets, for bottoms of these ranks."""
        axis = canonical_axis(self, self.axis, rank)
        count = rank - axis
        if len(self.offsets) > 1 and len(self.offsets) != count:
            raise self.invalid(
                f"{len(self.offsets)} offset for the {count} axes from axis {axis} on",
                remedy="give one, or one an axis",
            )
        if like < rank:
            raise self.invalid(
                f"a second bottom of {like} axes for a first of {rank}", why="it gives the size of every axis cut"
            )
        offsets = self.offsets or (0,)
        return dict(zip(range(axis, rank), offsets * count if len(offsets) == 1 else offsets, strict=True))

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """See the class."""
        shape, like = bottoms
        top = list(shape)
        for axis, offset in self._cuts(len(shape), len(like)).items():
            if offset + like[axis] > shape[axis]:
                raise self.invalid(
                    f"offset {offset} and size {like[axis]} reach past the {shape[axis]} of axis {axis}",
                    why="the crop is out of bounds",
                )
            top[axis] = like[axis]
        return [tuple(top)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """One cell, `offset` further on in the first bottom."""
        if len(bottoms[0]) != 4:
            return None
        cuts = self._cuts(4, len(bottoms[1]))
        y, x = (Step(pad=Fraction(-cuts.get(axis, 0))) for axis in (2, 3))
        return y, x

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """A slice."""
        x, like = bottoms
        cuts = self._cuts(x.ndim, like.ndim)
        return [x[tuple(slice(cuts[a], cuts[a] + like.shape[a]) if a in cuts else slice(None) for a in range(x.ndim))]]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.FOLLOWS

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """`tf.slice`, which refuses to reach past the end where indexing would cut short."""
        tf = import_tensorflow()
        x, like = bottoms
        rank, other = x.shape.rank, like.shape.rank
        begin, static = [0] * rank, x.shape.as_list()
        size = tf.unstack(tf.shape(x), num=rank)
        for axis, offset in self._cuts(rank, other).items():
            to, of = carried_axis(axis, rank), carried_axis(axis, other)
            begin[to], size[to], static[to] = offset, tf.shape(like)[of], like.shape[of]
        top = tf.slice(x, begin, tf.stack(size))
        top.set_shape(static)
        return [top]


@register("Tile")
@dataclasses.dataclass(frozen=True, eq=False)
class Tile(Layer):
    """The bottom repeated `tiles` times along `axis` (1 by default; tile_layer.cpp)."""

    axis: int = 1
    tiles: int = 1

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `tile_param`."""
        message = definition.tile_param
        layer = cls(definition, message.axis, message.tiles)
        if not message.HasField("tiles"):
            raise layer.invalid("tiles is missing")
        if layer.tiles < 1:
            raise layer.invalid(f"tiles {layer.tiles} is below 1")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The size of `axis` times `tiles`."""
        shape = bottoms[0]
        axis = canonical_axis(self, self.axis, len(shape))
        return [(*shape[:axis], shape[axis] * self.tiles, *shape[axis + 1 :])]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """One cell; None where positions repeat."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """`np.concatenate`."""
        return [np.concatenate([bottoms[0]] * self.tiles, axis=self.axis)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """`tf.tile`."""
        x = bottoms[0]
        multiples = [1] * x.shape.rank
        multiples[carried_axis(canonical_axis(self, self.axis, x.shape.rank), x.shape.rank)] = self.tiles
        return [import_tensorflow().tile(x, multiples)]
