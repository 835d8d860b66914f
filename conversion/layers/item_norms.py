"""Normalizations that forks of Caffe have: BN in its two kinds, Normalize, L2Norm."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import BNParameter, LayerParameter
from conversion.layers.base import ElementwiseLayer, Narrow, Step, register
from conversion.layers.layout import carried_axis, import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import reshaped, size_of

_SEGNET_EPS = 1e-9  # a constant of its bn_layer.cpp
_SEGNET_FIELDS = ("scale_filler", "shift_filler", "bn_mode")
_PSPNET_FIELDS = ("slope_filler", "bias_filler", "momentum", "eps", "frozen", "engine")


@register("BN")
@dataclasses.dataclass(frozen=True, eq=False)
class BN(ElementwiseLayer):
    """Batch normalization with its scale and shift in one layer. Two forks have two layers of this name.

    SegNet's has two blobs, scale and shift: x * scale + shift with `bn_mode: INFERENCE`, whose blobs have the
    statistics in them; with LEARN, the default, of (x - mean) / sqrt(variance + 1e-9) by the batch's own statistics
    over all axes but channels.

    PSPNet's has four, slope, bias, mean and variance: (x - mean) / sqrt(variance + eps) * slope + bias.

    `bn_param` tells them apart: scale_filler, shift_filler and bn_mode are SegNet's; slope_filler, bias_filler,
    momentum, eps, frozen and engine are PSPNet's; where there is none, the dialect does. Both: bn_layer.cpp of the
    fork. All blobs are (1, C, 1, 1).
    """

    stored_statistics: bool = True  # PSPNet's kind
    learn: bool = False  # SegNet's kind, with the batch's own statistics
    eps: float = 1e-5

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `bn_param`."""
        message = definition.bn_param
        layer = cls(definition)
        segnet, pspnet = (
            [field for field in fields if message.HasField(field)] for fields in (_SEGNET_FIELDS, _PSPNET_FIELDS)
        )
        if segnet and pspnet:
            raise layer.invalid(
                f"bn_param has {segnet[0]} and {pspnet[0]}",
                why="they belong to different layers, SegNet's and PSPNet's",
            )
        if segnet:
            learn = message.bn_mode == BNParameter.LEARN
            return dataclasses.replace(layer, stored_statistics=False, learn=learn, eps=_SEGNET_EPS)
        return dataclasses.replace(layer, eps=message.eps)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape, which must have a channel axis."""
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.invalid(f"a bottom of {len(bottoms[0])} axes", why="it is defined for N, C, H, W")
        return [bottoms[0]]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns scale and shift; in PSPNet's kind mean and variance too."""
        return [(1, bottoms[0][1], 1, 1)] * (4 if self.stored_statistics else 2)

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell, or the whole bottom where the batch's own statistics are used."""
        return None if self.learn else super().step(bottoms)

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns two steps of the formula."""
        return 2 * super().workspace(bottoms, tops)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes the formula."""
        x = bottoms[0]
        scale, shift, *statistics = (blob.reshape(-1, *[1] * (x.ndim - 2)) for blob in blobs)
        if self.learn:
            axes = (0, *range(2, x.ndim))
            mean = x.mean(axis=axes, keepdims=True)
            statistics = [mean, ((x - mean) ** 2).mean(axis=axes, keepdims=True)]
        if statistics:
            x = (x - statistics[0]) / np.sqrt(statistics[1] + self.eps)
        return [x * scale + shift]

    def prepare(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns one factor, one summand and, in PSPNet's kind, one mean per channel, computed in float64."""
        scale, shift, *statistics = (blob.reshape(-1).astype(np.float64) for blob in blobs)
        if statistics:
            scale = scale / np.sqrt(statistics[1] + self.eps)
        return [values.astype(np.float32) for values in (scale, shift, *statistics[:1])]

    def restore(self, variables: Sequence[Array]) -> list[Array]:
        """Returns blobs that mean the same as those of `prepare`: the variance is 1 less eps."""
        if self.stored_statistics:
            variables = [*variables, np.full(variables[0].shape, 1 - self.eps, np.float32)]
        return [values.reshape(1, -1, 1, 1) for values in variables]

    def plausible(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns them with scales near 1, and variances above 1."""
        scale, shift, *statistics = blobs
        return [1 + 0.05 * scale, shift, *statistics[:1], *(1 + abs(variance) for variance in statistics[1:])]

    @property
    def narrow(self) -> Narrow:
        """A product and a sum, unless there are sums over the blob."""
        return Narrow.DENY if self.learn else Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Computes the formula, channels last where the rank is 4."""
        tf = import_tensorflow()
        x = bottoms[0]
        axis = carried_axis(1, x.shape.rank)
        shape = [1] * x.shape.rank
        shape[axis] = -1
        scale, shift, *mean = (tf.reshape(values, shape) for values in variables)
        if self.learn:
            mean, variance = tf.nn.moments(x, [a for a in range(x.shape.rank) if a != axis], keepdims=True)
            x = (x - mean) * tf.math.rsqrt(variance + self.eps)
        elif mean:
            x = x - mean[0]
        return [x * scale + shift]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Uses BatchNormalization, which runtimes fold into a convolution, or the formula for own statistics."""
        x, (scale, shift, *mean) = bottoms[0], variables
        if not self.learn:
            zeros, ones = (graph.constant(np.full(scale.known(0), n, x.dtype)) for n in (0.0, 1.0))
            stored = [mean[0] if mean else zeros, ones]
            # The scale has the deviation in it: the variance is 1, and nothing is added to it.
            return [graph.node("BatchNormalization", [x, scale, shift, *stored], epsilon=0.0)]
        axes = [0, *range(2, x.rank)]
        centred = graph.node("Sub", [x, graph.node("ReduceMean", [x], axes=axes)])
        variance = graph.node("ReduceMean", [graph.node("Mul", [centred, centred])], axes=axes)
        deviation = graph.node("Sqrt", [graph.node("Add", [variance, graph.scalar(self.eps, x)])])
        scale, shift = (graph.reshaped(blob, [-1, *[1] * (x.rank - 2)]) for blob in (scale, shift))
        normalized = graph.node("Div", [centred, deviation])
        return [graph.node("Add", [graph.node("Mul", [normalized, scale]), shift])]


class _L2(ElementwiseLayer):
    """Base of the layers that divide by a Euclidean norm."""

    across_spatial: bool | None
    eps: float

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape, which must have a channel axis."""
        if not 2 <= len(bottoms[0]) <= 4:
            raise self.invalid(f"a bottom of {len(bottoms[0])} axes", why="it is defined for N, C, H, W")
        return [bottoms[0]]

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:  # noqa: ARG002
        """Returns the squares, and the quotients before they are scaled."""
        return 2 * math.prod(bottoms[0])

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell, or None where the norm is that of a whole item."""
        return None if self.across_spatial else super().step(bottoms)

    def normalized(self, x: Array) -> Array:
        """Returns x / sqrt(sum of squares + eps), in NumPy."""
        axes = tuple(range(1, x.ndim)) if self.across_spatial else (1,)
        with np.errstate(invalid="ignore"):  # 0 / 0 where all values are 0 and eps is
            normalized: Array = x / np.sqrt((x**2).sum(axis=axes, keepdims=True) + self.eps)
        return normalized

    def normalized_tensor(self, x: Tensor) -> Tensor:
        """Returns the same as TensorFlow ops."""
        tf = import_tensorflow()
        axes = list(range(1, x.shape.rank)) if self.across_spatial else [carried_axis(1, x.shape.rank)]
        return x / tf.sqrt(tf.reduce_sum(tf.square(x), axis=axes, keepdims=True) + self.eps)

    def normalized_value(self, graph: OnnxGraph, x: Value) -> Value:
        """Returns the same as nodes of an ONNX graph."""
        axes = graph.integers(range(1, x.rank) if self.across_spatial else [1])
        squares = graph.node("ReduceSum", [graph.node("Mul", [x, x]), axes], keepdims=1)
        if self.eps:
            squares = graph.node("Add", [squares, graph.scalar(self.eps, x)])
        return graph.node("Div", [x, graph.node("Sqrt", [squares])], finite=x.finite and self.eps > 0)


@register("Normalize")
@dataclasses.dataclass(frozen=True, eq=False)
class Normalize(_L2):
    """x / sqrt(sum of squares + eps) * scale (SSD's fork: normalize_layer.cpp; Liu et al. 2015, ParseNet).

    The sum is over all values of an item with `across_spatial`, which is the default, otherwise over the channels of
    each position. The scale is learned: one per channel, or one for all with `channel_shared`, which is the default.
    Without norm_param the dialect decides: in happynear's fork it is an L2Norm of the whole item.
    """

    across_spatial: bool = True
    channel_shared: bool = True
    eps: float = 1e-10

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `norm_param`."""
        message = definition.norm_param
        return cls(definition, message.across_spatial, message.channel_shared, message.eps)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the scale; a shared one has no axes."""
        return [() if self.channel_shared else (bottoms[0][1],)]

    def plausible(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns them with scales near 1."""
        return [1 + blobs[0]]

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes the formula."""
        x = bottoms[0]
        return [self.normalized(x) * blobs[0].reshape(-1, *[1] * (x.ndim - 2))]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Computes the formula, channels last where the rank is 4."""
        x = bottoms[0]
        shape = [1] * x.shape.rank
        shape[carried_axis(1, x.shape.rank)] = -1
        return [self.normalized_tensor(x) * import_tensorflow().reshape(variables[0], shape)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Computes the formula."""
        x = bottoms[0]
        scale = graph.reshaped(variables[0], [-1, *[1] * (x.rank - 2)])
        return [graph.node("Mul", [self.normalized_value(graph, x), scale])]


@register("L2Norm")
@dataclasses.dataclass(frozen=True, eq=False)
class L2Norm(_L2):
    """x / sqrt(sum of squares), of a vector (l2norm_layer.cpp and l2_norm_layer.cpp of several forks).

    On a map forks differ: the sum is over the channels of each position, or over the whole item. `norm_param {
    across_spatial: false }` or true, which is Normalize's field, decides.
    """

    across_spatial: bool | None = None
    eps: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `norm_param`, if there is one."""
        message = definition.norm_param
        layer = cls(definition, message.across_spatial if message.HasField("across_spatial") else None)
        others = [field.name for field, _ in message.ListFields() if field.name != "across_spatial"]
        if others:
            raise layer.invalid(f"norm_param has {others[0]}", why="L2Norm has no scale and no eps")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape."""
        if self.across_spatial is None and max(bottoms[0][2:], default=1) > 1:
            raise self.invalid(
                f"a bottom of {bottoms[0]}",
                why="on a map, forks differ in what the norm is of",
                remedy="add `norm_param { across_spatial: false }` for that of each position, or true for that of the "
                "whole item",
            )
        return super().output_shapes(bottoms)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        return [self.normalized(bottoms[0])]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula; it fails on a map of more positions unless it is said what the norm is of."""
        x = bottoms[0]
        if self.across_spatial is None and x.shape.rank == 4:
            tf = import_tensorflow()
            x = tf.reshape(x, tf.stack([tf.shape(x)[0], 1, 1, x.shape[3]]))
        return [self.normalized_tensor(x)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes the formula, and fails alike."""
        x = bottoms[0]
        if self.across_spatial is None and x.rank > 2:
            x = reshaped(graph, x, [size_of(graph, x, 0), x.known(1), *[1] * (x.rank - 2)])
        return [self.normalized_value(graph, x)]
