"""Where a tile of an image may start so that its cells equal those of the whole image's map."""

from __future__ import annotations

import math

from conversion.errors import NetworkError
from conversion.layers.pooling import Pooling
from conversion.net.geometry import spans
from conversion.net.network import Network
from conversion.passes.prune import prune


def alignment_of(network: Network, blob: str | None = None) -> tuple[int, int]:
    """Returns the step of the first rows and columns of tiles, in pixels: (vertical, horizontal).

    It is the least common multiple of the strides of all blobs that the map is computed from: the map's own stride,
    unless the net upsamples, or was dilated, in which case a pooling still rounds by its old stride.

    Args:
        network: Fully convolutional; weights are not needed.
        blob: The map; the network's last output by default.

    Raises:
        NetworkError: There is no such blob, its cells do not correspond to pixels, or its values depend on the
            position in the image (the mask of a pooling).
    """
    blob = network.outputs[-1] if blob is None else blob
    used = prune(network, [blob])
    known = spans(used)
    if known[blob] is None:
        raise NetworkError(f"the cells of blob {blob!r} do not correspond to pixels", where=f"network {network.name!r}")
    result = [1, 1]
    for pair in known.values():
        for axis, span in enumerate(pair or ()):
            result[axis] = math.lcm(result[axis], span.stride.numerator)
    read = {bottom for layer in used.layers for bottom in layer.bottoms}
    for layer in used.layers:
        if not isinstance(layer, Pooling):
            continue
        if any(top in read or top == blob for top in layer.tops[1:]):
            raise NetworkError(
                "its mask depends on the size of the whole image",
                where=layer.where,
                why="it has indices of the whole map",
            )
        pair = known[layer.bottoms[0]]
        for axis, span in enumerate(pair or ()) if layer.coarse else ():
            coarse = span.stride * layer.dilation[axis] * (layer.coarse or (1, 1))[axis]
            result[axis] = math.lcm(result[axis], coarse.numerator)
    return result[0], result[1]
