"""Pass of the cast: norms of an item that has one position become norms of each position."""

from __future__ import annotations

import math

from conversion.layers.item_norms import L2Norm, Normalize
from conversion.net.network import Network, to_definition
from conversion.passes.rebuild import rebuild


def norms_of_positions(network: Network) -> Network:
    """Lets a norm over a whole item slide where the item has one position, after a global pooling for example.

    Given: Normalize with `across_spatial`, or L2Norm, on a blob [N, C, 1, 1].
    Result: `across_spatial: false`, which is the same there, and the norm of each position of a map.
    """
    definition = to_definition(network)
    for layer, message in zip(network.layers, definition.layer, strict=True):
        if isinstance(layer, (Normalize, L2Norm)):
            shape = network.shapes[layer.bottoms[0]]
            if len(shape) == 4 and math.prod(shape[2:]) == 1 and layer.across_spatial is not False:
                message.norm_param.across_spatial = False
    return rebuild(network, definition)
