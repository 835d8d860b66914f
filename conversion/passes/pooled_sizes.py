"""Pass of the cast: an upsampling by mask takes the size of the map that was pooled."""

from __future__ import annotations

from conversion.layers.pooling import Pooling
from conversion.layers.upsample import Upsample
from conversion.net.network import Network, to_definition
from conversion.passes.rebuild import rebuild


def sizes_of_pooled_maps(network: Network) -> Network:
    """Gives an Upsample by mask the map that was pooled as a bottom, so that the mask fits at every size.

    A mask has places in the plane that was pooled. SegNet states the size of its top as a number, or as twice its
    bottom: both are that plane's at the training size only, or where nothing was rounded.

    Given: an Upsample whose mask a Pooling makes, and whose top has the size of what that Pooling reads.
    Result: the same layer with that blob as its last bottom, whose size its top has.
    """
    definition = to_definition(network)
    pooled: dict[str, str] = {}  # by mask, the blob that was pooled
    for layer, message in zip(network.layers, definition.layer, strict=True):
        if isinstance(layer, Pooling):
            pooled.update(dict.fromkeys(layer.tops[1:], layer.bottoms[0]))
        if not isinstance(layer, Upsample) or len(layer.bottoms) != 2 or layer.bottoms[1] not in pooled:
            continue
        source = pooled[layer.bottoms[1]]
        if network.shapes[source] == network.shapes[layer.tops[0]]:
            message.ClearField("upsample_param")
            message.bottom.append(source)
            message.densecast_param.size_of_last_bottom = True
    return rebuild(network, definition)
