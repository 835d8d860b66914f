"""LRN, BatchNorm and Softmax."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter, LRNParameter
from conversion.layers.base import ElementwiseLayer, Narrow, Step, canonical_axis, register
from conversion.layers.convolution import window_steps
from conversion.layers.layout import carried_axis, import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import padded
from conversion.layers.windows import Windows, pad_spatial, taps


@register("LRN")
@dataclasses.dataclass(frozen=True, eq=False)
class LRN(ElementwiseLayer):
    """Local response normalization (Krizhevsky et al. 2012, section 3.3; lrn_layer.cpp). Shape [N, C, H, W] kept.

    ACROSS_CHANNELS: x / (k + alpha / local_size * sum of squares over `local_size` neighbouring channels) ** beta.
    WITHIN_CHANNEL: x / (1 + alpha / local_size^2 * sum of squares over a square) ** beta: the divisor is the full
    square even at borders, and `k` is ignored.
    """

    local_size: int = 5
    alpha: float = 1.0
    beta: float = 0.75
    k: float = 1.0
    within_channel: bool = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `lrn_param`."""
        message = definition.lrn_param
        within = message.norm_region == LRNParameter.WITHIN_CHANNEL
        layer = cls(definition, message.local_size, message.alpha, message.beta, message.k, within)
        if layer.local_size % 2 == 0:
            raise layer.invalid(f"local_size {layer.local_size} is even", why="LRN only supports odd values (Caffe)")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape, which must have four axes."""
        if len(bottoms[0]) != 4:
            raise self.invalid(f"a bottom of {len(bottoms[0])} axes", why="LRN is defined for N, C, H, W")
        return [bottoms[0]]

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the squares with `local_size - 1` cells more along its axes, and two blobs of the formula."""
        n, c, h, w = bottoms[0]
        more = self.local_size - 1
        squares = n * c * (h + more) * (w + more) if self.within_channel else n * (c + more) * h * w
        return squares + 2 * math.prod(tops[0])

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns one cell across channels, the square within a channel."""
        side = self.local_size if self.within_channel else 1
        return window_steps(Windows((side, side), (1, 1), (side // 2, side // 2), (side // 2, side // 2), (1, 1)))

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Adds up squares over shifted views."""
        x, n = bottoms[0], self.local_size
        # Cells outside the blob are 0, so that a wider window adds nothing.
        if self.within_channel:
            reach = [min(n // 2, size) for size in x.shape[2:]]
            squares = pad_spatial(x**2, reach, reach, 0.0)
            kernel = [2 * cells + 1 for cells in reach]
            total = sum(view for _, view in taps(squares, kernel, stride=(1, 1), dilation=(1, 1), cells=x.shape[2:]))
            return [x * (1.0 + self.alpha / n**2 * total) ** -self.beta]
        half = min(n // 2, x.shape[1])
        squares = np.moveaxis(pad_spatial(np.moveaxis(x**2, 1, -1), [half], [half], 0.0), -1, 1)
        total = sum(squares[:, i : i + x.shape[1]] for i in range(2 * half + 1))
        return [x * (self.k + self.alpha / n * total) ** -self.beta]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.nn.lrn` across channels; an average of squares within one."""
        tf = import_tensorflow()
        x, n = bottoms[0], self.local_size
        if not self.within_channel:
            return [tf.nn.lrn(x, depth_radius=n // 2, bias=self.k, alpha=self.alpha / n, beta=self.beta)]
        squares = tf.pad(tf.square(x), [[0, 0], [n // 2, n // 2], [n // 2, n // 2], [0, 0]])
        mean = tf.nn.avg_pool2d(squares, n, 1, "VALID")
        return [x * tf.pow(1.0 + self.alpha * mean, -self.beta)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses LRN, which is Caffe's formula; within a channel an average of padded squares."""
        x, n = bottoms[0], self.local_size
        # Otherwise 0 may be divided by 0, or a root taken of a negative number.
        finite = x.finite and self.alpha >= 0 and (self.within_channel or self.k > 0)
        if not self.within_channel:
            return [graph.node("LRN", [x], finite=finite, size=n, bias=self.k, alpha=self.alpha, beta=self.beta)]
        squares = padded(graph, graph.node("Mul", [x, x]), [n // 2] * 4, 0.0)
        mean = graph.node("AveragePool", [squares], kernel_shape=[n, n])
        sums = graph.node("Mul", [mean, graph.scalar(self.alpha, x)])
        divisor = graph.node("Pow", [graph.node("Add", [sums, graph.scalar(1.0, x)]), graph.scalar(self.beta, x)])
        return [graph.node("Div", [x, divisor], finite=finite)]


@register("BatchNorm")
@dataclasses.dataclass(frozen=True, eq=False)
class BatchNorm(ElementwiseLayer):
    """Normalization by stored statistics: (x - mean) / sqrt(variance + eps) (batch_norm_layer.cpp).

    Blobs: sums of means (C), of variances (C), and the factor (1) they are divided by; a factor of 0 makes both 0.
    With `use_global_stats: false` the batch's own statistics are used, over every axis but channels. With
    `add_eps_before_sqrt: false` the divisor is sqrt(variance) + eps (synopsys-caffe, batch_norm_layer.cpp).
    """

    use_global_stats: bool = True
    eps: float = 1e-5
    eps_before: bool = True

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `batch_norm_param`; the phase is TEST, so that stored statistics are the default."""
        message = definition.batch_norm_param
        stored = not message.HasField("use_global_stats") or message.use_global_stats
        return cls(definition, stored, message.eps, message.add_eps_before_sqrt)

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns mean, variance, factor."""
        channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
        return [(channels,), (channels,), (1,)]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell, or the whole bottom where the batch's own statistics are used."""
        return super().step(bottoms) if self.use_global_stats else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes the formula."""
        x = bottoms[0]
        channels = (-1, *[1] * (x.ndim - 2)) if x.ndim > 1 else (1,)
        if self.use_global_stats:
            mean, variance = (s.reshape(channels) for s in _statistics(blobs))
        else:
            axes = (0, *range(2, x.ndim))
            mean = x.mean(axis=axes, keepdims=True)
            variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
        return [(x - mean) / self._divisor(variance)]

    def _divisor(self, variance: Array) -> Array:
        """Returns what the centred values are divided by."""
        return np.sqrt(variance + self.eps) if self.eps_before else np.sqrt(variance) + self.eps

    def prepare(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns mean and 1 / divisor, computed in float64."""
        if not self.use_global_stats:
            return []
        mean, variance = _statistics([b.astype(np.float64) for b in blobs])
        return [mean.astype(np.float32), (1.0 / self._divisor(variance)).astype(np.float32)]

    def restore(self, variables: Sequence[Array]) -> list[Array]:
        """Returns mean, variance and the factor 1; the sum of variance and eps has float32's digits."""
        if not self.use_global_stats:
            return []
        mean, scale = variables
        with np.errstate(divide="ignore"):
            inverse = 1.0 / scale.astype(np.float64)
            variance = inverse**2 - self.eps if self.eps_before else (inverse - self.eps) ** 2
        return [mean, variance.astype(np.float32), np.ones(1, np.float32)]

    def plausible(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns them with variances above 1, and the factor 1."""
        return [blobs[0], 1 + abs(blobs[1]), np.ones_like(blobs[2])]

    @property
    def narrow(self) -> Narrow:
        """A product, if the statistics are stored; otherwise sums over the blob."""
        return Narrow.INFER if self.use_global_stats else Narrow.DENY

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Computes the formula, channels last where the rank is 4."""
        tf = import_tensorflow()
        x = bottoms[0]
        axis = carried_axis(1, x.shape.rank) if x.shape.rank > 1 else 0
        if self.use_global_stats:
            shape = [1] * x.shape.rank
            shape[axis] = -1
            return [(x - tf.reshape(variables[0], shape)) * tf.reshape(variables[1], shape)]
        mean, variance = tf.nn.moments(x, [a for a in range(x.shape.rank) if a != axis], keepdims=True)
        if not self.eps_before:
            return [(x - mean) / (tf.sqrt(variance) + self.eps)]
        return [(x - mean) * tf.math.rsqrt(variance + self.eps)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Uses BatchNormalization, which runtimes fold into a convolution, or the formula for own statistics."""
        x = bottoms[0]
        if not self.use_global_stats:
            axes = [0, *range(2, x.rank)] if x.rank > 1 else []
            return [self._own_statistics(graph, x, axes)]
        mean, inverse = variables
        if x.rank < 2:
            return [graph.node("Mul", [graph.node("Sub", [x, mean]), inverse])]
        zeros, ones = (graph.constant(np.full(mean.known(0), n, x.dtype)) for n in (0.0, 1.0))
        # The inverse deviation stands for the scale: the variance is 1, and nothing is added to it.
        return [graph.node("BatchNormalization", [x, inverse, zeros, mean, ones], epsilon=0.0)]

    def _own_statistics(self, graph: OnnxGraph, x: Value, axes: Sequence[int]) -> Value:
        """Returns the formula with the statistics over these axes."""
        if not axes:  # each value is its own mean
            return graph.node("Sub", [x, x])
        centred = graph.node("Sub", [x, graph.node("ReduceMean", [x], axes=axes)])
        variance = graph.node("ReduceMean", [graph.node("Mul", [centred, centred])], axes=axes)
        eps = graph.scalar(self.eps, x)
        if self.eps_before:
            deviation = graph.node("Sqrt", [graph.node("Add", [variance, eps])])
        else:
            deviation = graph.node("Add", [graph.node("Sqrt", [variance]), eps])
        return graph.node("Div", [centred, deviation], finite=x.finite and self.eps > 0)


def _statistics(blobs: Sequence[Array]) -> tuple[Array, Array]:
    """Returns mean and variance from the stored sums (BatchNormLayer::Forward_cpu: the factor 0 gives 0)."""
    factor = float(blobs[2].reshape(-1)[0])
    scale = 0.0 if factor == 0.0 else 1.0 / factor
    return blobs[0] * scale, blobs[1] * scale


@register("Softmax")
@dataclasses.dataclass(frozen=True, eq=False)
class Softmax(ElementwiseLayer):
    """exp(x - max) / sum of it along `axis` (1 by default), at every position of the other axes; values in [0, 1]."""

    axis: int = 1

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `softmax_param`."""
        return cls(definition, definition.softmax_param.axis)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape."""
        canonical_axis(self, self.axis, len(bottoms[0]))
        return [bottoms[0]]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell along channels; the whole bottom along a spatial axis."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        x = bottoms[0]
        e = np.exp(x - x.max(axis=self.axis, keepdims=True))
        return [e / e.sum(axis=self.axis, keepdims=True)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.nn.softmax`."""
        tf = import_tensorflow()
        x = bottoms[0]
        return [tf.nn.softmax(x, axis=carried_axis(canonical_axis(self, self.axis, x.shape.rank), x.shape.rank))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Softmax."""
        return [graph.node("Softmax", bottoms, axis=canonical_axis(self, self.axis, bottoms[0].rank))]
