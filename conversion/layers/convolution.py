"""Convolution and InnerProduct: layers that multiply by learned matrices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from typing import ClassVar, Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import ConvolutionParameter, LayerParameter
from conversion.layers.base import Layer, Narrow, Step, canonical_axis, register
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import reshaped, size_of
from conversion.layers.windows import (
    SAME,
    Windows,
    convolution_size,
    four_pads,
    pad_spatial,
    per_axis,
    same_pads,
    set_four_pads,
    taps,
)

# Up to so many taps a dilated conv2d is as fast as one over each phase of the map (space to batch,
# tf.nn.convolution). A dilated 6x6 is 1.3 to 1.6 times slower on a CPU.
_SMALL_WINDOW = 9
_GATHERED = 2**24  # values, 128 MiB in float64


@dataclasses.dataclass(frozen=True, eq=False)
class SlidingLayer(Layer):
    """Base of Convolution and Deconvolution: one ConvolutionParameter."""

    num_output: int = 0
    group: int = 1
    bias_term: bool = True
    axis: int = 1

    bottom_count = (1, None)
    top_count = (1, None)
    # Whether `group` and `num_output` may be left out: they are known with the bottom.
    group_per_channel: ClassVar[bool] = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `convolution_param`."""
        message = definition.convolution_param
        layer = cls(definition, message.num_output, message.group, message.bias_term, message.axis)
        if len(definition.bottom) != len(definition.top):
            raise layer.invalid(
                f"{len(definition.bottom)} bottoms but {len(definition.top)} tops", why="each bottom has its top"
            )
        if cls.group_per_channel:
            return layer
        if layer.num_output < 1:
            raise layer.invalid("num_output is missing or 0")
        if layer.group < 1 or layer.num_output % layer.group:
            raise layer.invalid(f"num_output {layer.num_output} is not a multiple of group {layer.group}")
        return layer

    def windows(self, spatial: int) -> Windows:
        """Returns the windows over so many spatial axes; `pad_l`, `pad_r`, `pad_t` and `pad_b` exist for two."""
        message: ConvolutionParameter = self.definition.convolution_param
        four = four_pads(self, message)
        if spatial != 2 and (four or message.pad_type):
            raise self.invalid(
                f"pad_l, pad_r, pad_t, pad_b or pad_type for {spatial} spatial axes", why="two have them"
            )
        pad = per_axis(self, message, "pad", count=spatial, default=0, least=0, pair="pad")
        return Windows(
            per_axis(self, message, "kernel_size", count=spatial, default=None, pair="kernel"),
            per_axis(self, message, "stride", count=spatial, default=1, pair="stride"),
            *(four or (pad, pad)),
            per_axis(self, message, "dilation", count=spatial, default=1),
        )

    def onnx_windows(
        self, op_type: str, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]
    ) -> list[Value]:
        """Returns a node of Conv or ConvTranspose for each bottom, with the filters of all groups as one."""
        kernels = variables[:-1] if self.bias_term else variables
        weights = onnx_filters(graph, kernels, self.group)
        kernel, stride, pad, after, dilation = self.windows(bottoms[0].rank - 2)
        return [
            graph.node(
                op_type,
                [bottom, weights, *variables[len(kernels) :]],
                kernel_shape=kernel,
                strides=stride,
                pads=[*pad, *after],
                dilations=dilation,
                group=self.group,
            )
            for bottom in bottoms
        ]

    def channel_axis(self, bottom: Shape) -> int:
        """Returns the canonical channel axis; the axes after it are spatial."""
        return canonical_axis(self, self.axis, len(bottom))

    def check_bottoms(self, bottoms: Sequence[Shape]) -> int:
        """Returns the common number of channels; raises NetworkError if bottoms differ or do not divide into groups."""
        if len(set(bottoms)) > 1:
            raise self.invalid(
                f"bottoms of different shapes {sorted(set(bottoms))}", why="they share one set of weights"
            )
        axis = self.channel_axis(bottoms[0])
        if axis != 1:
            raise self.invalid(f"axis {self.axis} on a bottom of {len(bottoms[0])} axes", why="channels are axis 1")
        channels = bottoms[0][axis]
        if channels % self.group:
            raise self.invalid(f"{channels} input channels are not a multiple of group {self.group}")
        return channels


