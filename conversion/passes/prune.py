"""Removes the layers that the wanted blobs do not need."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

from conversion.errors import NetworkError
from conversion.names import nearest
from conversion.net.network import Network


def prune(network: Network, blobs: Collection[str]) -> Network:
    """Returns the part of a network that computes the wanted blobs; for example one of GoogLeNet's three heads.

    Given: any network, and names of its blobs.
    Result: the layers that at least one of them depends on, in order, and their parameters. A layer that changes a blob
    in place stays if a layer that shares the blob's memory (Split, Flatten, Reshape) stays. A note lists the removed
    layers.

    Raises:
        NetworkError: There is no such blob; the message suggests similar names.
    """
    for blob in blobs:
        if blob not in network.shapes:
            near = nearest(blob, network.shapes, 3)
            raise NetworkError(
                f"no blob {blob!r}",
                where=f"network {network.name!r}",
                remedy=f"nearest: {', '.join(near)}" if near else f"it has {', '.join(network.shapes)}",
            )
    memory: dict[str, str] = {}  # for each blob, the blob whose memory it uses
    for layer in network.layers:
        for top in layer.tops:
            memory.setdefault(top, memory[layer.bottoms[0]] if layer.shares_memory else top)
    needed = {memory[blob] for blob in blobs}
    kept = []
    for layer in reversed(network.layers):
        if any(memory[top] in needed for top in layer.tops):
            needed.update(memory[bottom] for bottom in layer.bottoms)
            kept.append(layer)
    kept.reverse()
    names = {layer.name for layer in kept}
    left_out = [layer.name for layer in network.layers if layer.name not in names]
    if not left_out:
        return network
    listed = ", ".join(left_out[:12]) + (f" and {len(left_out) - 12} more" if len(left_out) > 12 else "")
    tops = {top for layer in kept for top in layer.tops}
    return dataclasses.replace(
        network,
        layers=tuple(kept),
        parameters={name: value for name, value in network.parameters.items() if name in names},
        shapes={blob: shape for blob, shape in network.shapes.items() if blob in tops},
        windows={blob: window for blob, window in network.windows.items() if blob in tops},
        notes=(*network.notes, f"left out, not needed for {' and '.join(blobs)}: {listed}"),
    )
