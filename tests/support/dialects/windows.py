"""Cases of padding: convolutions, deconvolutions and poolings, window by window and cell by cell."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tests.support.definitions import data, layer
from tests.support.dialects.case import Case, Truth, Values

_SYNOPSYS = "synopsys-caffe, src/caffe/layers"
Four = tuple[int, int, int, int]  # top, bottom, left, right


def convolve(kernel: int, stride: int, pads: Four, dilation: int = 1, group: int = 1) -> Truth:
    """im2col_cpu and compute_output_shape: every output cell is a sum over taps that lie in the image."""
    top, bottom, left, right = pads
    reach = dilation * (kernel - 1) + 1

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,), (weights, *bias) = bottoms, blobs
        n, channels, height, width = x.shape
        rows, columns = (height + top + bottom - reach) // stride + 1, (width + left + right - reach) // stride + 1
        out = np.zeros((n, len(weights), rows, columns))
        of_group, per_group = channels // group, len(weights) // group
        for o, h, w in np.ndindex(len(weights), rows, columns):
            first = o // per_group * of_group
            for i, j in np.ndindex(kernel, kernel):
                y, z = h * stride - top + i * dilation, w * stride - left + j * dilation
                if 0 <= y < height and 0 <= z < width:
                    out[:, o, h, w] += x[:, first : first + of_group, y, z] @ weights[o, :, i, j]
            if bias:
                out[:, o, h, w] += bias[0][o]
        return [out]

    return truth


def spread(kernel: int, stride: int, pads: Four, group: int = 1) -> Truth:
    """col2im_cpu and DeconvolutionLayer::compute_output_shape: every input cell adds to the cells it reaches."""
    top, bottom, left, right = pads

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,), (weights, *bias) = bottoms, blobs
        n, channels, height, width = x.shape
        rows = stride * (height - 1) + kernel - top - bottom
        columns = stride * (width - 1) + kernel - left - right
        per_group = weights.shape[1]
        out = np.zeros((n, per_group * group, rows, columns))
        for c, h, w, i, j in np.ndindex(channels, height, width, kernel, kernel):
            y, z = h * stride - top + i, w * stride - left + j
            if 0 <= y < rows and 0 <= z < columns:
                first = c // (channels // group) * per_group
                out[:, first : first + per_group, y, z] += np.outer(x[:, c, h, w], weights[c, :, i, j])
        return [out + bias[0].reshape(1, -1, 1, 1) if bias else out]

    return truth


def pool(method: str, kernel: int, stride: int, pads: Four, ceil: bool = True) -> Truth:
    """PoolingLayer::Reshape and Forward_cpu of the fork."""
    top, bottom, left, right = pads

    def cells(size: int, before: int, after: int) -> int:
        rounded = (math.ceil if ceil else math.floor)((size + before + after - kernel) / stride) + 1
        return rounded - 1 if any(pads) and (rounded - 1) * stride >= size + before else rounded

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        n, channels, height, width = x.shape
        out = np.zeros((n, channels, cells(height, top, bottom), cells(width, left, right)))
        for h, w in np.ndindex(out.shape[2:]):
            y, z = h * stride - top, w * stride - left
            y_end, z_end = min(y + kernel, height + bottom), min(z + kernel, width + right)
            size = (y_end - y) * (z_end - z)
            y, z, y_end, z_end = max(y, 0), max(z, 0), min(y_end, height), min(z_end, width)
            window = x[:, :, y:y_end, z:z_end].reshape(n, channels, -1)
            if method == "MAX":
                out[:, :, h, w] = window.max(axis=2)
            else:
                out[:, :, h, w] = window.sum(axis=2) / (size if method == "AVE" else (y_end - y) * (z_end - z))
        return [out]

    return truth


def same(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """The pads of `pad_type: 1` before and after."""
    whole = max(kernel - stride if size % stride == 0 else kernel - size % stride, 0)
    return whole // 2, whole - whole // 2


def _fields(pads: Four) -> str:
    return "pad_t: {} pad_b: {} pad_l: {} pad_r: {}".format(*pads)


def _convolution(name: str, shape: Sequence[int], kernel: int, stride: int, pads: Four, dilation: int = 1) -> Case:
    text = f"num_output: 4 kernel_size: {kernel} stride: {stride} dilation: {dilation} {_fields(pads)}"
    return Case(
        f"conv_{name}",
        data(*shape) + layer("Convolution", "conv", "data", convolution_param=text),
        convolve(kernel, stride, pads, dilation),
        f"{_SYNOPSYS}/conv_layer.cpp, util/im2col.cpp",
    )


def _same_convolution(name: str, shape: Sequence[int], kernel: int, stride: int) -> Case:
    text = f"num_output: 4 kernel_size: {kernel} stride: {stride} pad_type: 1"
    rows, columns = (same(size, kernel, stride) for size in shape[2:])
    return Case(
        f"conv_same_{name}",
        data(*shape) + layer("Convolution", "conv", "data", convolution_param=text),
        convolve(kernel, stride, (*rows, *columns)),
        f"{_SYNOPSYS}/conv_layer.cpp, util/im2col.cpp",
    )


def _deconvolution(name: str, shape: Sequence[int], kernel: int, stride: int, pads: Four) -> Case:
    text = f"num_output: 4 kernel_size: {kernel} stride: {stride} {_fields(pads)}"
    return Case(
        f"deconv_{name}",
        data(*shape) + layer("Deconvolution", "deconv", "data", convolution_param=text),
        spread(kernel, stride, pads),
        f"{_SYNOPSYS}/deconv_layer.cpp, util/im2col.cpp",
    )


def _pooling(name: str, shape: Sequence[int], method: str, kernel: int, stride: int, pads: Four, ceil=True) -> Case:
    fields = _fields(pads) if len(set(pads)) > 1 else f"pad: {pads[0]}"
    text = f"pool: {method} kernel_size: {kernel} stride: {stride} {fields}" + ("" if ceil else " ceil_mode: false")
    return Case(
        f"pool_{name}",
        data(*shape) + layer("Pooling", "pool", "data", pooling_param=text),
        pool(method, kernel, stride, pads, ceil),
        f"{_SYNOPSYS}/pooling_layer.cpp",
    )


def _same_pooling(name: str, shape: Sequence[int], method: str, kernel: int, stride: int) -> Case:
    text = f"pool: {method} kernel_size: {kernel} stride: {stride} pad_type: 1"
    rows, columns = (same(size, kernel, stride) for size in shape[2:])
    return Case(
        f"pool_same_{name}",
        data(*shape) + layer("Pooling", "pool", "data", pooling_param=text),
        pool(method, kernel, stride, (*rows, *columns), ceil=False),
        f"{_SYNOPSYS}/pooling_layer.cpp",
    )


def _depthwise(kind: str, name: str, shape: Sequence[int], stride: int, text: str = "") -> Case:
    channels = shape[1]
    fields = f"num_output: {channels} kernel_size: 3 stride: {stride} pad: 1 {text}"
    truth = spread(3, stride, (1,) * 4, channels) if "Deconv" in kind else convolve(3, stride, (1,) * 4, 1, channels)
    source = "MobileNet-YOLO, src/caffe/layers/depthwise_conv_layer.cpp"
    return Case(
        f"depthwise_{name}",
        data(*shape) + layer(kind, "dw", "data", convolution_param=fields),
        truth,
        source if kind.startswith("Depthwise") else f"{_SYNOPSYS}/base_conv_layer.cpp",
    )


_SHAPES = ((1, 3, 7, 9), (2, 2, 10, 10), (1, 4, 12, 5))
CASES = (
    *(_convolution(f"four_pads_{i}", shape, 3, 2, (0, 1, 0, 1)) for i, shape in enumerate(_SHAPES)),
    _convolution("pads_ahead", _SHAPES[0], 3, 1, (2, 0, 1, 0)),
    _convolution("pads_dilated", _SHAPES[1], 3, 1, (1, 2, 3, 0), dilation=2),
    *(_same_convolution(str(i), shape, 3, 2) for i, shape in enumerate(_SHAPES)),
    _same_convolution("even", _SHAPES[0], 4, 3),
    *(_deconvolution(f"four_pads_{i}", shape, 4, 2, (0, 2, 1, 1)) for i, shape in enumerate(_SHAPES)),
    *(_pooling(f"max_four_pads_{i}", shape, "MAX", 3, 2, (0, 1, 1, 0)) for i, shape in enumerate(_SHAPES)),
    *(_pooling(f"ave_four_pads_{i}", shape, "AVE", 3, 2, (1, 2, 0, 1)) for i, shape in enumerate(_SHAPES)),
    _pooling("ave_four_pads_clipped", (1, 2, 6, 6), "AVE", 3, 2, (1, 2, 2, 2)),
    *(_pooling(f"inside_{i}", shape, "AVE_TF", 3, 2, (1, 1, 1, 1)) for i, shape in enumerate(_SHAPES)),
    _pooling("inside_four_pads", _SHAPES[0], "AVE_EXC_PAD", 3, 1, (2, 1, 0, 2)),
    *(_pooling(f"ceil_mode_{i}", shape, "MAX", 2, 2, (0, 0, 0, 0), ceil=False) for i, shape in enumerate(_SHAPES)),
    *(_same_pooling(f"max_{i}", shape, "MAX", 3, 2) for i, shape in enumerate(_SHAPES)),
    *(_same_pooling(f"inside_{i}", shape, "AVE_TF", 3, 2) for i, shape in enumerate(_SHAPES)),
    _same_pooling("stride_above_kernel", (1, 2, 7, 8), "MAX", 1, 2),
    *(_depthwise("ConvolutionDepthwise", f"conv_{i}", shape, 2, "group: 1") for i, shape in enumerate(_SHAPES)),
    *(_depthwise("DepthwiseConvolution", f"named_{i}", shape, 1) for i, shape in enumerate(_SHAPES)),
    *(_depthwise("DeconvolutionDepthwise", f"deconv_{i}", shape, 2) for i, shape in enumerate(_SHAPES)),
)
