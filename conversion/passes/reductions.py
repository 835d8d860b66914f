"""Pass of the cast: reductions over positions become poolings."""

from __future__ import annotations

import math

from conversion.caffe.caffe_pb2 import LayerParameter, PoolingParameter
from conversion.errors import CastError
from conversion.layers.base import Layer
from conversion.layers.reduction import Reduction
from conversion.net.network import Network
from conversion.passes.flat_blobs import ONE, Extent, rewrite
from conversion.passes.rebuild import power, rebuild, set_kernel


def reductions_to_poolings(network: Network) -> Network:
    """Turns Reductions over all positions into average poolings of the training map's size with stride 1.

    Given: a Reduction, SUM or MEAN, from axis 2 on of a blob [N, C, H, W].
    Result: Pooling AVE, kernel (H, W), and a Power layer `<name>-scale` in place with the
    factor unless it is 1. The top is [N, C, 1, 1], and later layers are adapted.

    Raises:
        CastError: It sums magnitudes or squares, or a later layer has no form on a map.
    """
    scales: dict[str, LayerParameter] = {}

    def change(layer: Layer, message: LayerParameter, extent: Extent | None) -> Extent | None:
        shape = network.shapes[layer.bottoms[0]] if layer.bottoms else ()
        if not isinstance(layer, Reduction) or extent or len(shape) != 4 or layer.axis % 4 != 2:
            return None
        if layer.operation not in ("SUM", "MEAN"):
            raise CastError(
                f"operation {layer.operation}", where=layer.where, why="only SUM and MEAN over positions are poolings"
            )
        factor = layer.coeff * (math.prod(shape[2:]) if layer.operation == "SUM" else 1)
        message.type = "Pooling"
        message.ClearField("reduction_param")
        message.pooling_param.pool = PoolingParameter.AVE
        set_kernel(message.pooling_param, shape)
        if factor != 1.0:
            scales[layer.name] = power(layer.name, layer.tops[0], factor)
        return ONE

    return rebuild(network, rewrite(network, change), scales)
