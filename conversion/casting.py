"""The cast: a classifier becomes fully convolutional. An ordered list of passes over a Network.

Each pass takes a Network and returns another; what it expects and what it gives is in its docstring.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from conversion.caffe_pb2 import LayerParameter
from conversion.errors import CastError
from conversion.layers.base import Array, Layer
from conversion.layers.convolution import InnerProduct
from conversion.layers.shaping import Flatten
from conversion.network import Network, build, to_definition

SUFFIX = "-conv"  # as in Caffe's own notebook on net surgery


def cast(network: Network) -> Network:
    """The fully convolutional form of a classifier: every InnerProduct becomes a Convolution with the same weights.

    At the definition's own input size the result equals the classifier; on a larger input it gives a map. Layers and
    blobs that become convolutions gain the suffix `-conv`. Works with and without weights.

    Raises:
        CastError: A layer cannot be made convolutional; the message names it and says why.
    """
    for one in PASSES:
        network = one(network)
    return network


def bypass_flatten(network: Network) -> Network:
    """Lets InnerProducts read what a Flatten before them reads: an InnerProduct flattens by itself.

    Given: a Flatten of all axes but the first, read by InnerProducts only.
    Result: no such Flatten; its readers read its bottom. Nothing else changes.
    """
    definition = to_definition(network)
    readers: dict[str, list[Layer]] = {}
    for layer in network.layers:
        for bottom in layer.bottoms:
            readers.setdefault(bottom, []).append(layer)
    replaced: dict[str, str] = {}
    for layer in network.layers:
        if not isinstance(layer, Flatten) or layer.tops == layer.bottoms:
            continue
        rank = len(network.shapes[layer.bottoms[0]])
        whole = layer.axis % rank == 1 and layer.end_axis % rank == rank - 1
        reading = readers.get(layer.tops[0], [])
        if whole and reading and all(isinstance(reader, InnerProduct) for reader in reading):
            replaced[layer.tops[0]] = layer.bottoms[0]
    kept = [m for m in definition.layer if not (m.type == Flatten.caffe_type and m.top[0] in replaced)]
    if not replaced:
        return network
    del definition.layer[:]
    for message in kept:
        message.bottom[:] = [replaced.get(bottom, bottom) for bottom in message.bottom]
        definition.layer.append(message)
    return dataclasses.replace(build(definition, network.parameters), notes=network.notes)


def inner_products_to_convolutions(network: Network) -> Network:
    """InnerProduct -> Convolution with the same weights.

    Given: InnerProducts along axis 1, on blobs [N, C, H, W], or [N, K] where an InnerProduct made them.
    Result: Convolutions with filters [num_output, C, H, W] ([num_output, K, 1, 1] after another InnerProduct), named
    with the suffix; the (N, K) matrix and the (N, C, H, W) filter bank are the same memory. Axes that later layers
    count from the end are counted from the start, since blobs gain two axes.
    """
    if not any(isinstance(layer, InnerProduct) for layer in network.layers):
        return network
    definition = to_definition(network)
    parameters = dict(network.parameters)
    renamed: dict[str, str] = {}
    flat: set[str] = set()  # blobs that were [N, K] and are now [N, K, 1, 1]
    reshaped: dict[tuple[int, bool, tuple[int, int]], Array] = {}  # shared matrices stay shared
    for layer, message in zip(network.layers, definition.layer, strict=True):
        bottoms = list(message.bottom)
        message.bottom[:] = [renamed.get(blob, blob) for blob in bottoms]
        if isinstance(layer, InnerProduct):
            kernel = _kernel(network, layer, bottoms[0] in flat)
            _to_convolution(layer, message, kernel)
            flat.update(layer.tops)
            renamed.update({top: top + SUFFIX for top in layer.tops})
            if layer.name in parameters:
                weights, *bias = parameters.pop(layer.name)
                key = (id(weights), layer.transpose, kernel)
                if key not in reshaped:
                    matrix = np.ascontiguousarray(weights.T) if layer.transpose else weights
                    reshaped[key] = matrix.reshape(layer.num_output, -1, *kernel)
                parameters[message.name] = (reshaped[key], *bias)
        elif flat.intersection(bottoms):
            _count_axis_from_start(layer, message, len(network.shapes[bottoms[0]]))
            flat.update(layer.tops)
        message.top[:] = [renamed.get(blob, blob) for blob in message.top]
    return dataclasses.replace(build(definition, parameters), notes=network.notes)


# bypass_flatten first: an InnerProduct must see the [N, C, H, W] blob to know its kernel.
PASSES: tuple[Callable[[Network], Network], ...] = (bypass_flatten, inner_products_to_convolutions)


def _kernel(network: Network, layer: InnerProduct, flat: bool) -> tuple[int, int]:
    """Height and width of the filters that an InnerProduct becomes."""
    shape = network.shapes[layer.bottoms[0]]
    if layer.axis % len(shape) != 1:
        raise CastError(
            f"axis {layer.axis}", where=layer.where, why="only an InnerProduct over axes 1.. is a convolution"
        )
    if flat:
        return (1, 1)
    if len(shape) != 4:
        raise CastError(
            f"a bottom of {len(shape)} axes",
            where=layer.where,
            why="a map needs N, C, H, W, and a layer before this one has joined the positions, or the input has none",
        )
    return (shape[2], shape[3])


def _to_convolution(layer: InnerProduct, message: LayerParameter, kernel: tuple[int, int]) -> None:
    old = layer.definition.inner_product_param
    message.ClearField("inner_product_param")
    message.type = "Convolution"
    message.name = layer.name + SUFFIX
    new = message.convolution_param
    new.num_output = layer.num_output
    if kernel[0] == kernel[1]:
        new.kernel_size.append(kernel[0])
    else:
        new.kernel_h, new.kernel_w = kernel
    for field in ("bias_term", "weight_filler", "bias_filler"):
        if old.HasField(field):
            value = getattr(old, field)
            if isinstance(value, bool):
                setattr(new, field, value)
            else:
                getattr(new, field).CopyFrom(value)


def _count_axis_from_start(layer: Layer, message: LayerParameter, rank: int) -> None:
    for descriptor, value in message.ListFields():
        if descriptor.name.endswith("_param") and descriptor.message_type and hasattr(value, "axis"):
            if value.axis < 0:
                value.axis += rank
            if value.axis > 1:
                raise CastError(f"axis {value.axis}", where=layer.where, why="a flat blob has axes 0 and 1 only")
