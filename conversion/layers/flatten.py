"""Layers that keep all values and change the shape: Flatten, Reshape, and Squeeze of a fork."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Narrow, Step, canonical_axis, register
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import Size, reshaped, size_of


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
        """Returns the shapes that the class states."""
        shape = bottoms[0]
        first, last = self._axes(len(shape))
        return [(*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :])]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns None, since positions are lost, unless there is only one."""
        return super().step(bottoms) if math.prod(bottoms[0][2:]) == 1 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Reshapes."""
        return [bottoms[0].reshape(self.output_shapes([bottoms[0].shape])[0])]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Reshapes in Caffe's order."""
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

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Flatten, or Reshape where axes are left after those that are joined."""
        x = bottoms[0]
        first, last = self._axes(x.rank)
        if (first, last) == (1, x.rank - 1):
            return [graph.node("Flatten", [x], axis=1)]
        sizes = [size_of(graph, x, axis) for axis in range(x.rank)]
        middle = [size for size in sizes[first : last + 1] if isinstance(size, int)]
        joined = math.prod(middle) if len(middle) == last + 1 - first else -1
        return [reshaped(graph, x, [*sizes[:first], joined, *sizes[last + 1 :]])]


@register("Reshape")
@dataclasses.dataclass(frozen=True, eq=False)
class Reshape(Layer):
    """The same values, in Caffe's order, under another shape (reshape_layer.cpp).

    `dims` replaces `num_axes` axes from `axis` on (all, by default): 0 copies the bottom's axis at that place, and a
    single -1 is inferred from the number of values. A negative `axis` counts from one past the end, so that -1 appends
    axes.
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
        """Returns, for each axis of the top, (the bottom's axis that it copies or None, its size if it copies none)."""
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
        """Returns the shapes that the class states."""
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
        """Returns one cell where the spatial axes stay as they are or have one position; otherwise None."""
        shape, top = bottoms[0], self.output_shapes(bottoms)[0]
        kept = len(shape) == len(top) == 4 and shape[2:] == top[2:]
        return super().step(bottoms) if kept or math.prod(shape[2:]) == 1 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Reshapes."""
        return [bottoms[0].reshape(self.output_shapes([bottoms[0].shape])[0])]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Reshapes in Caffe's order."""
        tf = import_tensorflow()
        x = to_caffe(bottoms[0])
        shape = tf.shape(x)
        sources = self._sources(x.shape.rank)
        top = tf.reshape(x, tf.stack([dim if source is None else shape[source] for source, dim in sources]))
        top.set_shape(self._static(x.shape.as_list()))
        return [from_caffe(top)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Reshape."""
        x = bottoms[0]
        static = self._static([length if isinstance(length, int) else None for length in x.shape])
        sizes: list[Size] = []
        for (source, dim), known in zip(self._sources(x.rank), static, strict=True):
            copied = dim if source is None else size_of(graph, x, source)
            sizes.append(copied if known is None else known)
        return [reshaped(graph, x, sizes)]

    def _static(self, shape: Sequence[int | None]) -> list[int | None]:
        """Returns the top's shape as known while tracing; unknown sizes that are copied cancel out of a -1."""
        sources = self._sources(len(shape))
        top = [dim if source is None else shape[source] for source, dim in sources]
        if -1 in top:
            unknown = [axis for axis, dim in enumerate(shape) if dim is None]
            copied = sorted(source for source, _ in sources if source is not None and shape[source] is None)
            left = math.prod(dim for dim in shape if dim is not None)
            taken = math.prod(dim for dim in top if dim is not None and dim != -1)
            top[top.index(-1)] = left // taken if unknown == copied else None
        return top


@register("Squeeze")
@dataclasses.dataclass(frozen=True, eq=False)
class Squeeze(Layer):
    """The bottom without the axes `axis`, whose size must be 1 (squeeze_layer.cpp of Synopsys' fork).

    Without `axis` every axis of size 1 is left out, at the definition's own size.
    """

    axis: tuple[int, ...] = ()

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `squeeze_param`."""
        return cls(definition, tuple(definition.squeeze_param.axis))

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:
        """Returns the layer with its axes stated: the map of a larger image keeps an axis that is 1 here."""
        if self.axis:
            return None
        message = LayerParameter()
        message.CopyFrom(self.definition)
        message.squeeze_param.axis[:] = [axis for axis, size in enumerate(bottoms[0]) if size == 1]
        return message if message.squeeze_param.axis else None

    def _left_out(self, shape: Sequence[int | None]) -> set[int]:
        """Returns the axes that are left out; raises NetworkError if one is not 1."""
        if not self.axis:
            return {axis for axis, size in enumerate(shape) if size == 1}
        axes = {canonical_axis(self, axis, len(shape)) for axis in self.axis}
        larger = [axis for axis in sorted(axes) if shape[axis] not in (1, None)]
        if larger:
            raise self.invalid(f"axis {larger[0]} of {tuple(shape)} is not 1")
        return axes

    @property
    def shares_memory(self) -> bool:
        """Always."""
        return True

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        left_out = self._left_out(bottoms[0])
        return [tuple(size for axis, size in enumerate(bottoms[0]) if axis not in left_out)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell where nothing is left out, or the only position; otherwise None."""
        kept = not self._left_out(bottoms[0]) or math.prod(bottoms[0][2:]) == 1
        return super().step(bottoms) if kept else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Reshapes."""
        return [bottoms[0].reshape(self.output_shapes([bottoms[0].shape])[0])]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.squeeze` in Caffe's order, which refuses another size at run time too."""
        x = to_caffe(bottoms[0])
        left_out = sorted(self._left_out(x.shape.as_list()))
        return [from_caffe(import_tensorflow().squeeze(x, left_out)) if left_out else bottoms[0]]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Squeeze."""
        x = bottoms[0]
        left_out = sorted(self._left_out([length if isinstance(length, int) else None for length in x.shape]))
        kept = [length for axis, length in enumerate(x.shape) if axis not in left_out]
        return [graph.node("Squeeze", [x, graph.integers(left_out)], shape=kept) if left_out else x]
