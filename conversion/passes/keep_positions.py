"""Pass of the cast: what flattens a map is left undone."""

from __future__ import annotations

from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer
from conversion.layers.flatten import Reshape
from conversion.net.network import Network
from conversion.passes.flat_blobs import Extent, joins_all, rewrite, to_split
from conversion.passes.rebuild import rebuild


def keep_positions(network: Network) -> Network:
    """Flatten and Reshape that end a map are left undone, and the layers after them work on the map.

    Given: a Flatten or Reshape from [N, C, H, W] to [N, C*H*W], read by anything that does the same at every position:
    activations, Concat of maps of one size, Softmax, Scale, ... and in the end perhaps InnerProducts; or a Reshape to
    the very shape that its bottom has.
    Result: a Split of one copy in its place, which keeps the names and shares memory as it did. Axes that later layers
    count from the end are counted from the start, since blobs gain two axes.

    Raises:
        CastError: A layer after it treats positions differently from each other.
    """

    def change(layer: Layer, message: LayerParameter, extent: Extent | None) -> Extent | None:
        shape = network.shapes[layer.bottoms[0]] if layer.bottoms else ()
        if extent is None and joins_all(layer, shape):
            to_split(message)
            return (shape[2], shape[3])
        if (
            extent is None
            and isinstance(layer, Reshape)
            and len(shape) == 4
            and layer.output_shapes([shape])[0] == shape
        ):
            to_split(message)  # its numbers are those of the training size
        return None

    return rebuild(network, rewrite(network, change))
