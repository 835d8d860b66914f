"""Layers of forks that pad a blob, or move cells between it and the batch: Padding, Pad, SpaceToBatchND, and back."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Narrow, Step, register
from conversion.layers.layout import carried_axis, from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import padded, reshaped, size_of

_ENDS = ("pad_t", "pad_b", "pad_l", "pad_r")


class _Padded(Layer):
    """Base of the layers that add a constant at the ends of axes, or cut cells off where a pad is negative."""

    value: float

    may_be_in_place = False

    @abstractmethod
    def pads(self, rank: int) -> list[tuple[int, int]]:
        """Returns the cells to add before and after each axis, in Caffe's order; raises NetworkError."""

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the padded shape."""
        pads = self.pads(len(bottoms[0]))
        top = tuple(size + before + after for size, (before, after) in zip(bottoms[0], pads, strict=True))
        if min(top) < 1:
            raise self.invalid(f"pads {pads} cut all of a bottom of {bottoms[0]}")
        return [top]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell, between the padding."""
        if len(bottoms[0]) != 4:
            return None
        y, x = (Step(pad=Fraction(before), pad_after=Fraction(after)) for before, after in self.pads(4)[2:])
        return y, x

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Cuts, then uses `np.pad`."""
        x = bottoms[0]
        pads = self.pads(x.ndim)
        cut = x[tuple(slice(max(-b, 0), n - max(-a, 0)) for n, (b, a) in zip(x.shape, pads, strict=True))]
        return [np.pad(cut, [(max(b, 0), max(a, 0)) for b, a in pads], constant_values=self.value)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Cuts, then uses `tf.pad`."""
        tf = import_tensorflow()
        x = bottoms[0]
        rank = x.shape.rank
        carried = [(0, 0)] * rank
        for axis, pad in enumerate(self.pads(rank)):
            carried[carried_axis(axis, rank)] = pad
        top = x[tuple(slice(max(-b, 0), -max(-a, 0) or None) for b, a in carried)]
        top = tf.pad(top, [[max(b, 0), max(a, 0)] for b, a in carried], constant_values=self.value)
        top.set_shape([None if n is None else n + b + a for n, (b, a) in zip(x.shape, carried, strict=True)])
        return [top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Slice and Pad."""
        x = bottoms[0]
        pads = self.pads(x.rank)
        cut = [axis for axis, ends in enumerate(pads) if min(ends) < 0]
        if cut:
            starts, ends = ([max(-pads[axis][end], 0) for axis in cut] for end in (0, 1))
            most = np.iinfo(np.int64).max
            limits = [graph.integers(starts), graph.integers([-end or most for end in ends]), graph.integers(cut)]
            shape = [
                length - max(-b, 0) - max(-a, 0) if isinstance(length, int) else None if axis in cut else length
                for axis, (length, (b, a)) in enumerate(zip(x.shape, pads, strict=True))
            ]
            x = graph.node("Slice", [x, *limits], shape=shape)
        amounts = [max(pad[end], 0) for end in (0, 1) for pad in pads]
        return [padded(graph, x, amounts, self.value)]


@register("Padding")
@dataclasses.dataclass(frozen=True, eq=False)
class Padding(_Padded):
    """The map with `pad_beg` and `pad_end` rows and columns of zeros at its beginning and end (DeepLab's fork).

    Negative numbers cut; both have one sign. Or with `pad_t`, `pad_b`, `pad_l` and `pad_r` of `pad_value` (Sophgo's
    fork). Both: padding_layer.cpp.
    """

    top: int = 0
    bottom: int = 0
    left: int = 0
    right: int = 0
    value: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `padding_param`."""
        message = definition.padding_param
        beg, end = message.pad_beg, message.pad_end
        ends = [getattr(message, field) for field in _ENDS]
        layer = cls(definition)
        if not (message.HasField("pad_beg") or message.HasField("pad_end")):
            return dataclasses.replace(
                layer, top=ends[0], bottom=ends[1], left=ends[2], right=ends[3], value=message.pad_value
            )
        if any(map(message.HasField, (*_ENDS, "pad_value"))):
            raise layer.invalid(
                "both pad_beg / pad_end and the fields of another fork", why="forks have one or the other"
            )
        if beg * end < 0:
            raise layer.invalid(f"pad_beg {beg}, pad_end {end}", why="the fork pads or cuts, not both")
        return dataclasses.replace(layer, top=beg, bottom=end, left=beg, right=end)

    def pads(self, rank: int) -> list[tuple[int, int]]:
        """See `_Padded.pads`."""
        if rank != 4:
            raise self.invalid(f"a bottom of {rank} axes", why="it is defined for N, C, H, W")
        return [(0, 0), (0, 0), (self.top, self.bottom), (self.left, self.right)]


@register("Pad")
@dataclasses.dataclass(frozen=True, eq=False)
class Pad(_Padded):
    """The bottom with two numbers of `paddings` for each axis, before and after it, of `constant_values`.

    pad_layer.cpp of Synopsys' fork, which took it over from TensorFlow.
    """

    paddings: tuple[int, ...] = ()
    value: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `pad_param`."""
        message = definition.pad_param
        return cls(definition, tuple(message.paddings), message.constant_values)

    def pads(self, rank: int) -> list[tuple[int, int]]:
        """See `_Padded.pads`."""
        if len(self.paddings) != 2 * rank:
            raise self.invalid(f"{len(self.paddings)} paddings for {rank} axes", why="each axis has two")
        return list(zip(self.paddings[::2], self.paddings[1::2], strict=True))


class _Blocks(Layer):
    """Base of the layers that move blocks of cells to the batch and back."""

    block: tuple[int, ...]
    ends: tuple[int, ...]  # paddings or crops, two for each axis of a block

    may_be_in_place = False

    def checked(self, name: str) -> Self:
        """Returns the layer itself; raises NetworkError unless the fields fit each other."""
        if not self.block or min(self.block) < 1:
            raise self.invalid(f"block_shape {list(self.block)}", why="it has a number of at least 1 for each axis")
        if len(self.ends) != 2 * len(self.block):
            raise self.invalid(f"{len(self.ends)} {name} for {len(self.block)} axes of a block", why="each has two")
        return self

    def sides(self, shape: Shape) -> list[tuple[int, int, int, int]]:
        """Returns (size, block, before, after) for each axis of a block; they begin at axis 1."""
        if len(shape) <= len(self.block):
            raise self.invalid(f"a bottom of {len(shape)} axes for {len(self.block)} axes of a block")
        return list(zip(shape[1:], self.block, self.ends[::2], self.ends[1::2], strict=False))

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns None: positions move to the batch, or from it."""
        return None

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER


@register("SpaceToBatchND")
@dataclasses.dataclass(frozen=True, eq=False)
class SpaceToBatchND(_Blocks):
    """The cells of each block become items of the batch: item (y * block + x) * N + n has cell (y, x) of every block.

    Axis 1 is the first of a block; the axes are padded with zeros first. space_to_batch_nd_layer.cpp of Synopsys'
    fork, which took it over from TensorFlow.
    """

    block: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `space_to_batch_nd_param`."""
        message = definition.space_to_batch_nd_param
        return cls(definition, tuple(message.block_shape), tuple(message.paddings)).checked("paddings")

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        sides = self.sides(bottoms[0])
        for size, block, before, after in sides:
            if (size + before + after) % block:
                raise self.invalid(f"{size} cells and paddings {before}, {after} are not divisible by {block}")
        cells = [(size + before + after) // block for size, block, before, after in sides]
        return [(bottoms[0][0] * math.prod(self.block), *cells, *bottoms[0][1 + len(cells) :])]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Splits each axis, and moves what is inside a block to the front."""
        x = bottoms[0]
        count = len(self.block)
        around = [(0, 0), *zip(self.ends[::2], self.ends[1::2], strict=True)]
        padded = np.pad(x, around + [(0, 0)] * (x.ndim - len(around)))
        split = [part for n, b in zip(padded.shape[1:], self.block, strict=False) for part in (n // b, b)]
        blocks = padded.reshape(x.shape[0], *split, *x.shape[1 + count :])
        front = [2 * i + 2 for i in range(count)]
        rest = [axis for axis in range(blocks.ndim) if axis not in front]
        return [blocks.transpose(*front, *rest).reshape(self.output_shapes([x.shape])[0])]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.space_to_batch_nd` in Caffe's order."""
        ends = list(zip(self.ends[::2], self.ends[1::2], strict=True))
        return [from_caffe(import_tensorflow().space_to_batch_nd(to_caffe(bottoms[0]), self.block, ends))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes what the reference does; the run fails for other sides."""
        x, count = bottoms[0], len(self.block)
        rest = [0] * (x.rank - 1 - count)
        whole = padded(graph, x, [*self.ends[::2], *rest, *self.ends[1::2], *rest], 0.0)
        n, *sizes = (size_of(graph, whole, axis) for axis in range(x.rank))
        cells = [size // b for size, b in zip(sizes, self.block, strict=False)]
        split = [part for cell, b in zip(cells, self.block, strict=True) for part in (cell, b)]
        blocks = reshaped(graph, whole, [n, *split, *sizes[count:]])
        front = [2 * i + 2 for i in range(count)]
        moved = graph.transposed(blocks, [*front, *(axis for axis in range(blocks.rank) if axis not in front)])
        return [reshaped(graph, moved, [n * math.prod(self.block), *cells, *sizes[count:]])]


@register("BatchToSpaceND")
@dataclasses.dataclass(frozen=True, eq=False)
class BatchToSpaceND(_Blocks):
    """The reverse of SpaceToBatchND: items of the batch become the cells of blocks, then `crops` cut the axes.

    batch_to_space_nd_layer.cpp of Synopsys' fork, which took it over from TensorFlow.
    """

    block: tuple[int, ...] = ()
    ends: tuple[int, ...] = ()

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `batch_to_space_nd_param`."""
        message = definition.batch_to_space_nd_param
        return cls(definition, tuple(message.block_shape), tuple(message.crops)).checked("crops")

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        sides, items = self.sides(bottoms[0]), math.prod(self.block)
        if bottoms[0][0] % items:
            raise self.invalid(f"{bottoms[0][0]} items are not divisible by the {items} cells of a block")
        cells = [size * block - before - after for size, block, before, after in sides]
        if min(cells) < 1:
            raise self.invalid(f"crops {list(self.ends)} cut all of a bottom of {bottoms[0]}")
        return [(bottoms[0][0] // items, *cells, *bottoms[0][1 + len(cells) :])]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Splits the batch, and moves its parts beside the axes of a block."""
        x = bottoms[0]
        count = len(self.block)
        blocks = x.reshape(*self.block, -1, *x.shape[1:])
        beside = [axis for i in range(count) for axis in (count + 1 + i, i)]
        whole = blocks.transpose(count, *beside, *range(2 * count + 1, blocks.ndim))
        sizes = [n * b for n, b in zip(x.shape[1:], self.block, strict=False)]
        whole = whole.reshape(whole.shape[0], *sizes, *x.shape[1 + count :])
        ends = zip(self.ends[::2], self.ends[1::2], sizes, strict=True)
        return [whole[(slice(None), *(slice(before, size - after) for before, after, size in ends))]]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.batch_to_space` in Caffe's order."""
        ends = list(zip(self.ends[::2], self.ends[1::2], strict=True))
        return [from_caffe(import_tensorflow().batch_to_space(to_caffe(bottoms[0]), list(self.block), ends))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes what the reference does; the run fails for other batches."""
        x, count = bottoms[0], len(self.block)
        n, *sizes = (size_of(graph, x, axis) for axis in range(x.rank))
        items = n // math.prod(self.block)
        blocks = reshaped(graph, x, [*self.block, items, *sizes])
        beside = [axis for i in range(count) for axis in (count + 1 + i, i)]
        moved = graph.transposed(blocks, [count, *beside, *range(2 * count + 1, blocks.rank)])
        sides = [size * b for size, b in zip(sizes, self.block, strict=False)]
        whole = reshaped(graph, moved, [items, *sides, *sizes[count:]])
        if not any(self.ends):
            return [whole]
        most = np.iinfo(np.int64).max
        ends = [graph.integers(self.ends[::2]), graph.integers([-end or most for end in self.ends[1::2]])]
        return [graph.node("Slice", [whole, *ends, graph.integers(range(1, 1 + count))])]
