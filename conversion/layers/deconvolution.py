"""Deconvolution: the transpose of a convolution; each cell of the bottom adds to a window of the top."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType

import numpy as np

from conversion.arrays import Array, Shape, Size, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.errors import UnsupportedError
from conversion.layers.base import Narrow, Step, register
from conversion.layers.convolution import SlidingLayer
from conversion.layers.layout import import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.windows import taps


@register("Deconvolution")
@dataclasses.dataclass(frozen=True, eq=False)
class Deconvolution(SlidingLayer):
    """Caffe's Deconvolution (deconv_layer.cpp): bottom cell i adds to the top cells i * stride - pad + dilation * tap.

    Shape: [N, C_in, H, W] -> [N, num_output, stride * (H - 1) + dilation * (kernel - 1) + 1 - 2 * pad, the same for W].
    `pad_t`, `pad_b`, `pad_l` and `pad_r` cut off cells at each end (synopsys-caffe, deconv_layer.cpp).
    Blob (C_in, num_output / group, kh, kw) and bias (num_output). Two spatial axes only.
    """

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:
        """Raises UnsupportedError for `pad_type`: in the fork the sizes and the values contradict each other there."""
        if self.definition.convolution_param.pad_type:
            raise UnsupportedError("pad_type of a Deconvolution", where=self.where)
        return super().settled(bottoms)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        for bottom in bottoms:
            if len(bottom) != 4:
                raise UnsupportedError(
                    f"a bottom of {len(bottom)} axes",
                    where=self.where,
                    why="densecast supports Deconvolution over two spatial axes: N, C, H, W",
                )
        self.check_bottoms(bottoms)
        spatial = bottoms[0][2:]
        _, _, pad, after, _ = self.windows(2)
        cells = tuple(full - p - a for full, p, a in zip(self._full(spatial), pad, after, strict=True))
        if min(cells) < 1:
            raise self.invalid(
                f"a bottom of {spatial[0]}x{spatial[1]} gives a top of {cells[0]}x{cells[1]}",
                why=f"pad {pad if pad == after else (*pad, *after)} removes more cells than there are",
            )
        return [(bottom[0], self.num_output, *cells) for bottom in bottoms]

    def _full(self, spatial: Sequence[Size]) -> tuple[Size, ...]:
        """Returns cells of the top along each axis before `pad` is removed; integers or tensors."""
        kernel, stride, _, _, dilation = self.windows(2)
        return tuple(
            s * (n - 1) + d * (k - 1) + 1 for n, k, s, d in zip(spatial, kernel, stride, dilation, strict=True)
        )

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes of the filters, and of the biases if there are any."""
        weights = (self.check_bottoms(bottoms), self.num_output // self.group, *self.windows(2)[0])
        return [weights, (self.num_output,)] if self.bias_term else [weights]

    def multiply_adds(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:  # noqa: ARG002
        """Returns taps times output channels of a group, for every value of the bottoms."""
        return sum(math.prod(bottom) for bottom in bottoms) * math.prod(self.blob_shapes(bottoms)[0][1:])

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:  # noqa: ARG002
        """Returns a top before `pad` is removed, one tap of all its cells, and the filters with their gaps."""
        kernel, *_, dilation = self.windows(2)
        cells: int = math.prod(self._full(bottoms[0][2:])) + math.prod(bottoms[0][2:])
        values = bottoms[0][0] * self.num_output * cells
        if max(dilation) == 1:
            return values
        gaps = math.prod(k * d for k, d in zip(kernel, dilation, strict=True))
        return values + math.prod(self.blob_shapes(bottoms)[0][:2]) * gaps

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns the step by which top cell o reads the bottom's cells (o + pad - dilation * tap) / stride."""
        y, x = (
            Step(Fraction(d * (k - 1), s) + 1, Fraction(1, s), *(Fraction(d * (k - 1) - end, s) for end in (p, a)))
            for k, s, p, a, d in zip(*self.windows(2), strict=True)
        )
        return y, x

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes one matrix product per tap, and adds it to the cells that the tap reaches."""
        return [self._reference(bottom, blobs) for bottom in bottoms]

    def _reference(self, bottom: Array, blobs: Sequence[Array]) -> Array:
        kernel, stride, pad, after, dilation = self.windows(2)
        n, g, cells = bottom.shape[0], self.group, bottom.shape[2:]
        groups = bottom.reshape(n, g, -1, math.prod(cells))
        weights = blobs[0].reshape(g, groups.shape[2], -1, *kernel)
        full = np.zeros((n, self.num_output, *self._full(cells)))
        for tap, view in taps(full, kernel, stride=stride, dilation=dilation, cells=cells):
            view += (weights[..., tap[0], tap[1]].swapaxes(1, 2) @ groups).reshape(view.shape)
        top = full[:, :, pad[0] : full.shape[2] - after[0], pad[1] : full.shape[3] - after[1]]
        return top + blobs[1][:, None, None] if self.bias_term else top

    def prepare(self, blobs: Sequence[Array]) -> list[Array]:
        """Returns a filter [kh, kw, C_out / group, C_in / group] per group; depthwise: one [kh, kw, C_out, factor]."""
        weights = blobs[0]
        if self._depthwise():
            kernels = [weights.reshape(self.group, -1, *weights.shape[2:]).transpose(2, 3, 0, 1)]
        else:
            kernels = [w.transpose(2, 3, 1, 0) for w in np.split(weights, self.group)]
        return [np.ascontiguousarray(k) for k in kernels] + list(blobs[1:])

    def restore(self, variables: Sequence[Array]) -> list[Array]:
        """Returns one filter bank [C_in, C_out / group, kh, kw]."""
        kernels, bias = (variables[:-1], variables[-1:]) if self.bias_term else (variables, ())
        if self._depthwise():
            weights = kernels[0].transpose(2, 3, 0, 1).reshape(-1, 1, *kernels[0].shape[:2])
        else:
            weights = np.concatenate([k.transpose(3, 2, 0, 1) for k in kernels])
        return [weights, *bias]

    def _depthwise(self) -> bool:
        """Returns whether TensorFlow's depthwise kernel fits: one output channel per group, equal strides."""
        stride = self.windows(2).stride
        return self.group > 1 and self.num_output == self.group and stride[0] == stride[1]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.ALLOW

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Returns the gradient of a VALID convolution, whose size is unambiguous, with `pad` cut off at every side."""
        return [self._tensorflow(bottom, variables) for bottom in bottoms]

    def _tensorflow(self, x: Tensor, variables: Sequence[Tensor]) -> Tensor:
        tf = import_tensorflow()
        _, stride, pad, after, _ = self.windows(2)
        size = tf.shape(x)
        height, width = self._full((size[1], size[2]))
        kernels = [self._dilated(tf, k) for k in (variables[:-1] if self.bias_term else variables)]
        if self._depthwise():
            shape = tf.stack([size[0], height, width, self.num_output])
            y = tf.nn.depthwise_conv2d_backprop_input(shape, kernels[0], x, [1, *stride, 1], "VALID")
        else:
            shape = tf.stack([size[0], height, width, self.num_output // self.group])
            parts = tf.split(x, self.group, axis=-1) if self.group > 1 else [x]
            spread = [
                tf.nn.conv2d_transpose(p, k, shape, stride, padding="VALID")
                for p, k in zip(parts, kernels, strict=True)
            ]
            y = tf.concat(spread, axis=-1) if self.group > 1 else spread[0]
        y = y[:, pad[0] : height - after[0], pad[1] : width - after[1]]
        full = self._static(x.shape[1:3])
        static = [None if n is None else n - p - a for n, p, a in zip(full, pad, after, strict=True)]
        y.set_shape([x.shape[0], *static, self.num_output])
        return tf.nn.bias_add(y, variables[-1]) if self.bias_term else y

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Uses ConvTranspose, whose size is Caffe's."""
        return self.onnx_windows("ConvTranspose", graph, bottoms, variables)

    def _static(self, spatial: Sequence[int | None]) -> list[int | None]:
        """Returns cells before `pad` is removed, along each axis whose size is known."""
        full = self._full([n or 1 for n in spatial])
        return [None if n is None else size for n, size in zip(spatial, full, strict=True)]

    def _dilated(self, tf: ModuleType, kernel: Tensor) -> Tensor:
        """Returns the filter with dilation - 1 zeros between its taps: TensorFlow's CPU kernel has no dilation."""
        high, wide = self.windows(2).dilation
        if (high, wide) == (1, 1):
            return kernel
        kh, kw, *channels = kernel.shape
        spaced = tf.reshape(kernel, [kh, 1, kw, 1, *channels])
        spaced = tf.pad(spaced, [[0, 0], [0, high - 1], [0, 0], [0, wide - 1], [0, 0], [0, 0]])
        spaced = tf.reshape(spaced, [kh * high, kw * wide, *channels])
        return spaced[: high * (kh - 1) + 1, : wide * (kw - 1) + 1]
