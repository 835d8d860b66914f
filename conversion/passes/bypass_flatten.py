"""Pass of the cast: InnerProducts read the map itself."""

from __future__ import annotations

from conversion.layers.base import Layer
from conversion.layers.convolution import InnerProduct
from conversion.layers.flatten import Flatten
from conversion.net.network import Network, to_definition
from conversion.passes.permuted import permuted_blobs
from conversion.passes.rebuild import rebuild


def bypass_flatten(network: Network) -> Network:
    """Lets InnerProducts read what a Flatten before them reads: an InnerProduct flattens its bottom itself.

    Given: a Flatten of all axes but the first, read by InnerProducts only; its bottom's positions are where a map has
    them (see `permuted_blobs`).
    Result: no such Flatten; its readers read its bottom. Nothing else changes.
    """
    definition = to_definition(network)
    readers: dict[str, list[Layer]] = {}
    for layer in network.layers:
        for bottom in layer.bottoms:
            readers.setdefault(bottom, []).append(layer)
    permuted = permuted_blobs(network)
    replaced: dict[str, str] = {}
    for layer in network.layers:
        if not isinstance(layer, Flatten) or layer.tops == layer.bottoms:
            continue
        rank = len(network.shapes[layer.bottoms[0]])
        whole = layer.axis % rank == 1 and layer.end_axis % rank == rank - 1
        reading = readers.get(layer.tops[0], [])
        if (
            layer.bottoms[0] not in permuted
            and whole
            and reading
            and all(isinstance(reader, InnerProduct) for reader in reading)
        ):
            replaced[layer.tops[0]] = layer.bottoms[0]
    kept = [m for m in definition.layer if not (m.type == Flatten.caffe_type and m.top[0] in replaced)]
    if not replaced:
        return network
    del definition.layer[:]
    for message in kept:
        message.bottom[:] = [replaced.get(bottom, bottom) for bottom in message.bottom]
        definition.layer.append(message)
    return rebuild(network, definition)
