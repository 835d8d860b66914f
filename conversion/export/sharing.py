"""Which layers of a network share their weights in every form."""

from __future__ import annotations

from conversion.layers.base import Layer
from conversion.net.network import Network


def sharing(network: Network) -> dict[str, str]:
    """Returns for each layer with learned blobs the first layer, perhaps itself, whose prepared weights it can use.

    Two layers share prepared weights if their blobs are the same arrays and their definitions are equal but for names.
    """
    owners: dict[str, str] = {}
    first: dict[tuple[type[Layer], bytes, tuple[int, ...]], str] = {}
    for layer in network.layers:
        if blobs := network.parameters.get(layer.name, ()):
            key = (type(layer), _without_names(layer), tuple(map(id, blobs)))
            owners[layer.name] = first.setdefault(key, layer.name)
    return owners


def _without_names(layer: Layer) -> bytes:
    bare = type(layer.definition)()
    bare.CopyFrom(layer.definition)
    for field in ("name", "bottom", "top"):
        bare.ClearField(field)
    return bare.SerializeToString(deterministic=True)
