"""SPP: spatial pyramid pooling, a vector of fixed length from a map of any size."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import ModuleType
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Size, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter, SPPParameter
from conversion.errors import UnsupportedError
from conversion.layers.base import Layer, Step, register
from conversion.layers.layout import import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_pooling import clean, pool_globally
from conversion.layers.onnx_sizes import larger, lowest, padded, reshaped, size_of, smaller
from conversion.layers.pooling import FLT_MAX, Pooling

# Caffe refuses a map whose pad is not smaller than its kernel. ONNX has no assertion; but a reshape fails if the number
# of bins is far below 0, which this factor makes it.
_REFUSED = 2**40


@register("SPP")
@dataclasses.dataclass(frozen=True, eq=False)
class SPP(Layer):
    """Poolings of the whole map into 1, 2x2, 4x4, ... bins, flattened and joined (He et al. 2014; spp_layer.cpp).

    Level l has 2^l bins along each axis: kernel = stride = ceil(size / bins), pad = half of kernel * bins - size,
    rounded up.

    Shape: [N, C, H, W] -> [N, C * (1 + 4 + ... + 4^(pyramid_height - 1))]; for one level [N, C, 1, 1].
    """

    pyramid_height: int = 1
    method: str = "MAX"

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `spp_param`."""
        message = definition.spp_param
        layer = cls(definition, message.pyramid_height, SPPParameter.PoolMethod.Name(message.pool))
        if layer.method == "STOCHASTIC":
            raise UnsupportedError("pool: STOCHASTIC", where=layer.where)
        if layer.pyramid_height < 1:
            raise layer.invalid("pyramid_height is missing or 0", why="it must be at least 1")
        return layer

    def _levels(self, height: int, width: int) -> list[Pooling]:
        """Returns the pooling of each level for a map of this size; raises NetworkError for too small a map."""
        levels = []
        for level in range(self.pyramid_height):
            (kernel_h, pad_h), (kernel_w, pad_w) = (_window(size, 2**level) for size in (height, width))
            if pad_h >= kernel_h or pad_w >= kernel_w:
                raise self.invalid(
                    f"a bottom of {height}x{width} is too small for {2**level}x{2**level} bins",
                    why=f"pad {pad_h}x{pad_w} is not smaller than the kernel {kernel_h}x{kernel_w}",
                )
            kernel = (kernel_h, kernel_w)
            pad = (pad_h, pad_w)
            levels.append(Pooling(self.definition, self.method, kernel, stride=kernel, pad=pad, after=pad))
        return levels

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.invalid(f"a bottom of {len(shape)} axes", why="SPP is defined for N, C, H, W")
        self._levels(*shape[2:])
        if self.pyramid_height == 1:
            return [(*shape[:2], 1, 1)]
        return [(shape[0], shape[1] * sum(4**level for level in range(self.pyramid_height)))]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns None: the first level reads the whole bottom."""
        return None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes Caffe's own poolings."""
        pooled = [level.reference(bottoms, blobs)[0] for level in self._levels(*bottoms[0].shape[2:])]
        if self.pyramid_height == 1:
            return pooled
        return [np.concatenate([p.reshape(len(p), -1) for p in pooled], axis=1)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Reduces a reshape to [N, bins, kernel, bins, kernel, C]: bins fill the padded map and do not overlap."""
        tf = import_tensorflow()
        pooled = [self._level(tf, bottoms[0], 2**level) for level in range(self.pyramid_height)]
        if self.pyramid_height == 1:
            return pooled
        rows = [tf.reshape(to_caffe(p), [-1, p.shape[1] * p.shape[2] * p.shape[3]]) for p in pooled]
        return [tf.concat(rows, axis=1)]

    def _level(self, tf: ModuleType, x: Tensor, bins: int) -> Tensor:
        shape = tf.shape(x)
        channels = int(x.shape[3])
        kernel, pad = zip(*(_window(shape[axis], bins) for axis in (1, 2)), strict=True)
        kernel, pad = tf.stack(kernel), tf.stack(pad)
        message = f"{self.where}: the map is too small for {bins}x{bins} bins"
        after = kernel * bins - shape[1:3] - pad
        with tf.control_dependencies([tf.debugging.assert_less(pad, kernel, message=message)]):
            around = tf.pad(tf.stack([pad, after], axis=1), [[1, 1], [0, 0]])
        blocks = tf.stack([shape[0], bins, kernel[0], bins, kernel[1], channels])
        if self.method == "MAX":
            clean = tf.where(x > -FLT_MAX, x, -FLT_MAX)
            padded = tf.pad(clean, around, constant_values=-FLT_MAX)
            top = tf.reduce_max(tf.reshape(padded, blocks), axis=(2, 4))
        else:
            # No bin reaches past size + pad: the divisor is the whole kernel for all.
            top = tf.reduce_mean(tf.reshape(tf.pad(x, around), blocks), axis=(2, 4))
        top.set_shape([x.shape[0], bins, bins, channels])
        return top

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes as the TensorFlow form does; one bin is the whole map."""
        x = bottoms[0]
        x = clean(graph, x) if self.method == "MAX" else x
        (whole,) = pool_globally(graph, x, maximum=self.method == "MAX")
        if self.pyramid_height == 1:
            return [whole]
        pooled = [whole, *(self._onnx_level(graph, x, 2**level) for level in range(1, self.pyramid_height))]
        return [graph.node("Concat", [graph.node("Flatten", [p], axis=1) for p in pooled], axis=1)]

    def _onnx_level(self, graph: OnnxGraph, x: Value, bins: int) -> Value:
        size = size_of(graph, x, 2), size_of(graph, x, 3)
        kernel, pad = zip(*(_window(n, bins) for n in size), strict=True)
        after = [larger(k * bins - n - p, 0) for k, n, p in zip(kernel, size, pad, strict=True)]
        maximum = self.method == "MAX"
        around = padded(graph, x, [*pad, *after], lowest(x) if maximum else 0.0)
        rows, columns = (bins + smaller(k - p - 1, 0) * _REFUSED for k, p in zip(kernel, pad, strict=True))
        lead = [size_of(graph, x, axis) for axis in (0, 1)]
        blocks = reshaped(graph, around, [*lead, rows, kernel[0], columns, kernel[1]])
        shape = [x.shape[0], x.shape[1], bins, bins]
        return graph.node("ReduceMax" if maximum else "ReduceMean", [blocks], axes=[3, 5], keepdims=0, shape=shape)


def _window(size: Size, bins: int) -> tuple[Size, Size]:
    """Returns (kernel, pad) of a level along one axis (GetPoolingParam); integers or tensors."""
    kernel = -(-size // bins)
    return kernel, (kernel * bins - size + 1) // 2
