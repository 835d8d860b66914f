"""Pass of the cast: removes what flattens a map."""

from __future__ import annotations

from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer
from conversion.layers.flatten import Reshape
from conversion.net.network import Network
from conversion.passes.flat_blobs import Extent, joins_all, rewrite, to_split
from conversion.passes.permuted import permuted_blobs
from conversion.passes.rebuild import rebuild


def keep_positions(network: Network) -> Network:
    """Undoes the Flatten, Reshape and Squeeze that end a map; the layers after them work on the map.

    Given: a Flatten, Reshape or Squeeze from [N, C, H, W] to [N, C*H*W], read by layers that do the same at every
    position: activations, Concat of maps of one size, Softmax, Scale, ... and finally InnerProducts; or a Reshape to
    the shape that its bottom already has.
    Result: a Split of one copy in its place, which keeps names and shared memory. Axes that later layers count from the
    end are counted from the start, since blobs gain two axes. What flattens a permuted blob stays.

    Raises:
        CastError: A later layer treats positions differently.
    """
    permuted = permuted_blobs(network)

    def change(layer: Layer, message: LayerParameter, extent: Extent | None) -> Extent | None:
        shape = network.shapes[layer.bottoms[0]] if layer.bottoms else ()
        if extent is None and joins_all(layer, shape) and layer.bottoms[0] not in permuted:
            to_split(message)
            return (shape[2], shape[3])
        if (
            extent is None
            and isinstance(layer, Reshape)
            and len(shape) == 4
            and layer.output_shapes([shape])[0] == shape
        ):
            to_split(message)  # its sizes are those of the training size
        return None

    return rebuild(network, rewrite(network, change))
