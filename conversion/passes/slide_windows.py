"""Pass of the cast: windows that cover the whole map slide."""

from __future__ import annotations

import math

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.convolution import Convolution
from conversion.layers.pooling import Pooling
from conversion.layers.windows import set_four_pads
from conversion.net.network import Network, to_definition
from conversion.passes.flat_blobs import ONE
from conversion.passes.rebuild import power, rebuild, set_kernel


def slide_whole_windows(network: Network) -> Network:
    """Lets a window that covers the whole training map slide by one cell, whatever its stride was.

    Given: Pooling, global or with a kernel that reaches over all of its bottom and leaves one cell (NiN, GoogLeNet,
    SqueezeNet, ResNet, MobileNet); or a Convolution whose kernel is its bottom's size.
    Result: a kernel of the training map's size, stride 1, no pad. If Caffe counts
    padding in a mean, the mean lacks a constant factor; a Power layer `<name>-scale` in place multiplies by it.
    """
    definition = to_definition(network)
    scales: dict[str, LayerParameter] = {}
    for layer, message in zip(network.layers, definition.layer, strict=True):
        if isinstance(layer, Pooling):
            factor = _slide_pooling(layer, message, network.shapes[layer.bottoms[0]])
            if factor != 1.0:
                scales[layer.name] = power(layer.name, layer.tops[0], factor)
        elif isinstance(layer, Convolution):
            _slide_convolution(layer, message, network.shapes[layer.bottoms[0]])
    return rebuild(network, definition, scales)


def _slide_pooling(layer: Pooling, message: LayerParameter, shape: Shape) -> float:
    """Changes a pooling of the whole map; returns the factor that its mean then lacks (1 for most)."""
    size = shape[2:]
    kernel = size if layer.global_pooling else layer.kernel
    ends = [k - p for k, p in zip(kernel, layer.pad, strict=True)]  # cell 0 reads [-pad, end)
    if layer.output_shapes([shape])[0][2:] != ONE or any(end < n for end, n in zip(ends, size, strict=True)):
        return 1.0
    if (layer.global_pooling, kernel, layer.stride, layer.pad, layer.after) == (False, size, (1, 1), (0, 0), (0, 0)):
        return 1.0
    value = message.pooling_param
    for field in ("global_pooling", "kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w"):
        value.ClearField(field)
    set_four_pads(value, (0, 0), (0, 0))
    set_kernel(value, shape)
    if layer.method != "AVE":  # the mean of the cells inside has no such factor
        return 1.0
    # Caffe divides by the window clipped to size + pad, padding before the map included.
    padding = zip(ends, size, layer.pad, layer.after, strict=True)
    counted = math.prod(min(end, n + a) + p for end, n, p, a in padding)
    return math.prod(size) / counted


def _slide_convolution(layer: Convolution, message: LayerParameter, shape: Shape) -> None:
    if len(shape) != 4:
        return
    kernel, stride, pad, after, dilation = layer.windows(2)
    window = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    if window == shape[2:] and not any(pad + after) and max(stride) > 1:
        for field in ("stride", "stride_h", "stride_w"):
            message.convolution_param.ClearField(field)
