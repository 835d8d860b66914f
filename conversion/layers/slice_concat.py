"""Layers that copy, cut, join or repeat a blob: Split, Slice, Concat, Tile."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import ElementwiseLayer, Layer, Narrow, Step, canonical_axis, register
from conversion.layers.layout import carried_axis, import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import Size, size_of, vector


@register("Split")
@dataclasses.dataclass(frozen=True, eq=False)
class Split(ElementwiseLayer):
    """Copies of the bottom that share its memory; saved nets contain those that Caffe inserted."""

    may_be_in_place = False
    top_count = (1, None)

    @property
    def shares_memory(self) -> bool:
        """Always."""
        return True

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape for every top."""
        return [bottoms[0]] * len(self.tops)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Returns the bottom."""
        return [bottoms[0]] * len(self.tops)

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Returns the bottom."""
        return [bottoms[0]] * len(self.tops)

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Returns the bottom."""
        return [bottoms[0]] * len(self.tops)


@register("Slice")
@dataclasses.dataclass(frozen=True, eq=False)
class Slice(Layer):
    """Cuts the bottom along `axis` (1 by default; `slice_dim` is its old name) into its tops (slice_layer.cpp).

    The cuts are at `points`; without points the pieces are equal.
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
        """Returns sizes of the pieces along the axis."""
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
        """Returns the shapes that the class states."""
        shape = bottoms[0]
        axis = canonical_axis(self, self.axis, len(shape))
        return [(*shape[:axis], size, *shape[axis + 1 :]) for size in self._sizes(shape[axis], axis)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell; None if positions are cut, since each top has other ones."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.split`."""
        return np.split(bottoms[0], self.points or len(self.tops), axis=self.axis)

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.split`; along an axis of unknown size it computes the last piece itself."""
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

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Split; along an axis of unknown size it computes the last piece itself."""
        x = bottoms[0]
        axis = canonical_axis(self, self.axis, x.rank)
        if len(self.tops) == 1:
            return [x]
        whole = size_of(graph, x, axis)
        pieces: list[Size]
        if isinstance(whole, int):
            pieces = [*self._sizes(whole, axis)]
        elif self.points:
            pieces = [*(b - a for a, b in itertools.pairwise((0, *self.points))), whole - self.points[-1]]
        else:
            return graph.nodes("Split", [x], len(self.tops), axis=axis)  # fails if they are not equal
        return graph.nodes("Split", [x, vector(graph, pieces)], len(self.tops), axis=axis)


@register("Concat")
@dataclasses.dataclass(frozen=True, eq=False)
class Concat(Layer):
    """Joins the bottoms along `axis` (1 by default; `concat_dim` is its old name)."""

    axis: int = 1

    bottom_count = (1, None)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `concat_param`."""
        message = definition.concat_param
        layer = cls(definition, message.concat_dim if message.HasField("concat_dim") else message.axis)
        if message.HasField("concat_dim") and message.HasField("axis"):
            raise layer.invalid("both axis and concat_dim are given", why="they are two names of one parameter")
        return layer

    @property
    def shares_memory(self) -> bool:
        """Of a single bottom it is that blob (ConcatLayer::Reshape)."""
        return len(self.bottoms) == 1

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the sum along `axis`; the other axes must agree."""
        axis = canonical_axis(self, self.axis, len(bottoms[0]))
        others = {(*shape[:axis], *shape[axis + 1 :]) for shape in bottoms}
        if len(others) > 1 or len({len(shape) for shape in bottoms}) > 1:
            raise self.invalid(f"bottoms {list(bottoms)} differ outside axis {axis}")
        return [(*bottoms[0][:axis], sum(shape[axis] for shape in bottoms), *bottoms[0][axis + 1 :])]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell; None if positions are joined."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.concatenate`."""
        return [np.concatenate(bottoms, axis=self.axis)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.concat`."""
        rank = bottoms[0].shape.rank
        axis = carried_axis(canonical_axis(self, self.axis, rank), rank)
        return [import_tensorflow().concat(list(bottoms), axis=axis)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Concat."""
        if len(bottoms) == 1:
            return [bottoms[0]]
        return [graph.node("Concat", bottoms, axis=canonical_axis(self, self.axis, bottoms[0].rank))]


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
        """Returns the size of `axis` times `tiles`."""
        shape = bottoms[0]
        axis = canonical_axis(self, self.axis, len(shape))
        return [(*shape[:axis], shape[axis] * self.tiles, *shape[axis + 1 :])]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell; None if positions repeat."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.concatenate`."""
        return [np.concatenate([bottoms[0]] * self.tiles, axis=self.axis)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.tile`."""
        x = bottoms[0]
        multiples = [1] * x.shape.rank
        multiples[carried_axis(canonical_axis(self, self.axis, x.shape.rank), x.shape.rank)] = self.tiles
        return [import_tensorflow().tile(x, multiples)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Tile."""
        x = bottoms[0]
        axis = canonical_axis(self, self.axis, x.rank)
        length = x.shape[axis]
        repeated = length * self.tiles if isinstance(length, int) else None
        repeats = graph.integers([self.tiles if a == axis else 1 for a in range(x.rank)])
        return [graph.node("Tile", [x, repeats], shape=[*x.shape[:axis], repeated, *x.shape[axis + 1 :]])]
