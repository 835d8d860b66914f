"""Layers that move values without changing them: Input, Split, Flatten, Concat."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe_pb2 import LayerParameter
from conversion.layers.base import ElementwiseLayer, Layer, Narrow, Step, canonical_axis, register
from conversion.layers.layout import carried_axis, from_caffe, import_tensorflow, to_caffe


@register("Input")
@dataclasses.dataclass(frozen=True, eq=False)
class Input(Layer):
    """The net's inputs: one top for each, of the given shape (or one shape for all)."""

    bottom_count = (0, 0)
    top_count = (1, None)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:  # noqa: ARG002
        """The shapes of `input_param`."""
        shapes = [tuple(shape.dim) for shape in self.definition.input_param.shape]
        if len(shapes) not in (1, len(self.tops)):
            raise self.invalid(
                f"{len(shapes)} shapes for {len(self.tops)} tops",
                why="an Input layer gives one shape, or one a top",
                remedy="add `input_param { shape { dim: 1 dim: 3 dim: 227 dim: 227 } }` with the training size",
            )
        if any(dim < 1 for shape in shapes for dim in shape):
            raise self.invalid(f"shape {shapes} has a dimension below 1")
        return shapes * len(self.tops) if len(shapes) == 1 else shapes

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Never called: the values are given."""
        raise self.invalid("an input has no value of its own")

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Never called: the values are given."""
        raise self.invalid("an input has no value of its own")


@register("Split")
@dataclasses.dataclass(frozen=True, eq=False)
class Split(ElementwiseLayer):
    """Copies of the bottom that share its memory; saved nets carry those that Caffe inserted."""

    may_be_in_place = False
    top_count = (1, None)

    @property
    def shares_memory(self) -> bool:
        """Always."""
        return True

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """The bottom's own shape for every top."""
        return [bottoms[0]] * len(self.tops)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """The bottom."""
        return [bottoms[0]] * len(self.tops)

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.FOLLOWS

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """The bottom."""
        return [bottoms[0]] * len(self.tops)


@register("Flatten")
@dataclasses.dataclass(frozen=True, eq=False)
class Flatten(Layer):
    """Joins the axes from `axis` to `end_axis` (1 and -1 by default) into one, in Caffe's order."""

    axis: int = 1
    end_axis: int = -1

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `flatten_param`."""
        return cls(definition, definition.flatten_param.axis, definition.flatten_param.end_axis)

    def _axes(self, rank: int) -> tuple[int, int]:
        first = canonical_axis(self, self.axis, rank)
        last = canonical_axis(self, self.end_axis, rank, "end_axis")
        if last < first:
            raise self.invalid(f"end_axis {self.end_axis} lies before axis {self.axis}")
        return first, last

    @property
    def shares_memory(self) -> bool:
        """Always."""
        return True

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """See the class."""
        shape = bottoms[0]
        first, last = self._axes(len(shape))
        return [(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Positions are gone, unless each blob has one."""
        return super().step(bottoms) if math.prod(bottoms[0][2:]) == 1 else None

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
        first, last = self._axes(x.shape.rank)
        shape = tf.shape(x)
        joined = tf.reduce_prod(shape[first : last + 1], keepdims=True)
        flat = tf.reshape(x, tf.concat([shape[:first], joined, shape[last + 1 :]], axis=0))
        static = x.shape.as_list()
        middle = static[first : last + 1]
        flat.set_shape([*static[:first], None if None in middle else math.prod(middle), *static[last + 1 :]])
        return [from_caffe(flat)]


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
        """The sum along `axis`; the other axes must agree."""
        axis = canonical_axis(self, self.axis, len(bottoms[0]))
        others = {(*shape[:axis], *shape[axis + 1 :]) for shape in bottoms}
        if len(others) > 1 or len({len(shape) for shape in bottoms}) > 1:
            raise self.invalid(f"bottoms {list(bottoms)} differ outside axis {axis}")
        return [(*bottoms[0][:axis], sum(shape[axis] for shape in bottoms), *bottoms[0][axis + 1 :])]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """One cell; None where positions are joined."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """`np.concatenate`."""
        return [np.concatenate(bottoms, axis=self.axis)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.FOLLOWS

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """`tf.concat`."""
        rank = bottoms[0].shape.rank
        axis = carried_axis(canonical_axis(self, self.axis, rank), rank)
        return [import_tensorflow().concat(list(bottoms), axis=axis)]
