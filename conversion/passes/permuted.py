"""Blobs whose rows and columns are not axes 2 and 3, since a Permute moved them."""

from __future__ import annotations

from conversion.layers.rearrange import Permute
from conversion.net.network import Network

_OWN = (0, 1, 2, 3)


def permuted_blobs(network: Network) -> frozenset[str]:
    """Returns the blobs [N, H, W, C] and the like: those of Permutes, and of layers after them that keep the shape.

    A flattened one is not the end of a classifier: its values lie position by position, as the boxes of a detector do.
    """
    orders: dict[str, tuple[int, ...]] = {}  # which axis of a map [N, C, H, W] each axis is, where it is another
    for layer in network.layers:
        bottom = layer.bottoms[0] if layer.bottoms else ""
        order = orders.get(bottom, _OWN)
        shape = network.shapes.get(bottom, ())
        for top in layer.tops:
            orders.pop(top, None)
            if isinstance(layer, Permute) and len(shape) == len(_OWN):
                orders[top] = tuple(order[axis] for axis in layer.axes(len(_OWN)))
            elif network.shapes[top] == shape:
                orders[top] = order
    return frozenset(blob for blob, order in orders.items() if order[2:] != _OWN[2:])