@register("Convolution")
@dataclasses.dataclass(frozen=True, eq=False)
class Convolution(SlidingLayer):
    """Caffe's Convolution: cross-correlation, rounding down, blob (C_out, C_in / group, kh, kw) and bias (C_out).

    Shape: [N, C_in, H, W] -> [N, num_output, (H + 2 pad - dilation (kernel - 1) - 1) // stride + 1, the same for W].

    `pad_t`, `pad_b`, `pad_l` and `pad_r` pad the ends differently; `pad_type: 1` is TensorFlow's SAME (both of
    synopsys-caffe, conv_layer.cpp), for maps of the definition's own size.
    """

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:
        """Returns the layer with stated pads where `pad_type` is TensorFlow's SAME."""
        if self.definition.convolution_param.pad_type != SAME:
            return None
        kernel, stride, _, _, dilation = self.windows(len(bottoms[0]) - 2)
        pads = [
            same_pads(size, k, stride=s, dilation=d)
            for size, k, s, d in zip(bottoms[0][2:], kernel, stride, dilation, strict=True)
        ]
        message = LayerParameter()
        message.CopyFrom(self.definition)
        set_four_pads(message.convolution_param, *zip(*pads, strict=True))
        return message

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        self.check_bottoms(bottoms)
        spatial = bottoms[0][2:]
        cells = tuple(
            convolution_size(size, *window) for size, *window in zip(spatial, *self.windows(len(spatial)), strict=True)
        )
        if cells and min(cells) < 1:
            raise self.invalid(f"a bottom of {'x'.join(map(str, spatial))} is smaller than the window")
        return [(bottom[0], self.num_output, *cells) for bottom in bottoms]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes of the filters, and of the biases if there are any."""
        kernel = self.windows(len(bottoms[0]) - 2)[0]
        weights = (self.num_output, self.check_bottoms(bottoms) // self.group, *kernel)
        return [weights, (self.num_output,)] if self.bias_term else [weights]

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the taps times input channels of a group, for every output value."""
        return sum(math.prod(top) for top in tops) * math.prod(self.blob_shapes(bottoms)[0][1:])

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns a bottom with its padding, the taps of a band of rows, and the product of that band."""
        _, _, pad, after, _ = self.windows(len(bottoms[0]) - 2)
        padded = map(sum, zip(bottoms[0][2:], pad, after, strict=True))
        band = self._band(bottoms[0], tops[0])
        cells = band * math.prod(tops[0][3:])
        product = cells * tops[0][0] * self.num_output
        return math.prod(bottoms[0][:2]) * math.prod(padded) + cells * self._taps(bottoms[0]) + product

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns the window dilation * (kernel - 1) + 1."""
        return window_steps(self.windows(2)) if len(bottoms[0]) == 4 else None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes one matrix product over all taps for each band of rows, so that the taps do not fill the memory."""
        return [self._reference(bottom, blobs) for bottom in bottoms]

    def _taps(self, bottom: Shape) -> int:
        """Returns the values that the windows of one cell read, in all images and channels."""
        return math.prod(bottom[:2]) * math.prod(self.windows(len(bottom) - 2)[0])

    def _band(self, bottom: Shape, top: Shape) -> int:
        """Returns the rows of the top whose taps are gathered at once, at least 1."""
        rows = top[2] if len(top) > 2 else 1
        return min(rows, max(_GATHERED // (self._taps(bottom) * math.prod(top[3:])), 1))

    def _reference(self, bottom: Array, blobs: Sequence[Array]) -> Array:
        shape = self.output_shapes([bottom.shape])[0]
        kernel, stride, pad, after, _ = self.windows(bottom.ndim - 2)
        padded = pad_spatial(bottom, pad, after, 0.0)
        n, g = bottom.shape[0], self.group
        weights = blobs[0].reshape(g, self.num_output // g, -1)
        rows, band = (shape[2] if len(shape) > 2 else 1), self._band(bottom.shape, shape)
        top = np.empty((n, self.num_output, rows, math.prod(shape[3:])))
        for first in range(0, rows, band):
            cells = (min(band, rows - first), *shape[3:])[: len(kernel)]
            read = padded[:, :, first * stride[0] :] if first else padded
            product = weights @ self._gathered(read, cells)
            top[:, :, first : first + band] = product.reshape(n, self.num_output, -1, top.shape[3])
            del product  # before the next band needs its place
        if self.bias_term:
            top += blobs[1][:, None, None]
        return top.reshape(shape)

    def _gathered(self, padded: Array, cells: Sequence[int]) -> Array:
        """Returns what the windows of the first cells read: [N, group, C_in / group * taps, cells].

        Channels come before taps, as in the filters, which then need no copy.
        """
        kernel, stride, _, _, dilation = self.windows(len(cells))
        n, channels = padded.shape[:2]
        columns = np.empty((n, self.group, channels // self.group, math.prod(kernel), *cells))
        for tap, (_, view) in enumerate(taps(padded, kernel, stride=stride, dilation=dilation, cells=cells)):
            columns[:, :, :, tap] = view.reshape(n, self.group, -1, *cells)
        return columns.reshape(n, self.group, channels // self.group * math.prod(kernel), -1)

    def prepare(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns a filter [kh, kw, C_in / group, C_out] per group; depthwise: one [kh, kw, C_in, factor]."""
        weights = blobs[0]
        spatial = range(2, weights.ndim)
        if self._depthwise(weights.shape):
            kernels = [weights.reshape(self.group, -1, *weights.shape[2:]).transpose(*spatial, 0, 1)]
        else:
            kernels = [w.transpose(*spatial, 1, 0) for w in np.split(weights, self.group)]
        return [np.ascontiguousarray(k) for k in kernels] + list(blobs[1:])

    def restore(self, variables: Sequence[Array]) -> list[Array]:
        """Returns one filter bank [C_out, C_in / group, kh, kw]."""
        kernels, bias = (variables[:-1], variables[-1:]) if self.bias_term else (variables, ())
        spatial = range(kernels[0].ndim - 2)
        if self.group > 1 and len(kernels) == 1:  # depthwise
            weights = kernels[0].transpose(-2, -1, *spatial).reshape(self.num_output, 1, *kernels[0].shape[:-2])
        else:
            weights = np.concatenate([k.transpose(-1, -2, *spatial) for k in kernels])
        return [weights, *bias]

    def _depthwise(self, weights: Sequence[int]) -> bool:
        """Returns whether TensorFlow's depthwise kernel fits: one input channel per group, two axes, equal strides."""
        if self.group == 1 or weights[1] != 1 or len(weights) != 4:
            return False
        _, stride, _, _, dilation = self.windows(2)
        # With unequal strides, or stride and dilation, depthwise_conv2d returns a wrong shape without an error.
        return stride[0] == stride[1] and (stride[0] == 1 or max(dilation) == 1)

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.ALLOW

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Uses `tf.nn.conv2d` with explicit padding; groups are split, since the CPU kernel has none."""
        return [self._tensorflow(bottom, variables) for bottom in bottoms]

    def _tensorflow(self, bottom: Tensor, variables: Sequence[Tensor]) -> Tensor:
        tf = import_tensorflow()
        spatial = bottom.shape.rank - 2
        _, stride, pad, after, dilation = self.windows(spatial)
        channels_last = [0, *range(2, spatial + 2), 1]
        x = bottom if spatial == 2 else tf.transpose(bottom, channels_last)
        padding = [[0, 0], *(list(ends) for ends in zip(pad, after, strict=True)), [0, 0]]
        if any(pad + after):
            # A separate Pad instead of conv2d's explicit padding, which XLA and depthwise kernels lack.
            x = tf.pad(x, padding)
        kernels = variables[:-1] if self.bias_term else variables
        if self._depthwise((self.num_output, int(x.shape[-1]) // self.group, *kernels[0].shape[:spatial])):
            y = tf.nn.depthwise_conv2d(x, kernels[0], [1, *stride, 1], "VALID", dilations=list(dilation))
        else:
            parts = tf.split(x, self.group, axis=-1) if self.group > 1 else [x]
            # conv2d can stride and dilate at once, tf.nn.convolution cannot; but conv2d is slow for large dilated
            # windows.
            phases = max(dilation) > 1 and max(stride) == 1 and math.prod(kernels[0].shape[:2]) > _SMALL_WINDOW
            convolve = tf.nn.conv2d if spatial == 2 and not phases else tf.nn.convolution
            convolved = [
                convolve(p, k, strides=stride, padding="VALID", dilations=dilation)
                for p, k in zip(parts, kernels, strict=True)
            ]
            y = tf.concat(convolved, axis=-1) if self.group > 1 else convolved[0]
        if self.bias_term:
            y = tf.nn.bias_add(y, variables[-1])
        return y if spatial == 2 else tf.transpose(y, [0, spatial + 1, *range(1, spatial + 1)])

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Uses Conv, which rounds as Caffe does."""
        return self.onnx_windows("Conv", graph, bottoms, variables)


