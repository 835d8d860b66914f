"""Layers of forks that move values and compute nothing: Permute, ShuffleChannel, PixelShuffle, Reorg."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Narrow, Step, register
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import reshaped, size_of
from conversion.layers.sampling import repeated_step


@register("Permute")
@dataclasses.dataclass(frozen=True, eq=False)
class Permute(Layer):
    """The bottom with its axes in another order: axis i of the top is axis order[i] of the bottom.

    Axes that `order` leaves out follow in their own order (SSD's fork of Caffe: permute_layer.cpp).
    """

    order: tuple[int, ...] = ()

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `permute_param`."""
        layer = cls(definition, tuple(definition.permute_param.order))
        if len(set(layer.order)) < len(layer.order):
            raise layer.invalid(f"order {list(layer.order)} has an axis twice")
        return layer

    def axes(self, rank: int) -> tuple[int, ...]:
        """Returns the bottom's axis for each axis of the top; raises NetworkError for an axis outside the bottom."""
        if any(axis >= rank for axis in self.order):
            raise self.invalid(f"order {max(self.order)} is outside a bottom of {rank} axes")
        return (*self.order, *(axis for axis in range(rank) if axis not in self.order))

    @property
    def shares_memory(self) -> bool:
        """Where every axis stays: the fork shares the bottom's data then."""
        return self.order == tuple(range(len(self.order)))

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's sizes in the new order."""
        return [tuple(bottoms[0][axis] for axis in self.axes(len(bottoms[0])))]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell where height and width stay; None where positions move to other axes."""
        return super().step(bottoms) if self.axes(len(bottoms[0]))[2:] == (2, 3) else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.transpose`."""
        return [np.transpose(bottoms[0], self.axes(bottoms[0].ndim))]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses one `tf.transpose`, of the axes as they are carried."""
        rank = bottoms[0].shape.rank
        axes = self.axes(rank)
        if rank == 4:
            carried = {0: 0, 1: 3, 2: 1, 3: 2}  # Caffe's axis -> that of NHWC
            axes = tuple(carried[axes[caffe]] for caffe in (0, 2, 3, 1))
        return [import_tensorflow().transpose(bottoms[0], axes)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Transpose."""
        return [graph.transposed(bottoms[0], self.axes(bottoms[0].rank))]


@register("ShuffleChannel")
@dataclasses.dataclass(frozen=True, eq=False)
class ShuffleChannel(Layer):
    """Channel i * (C / group) + j becomes j * group + i: the groups are interleaved.

    ShuffleNet (Zhang et al. 2017); shuffle_channel_layer.cpp, which many forks have from one source.
    """

    group: int = 1

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `shuffle_channel_param`."""
        layer = cls(definition, definition.shuffle_channel_param.group)
        if layer.group < 1:
            raise layer.invalid(f"group {layer.group} is below 1")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape."""
        shape = bottoms[0]
        if len(shape) < 2:
            raise self.invalid(f"a bottom of {len(shape)} axes", why="channels are axis 1")
        if shape[1] % self.group:
            raise self.invalid(f"{shape[1]} channels are not divisible by group {self.group}")
        return [shape]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Transposes [group, C / group]."""
        x = bottoms[0]
        groups = x.reshape(x.shape[0], self.group, -1, *x.shape[2:])
        return [groups.swapaxes(1, 2).reshape(x.shape)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Gathers the channels, which are last where the rank is 4."""
        x = bottoms[0]
        axis = -1 if x.shape.rank == 4 else 1
        source = np.arange(x.shape[axis]).reshape(self.group, -1).T.ravel()
        return [import_tensorflow().gather(x, source, axis=axis)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Gathers the channels."""
        channels = bottoms[0].known(1)
        source = np.arange(channels).reshape(self.group, -1).T.ravel()
        return [graph.node("Gather", [bottoms[0], graph.constant(source.astype(np.int64))], axis=1)]


@register("PixelShuffle")
@dataclasses.dataclass(frozen=True, eq=False)
class PixelShuffle(Layer):
    """Channel c * r * r + y * r + x of a cell becomes cell (y, x) of an r x r block of channel c; r: `upscale_factor`.

    Shape: [N, C, H, W] -> [N, C / r^2, r * H, r * W]. Shi et al. 2016; pixelshuffle_layer.cpp of a fork, and the
    reshape_layer.cpp of Synopsys' fork, where it is Reshape's field `pixelshuffler`.
    """

    factor: int = 1

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `pixelshuffle_param` or `pixel_shuffle_param`."""
        names = ("pixelshuffle_param", "pixel_shuffle_param")
        given = [getattr(definition, name) for name in names if definition.HasField(name)]
        layer = cls(definition)
        if len(given) != 1 or not given[0].HasField("upscale_factor"):
            raise layer.invalid("upscale_factor is missing" if len(given) < 2 else f"both {' and '.join(names)}")
        if given[0].upscale_factor < 1:
            raise layer.invalid(f"upscale_factor {given[0].upscale_factor} is below 1")
        return dataclasses.replace(layer, factor=given[0].upscale_factor)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape, r = bottoms[0], self.factor
        if len(shape) != 4:
            raise self.invalid(f"a bottom of {len(shape)} axes", why="it is defined for N, C, H, W")
        if shape[1] % r**2:
            raise self.invalid(f"{shape[1]} channels are not divisible by {r} x {r}")
        return [(shape[0], shape[1] // r**2, shape[2] * r, shape[3] * r)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns the step of cells that split in `factor` each."""
        return repeated_step((self.factor, self.factor))

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Transposes [C / r^2, r, r, H, W]."""
        x, r = bottoms[0], self.factor
        n, c, h, w = x.shape
        blocks = x.reshape(n, c // r**2, r, r, h, w).transpose(0, 1, 4, 2, 5, 3)
        return [blocks.reshape(n, c // r**2, h * r, w * r)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Reshapes, transposes and reshapes, with channels last."""
        tf = import_tensorflow()
        x, r = bottoms[0], self.factor
        channels = x.shape[3] // r**2
        shape = tf.shape(x)
        blocks = tf.reshape(x, tf.stack([shape[0], shape[1], shape[2], channels, r, r]))
        blocks = tf.transpose(blocks, (0, 1, 4, 2, 5, 3))
        top = tf.reshape(blocks, tf.stack([shape[0], shape[1] * r, shape[2] * r, channels]))
        top.set_shape([x.shape[0], *(None if n is None else n * r for n in x.shape[1:3]), channels])
        return [top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses DepthToSpace, with channels of a block side by side."""
        return [onnx_blocks(graph, bottoms[0], self.factor, "CRD")]


@register("Reorg")
@dataclasses.dataclass(frozen=True, eq=False)
class Reorg(Layer):
    """YOLO v2's passthrough: the values of [N, C, H, W] as [N, C * s^2, H / s, W / s], s: `stride` (reorg_layer.cpp).

    Darknet's quirk stays too: the item's values, taken as [C / s^2, H * s, W * s], are sampled with stride s, offset
    by offset, and what results, [s^2, C / s^2, H, W], is taken as [C * s^2, H / s, W / s]. So a cell of the top does
    not stand for the s x s cells under it.

    With `reverse` the values of [s^2, C / s^2, H, W] become blocks of s x s cells: [N, C / s^2, H * s, W * s], and
    here positions are kept.
    """

    stride: int = 1
    reverse: bool = False

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `reorg_param`."""
        message = definition.reorg_param
        layer = cls(definition, message.stride, message.reverse)
        if not message.HasField("stride"):
            raise layer.invalid("stride is missing")
        if layer.stride < 1:
            raise layer.invalid(f"stride {layer.stride} is below 1")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape, s = bottoms[0], self.stride
        if len(shape) != 4:
            raise self.invalid(f"a bottom of {len(shape)} axes", why="it is defined for N, C, H, W")
        n, c, h, w = shape
        if c % s**2:
            raise self.invalid(f"{c} channels are not divisible by {s} x {s}", why="the fork reads past its bottom")
        if self.reverse:
            return [(n, c // s**2, h * s, w * s)]
        if h % s or w % s:
            raise self.invalid(f"a bottom of {h}x{w} is not divisible by stride {s}")
        return [(n, c * s**2, h // s, w // s)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns None, since positions are mixed; in reverse, that of cells that split in `stride` each."""
        if self.stride == 1:
            return super().step(bottoms)
        return repeated_step((self.stride, self.stride)) if self.reverse else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Transposes [C / s^2, H, s, W, s] to [s, s, C / s^2, H, W], or back."""
        x, s = bottoms[0], self.stride
        n, c, h, w = x.shape
        top = self.output_shapes([x.shape])[0]
        if self.reverse:
            return [x.reshape(n, s, s, c // s**2, h, w).transpose(0, 3, 4, 1, 5, 2).reshape(top)]
        return [x.reshape(n, c // s**2, h, s, w, s).transpose(0, 3, 5, 1, 2, 4).reshape(top)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the reference's transposition in Caffe's order."""
        tf = import_tensorflow()
        x, s = to_caffe(bottoms[0]), self.stride
        n, _, h, w = tf.unstack(tf.shape(x), num=4)
        c = x.shape[1]
        if self.reverse:
            blocks = tf.transpose(tf.reshape(x, tf.stack([n, s, s, c // s**2, h, w])), (0, 3, 4, 1, 5, 2))
            top = tf.reshape(blocks, tf.stack([n, c // s**2, h * s, w * s]))
        else:
            # For sides that are not divisible the last reshape fails.
            blocks = tf.transpose(tf.reshape(x, tf.stack([n, c // s**2, h, s, w, s])), (0, 3, 5, 1, 2, 4))
            top = tf.reshape(blocks, tf.stack([n, c * s**2, h // s, w // s]))
        sides = [None if side is None else side * s if self.reverse else side // s for side in x.shape[2:]]
        top.set_shape([x.shape[0], c // s**2 if self.reverse else c * s**2, *sides])
        return [from_caffe(top)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes the reference's transposition; in reverse it is DepthToSpace. The run fails for other sides."""
        x, s = bottoms[0], self.stride
        if self.reverse:
            return [onnx_blocks(graph, x, s, "DCR")]
        n, h, w = (size_of(graph, x, axis) for axis in (0, 2, 3))
        channels = x.known(1)
        blocks = reshaped(graph, x, [n, channels // s**2, h, s, w, s])
        moved = graph.transposed(blocks, (0, 3, 5, 1, 2, 4))
        return [reshaped(graph, moved, [n, channels * s**2, h // s, w // s])]


def onnx_blocks(graph: OnnxGraph, x: Value, factor: int, mode: str) -> Value:
    """Returns [N, C / factor^2, H * factor, W * factor] by DepthToSpace in one of its two orders."""
    sides = [side * factor if isinstance(side, int) else None for side in x.shape[2:]]
    shape = [x.shape[0], x.known(1) // factor**2, *sides]
    return graph.node("DepthToSpace", [x], shape=shape, blocksize=factor, mode=mode)
