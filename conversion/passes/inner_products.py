"""Pass of the cast: inner products become convolutions."""

from __future__ import annotations

import numpy as np

from conversion.arrays import Array
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.errors import CastError
from conversion.layers.base import Layer
from conversion.layers.convolution import InnerProduct
from conversion.net.network import Network
from conversion.passes.cast_names import CAST_SUFFIX
from conversion.passes.flat_blobs import ONE, Extent, rewrite
from conversion.passes.permuted import permuted_blobs
from conversion.passes.rebuild import rebuild


def inner_products_to_convolutions(network: Network) -> Network:
    """Turns InnerProducts into Convolutions with the same weights.

    Given: InnerProducts along axis 1, on blobs [N, C, H, W], or [N, K] where an InnerProduct made them.
    Result: Convolutions with filters [num_output, C, H, W] ([num_output, K, 1, 1] after another InnerProduct), named
    with the suffix; the (N, K) matrix and the (N, C, H, W) filter bank are the same memory. Axes that later layers
    count from the end are counted from the start, since blobs gain two axes.

    Raises:
        CastError: An InnerProduct does not read a map, a later layer has no form on a map, or a name is taken.
    """
    if not any(isinstance(layer, InnerProduct) for layer in network.layers):
        return network
    _refuse_taken_names(network)
    parameters = dict(network.parameters)
    renamed: dict[str, str] = {}
    reshaped: dict[tuple[int, bool, tuple[int, int]], Array] = {}  # shared matrices stay shared

    def change(layer: Layer, message: LayerParameter, extent: Extent | None) -> Extent | None:
        if not isinstance(layer, InnerProduct):
            return None
        kernel = _kernel(network, layer, extent)
        _to_convolution(layer, message, kernel)
        renamed.update({top: top + CAST_SUFFIX for top in layer.tops})
        if layer.name in parameters:
            weights, *bias = parameters.pop(layer.name)
            key = (id(weights), layer.transpose, kernel)
            if key not in reshaped:
                matrix = np.ascontiguousarray(weights.T) if layer.transpose else weights
                reshaped[key] = matrix.reshape(layer.num_output, -1, *kernel)
            parameters[message.name] = (reshaped[key], *bias)
        return ONE

    definition = rewrite(network, change)
    for message in definition.layer:
        for blobs in (message.bottom, message.top):
            blobs[:] = [renamed.get(blob, blob) for blob in blobs]
    return rebuild(network, definition, parameters=parameters)


def _refuse_taken_names(network: Network) -> None:
    """Raises CastError if a name that the cast needs is taken."""
    taken = {layer.name for layer in network.layers} | set(network.shapes)
    for layer in network.layers:
        clash = [name + CAST_SUFFIX for name in (layer.name, *layer.tops) if name + CAST_SUFFIX in taken]
        if isinstance(layer, InnerProduct) and clash:
            raise CastError(
                f"the name {clash[0]!r} is taken",
                where=layer.where,
                why="the layer and its blob get that name in the cast",
                remedy="rename the layer or blob of that name, in the definition and in the weights",
            )


def _kernel(network: Network, layer: InnerProduct, extent: Extent | None) -> tuple[int, int]:
    """Returns the height and width of the filters that an InnerProduct becomes."""
    shape = network.shapes[layer.bottoms[0]]
    if layer.axis % len(shape) != 1:
        raise CastError(
            f"axis {layer.axis}", where=layer.where, why="only an InnerProduct over axes 1.. is a convolution"
        )
    if layer.bottoms[0] in permuted_blobs(network):
        raise CastError(
            f"reads {layer.bottoms[0]!r} {shape}, whose positions a Permute moved",
            where=layer.where,
            why="a convolution slides over the last two axes",
            remedy="remove the Permute, and permute the columns of the weights alike",
        )
    if extent is not None:
        return extent
    if len(shape) != 4:
        raise CastError(
            f"a bottom of {len(shape)} axes",
            where=layer.where,
            why="a map is [N, C, H, W]; an earlier layer has joined the positions, or the input has none",
        )
    return (shape[2], shape[3])


def _to_convolution(layer: InnerProduct, message: LayerParameter, kernel: tuple[int, int]) -> None:
    old = layer.definition.inner_product_param
    message.ClearField("inner_product_param")
    message.type = "Convolution"
    message.name = layer.name + CAST_SUFFIX
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