@register("InnerProduct")
@dataclasses.dataclass(frozen=True, eq=False)
class InnerProduct(Layer):
    """Caffe's InnerProduct: the axes from `axis` on are flattened in C, H, W order and multiplied by a matrix.

    Shape: [..., C, H, W] -> [..., num_output]. Blob (N, K), or (K, N) with `transpose`; bias (N).
    """

    num_output: int = 0
    bias_term: bool = True
    axis: int = 1
    transpose: bool = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `inner_product_param`."""
        message = definition.inner_product_param
        layer = cls(definition, message.num_output, message.bias_term, message.axis, message.transpose)
        if layer.num_output < 1:
            raise layer.invalid("num_output is missing or 0")
        return layer

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        axis = canonical_axis(self, self.axis, len(bottoms[0]))
        return [(*bottoms[0][:axis], self.num_output)]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes of the matrix, and of the biases if there are any."""
        inner = math.prod(bottoms[0][canonical_axis(self, self.axis, len(bottoms[0])) :])
        weights = (inner, self.num_output) if self.transpose else (self.num_output, inner)
        return [weights, (self.num_output,)] if self.bias_term else [weights]

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns one per matrix entry and row."""
        axis = canonical_axis(self, self.axis, len(bottoms[0]))
        return math.prod(tops[0]) * math.prod(bottoms[0][axis:])

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns None: an output reads the whole bottom."""
        return None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes a matrix product."""
        axis = canonical_axis(self, self.axis, bottoms[0].ndim)
        rows = bottoms[0].reshape(*bottoms[0].shape[:axis], -1)
        top = rows @ (blobs[0] if self.transpose else blobs[0].T)
        return [top + blobs[1] if self.bias_term else top]

    def prepare(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns the matrix as [K, N]."""
        return [blobs[0] if self.transpose else np.ascontiguousarray(blobs[0].T), *blobs[1:]]

    def restore(self, variables: Sequence[Array]) -> list[Array]:
        """Returns the matrix as the layer has it: [N, K], or [K, N] with `transpose`."""
        return [variables[0] if self.transpose else variables[0].T, *variables[1:]]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.ALLOW

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Uses `tf.tensordot` on the flattened bottom in Caffe's order."""
        tf = import_tensorflow()
        x = to_caffe(bottoms[0])
        axis = canonical_axis(self, self.axis, x.shape.rank)
        inner = int(variables[0].shape[0])
        lead = tf.shape(x)[:axis]
        top = tf.matmul(tf.reshape(x, [-1, inner]), variables[0])
        if self.bias_term:
            top = tf.nn.bias_add(top, variables[1])
        top = tf.reshape(top, tf.concat([lead, [self.num_output]], axis=0))
        top.set_shape([*x.shape[:axis], self.num_output])
        return [from_caffe(top)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Uses Gemm on the bottom with its leading and its flattened axes joined, which fails for any other size."""
        x = bottoms[0]
        axis = canonical_axis(self, self.axis, x.rank)
        rows = x if (axis, x.rank) == (1, 2) else graph.node("Flatten", [x], axis=axis)
        top = graph.node("Gemm", [rows, *variables])
        return [
            top if axis == 1 else reshaped(graph, top, [*(size_of(graph, x, a) for a in range(axis)), self.num_output])
        ]


def onnx_filters(graph: OnnxGraph, kernels: Sequence[Value], group: int) -> Value:
    """Returns ONNX's filters of all groups as one from those that `prepare` returns.

    Args:
        graph: The graph.
        kernels: [kh, kw, inside, outside] for each group; or one [kh, kw, group, factor] if they are depthwise.
        group: Number of groups.

    Returns:
        [group * outside, inside, kh, kw], or [group * factor, 1, kh, kw].
    """
    spatial = range(kernels[0].rank - 2)
    inside, outside = kernels[0].rank - 2, kernels[0].rank - 1
    if group > 1 and len(kernels) == 1:
        ordered = graph.transposed(kernels[0], [inside, outside, *spatial])
        return graph.reshaped(ordered, [-1, 1, *(ordered.known(2 + axis) for axis in spatial)])
    return graph.concatenated([graph.transposed(kernel, [outside, inside, *spatial]) for kernel in kernels], 0)


def window_steps(windows: Windows) -> tuple[Step, Step]:
    """Returns the receptive-field steps of a window, vertical and horizontal."""
    y, x = (
        Step(Fraction(d * (k - 1) + 1), Fraction(s), Fraction(p), Fraction(a))
        for k, s, p, a, d in zip(*windows, strict=True)
    )
    return y, x
