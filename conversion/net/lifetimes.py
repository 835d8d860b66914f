"""When each blob of a net has its last value, and when nobody reads it any more: how an evaluation frees its blobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from conversion.layers.base import Layer


class Lifetimes(NamedTuple):
    """What each layer ends, by its place in the order of execution.

    Attributes:
        final: The blobs that no later layer changes.
        unused: The blobs that no later layer reads or changes.
        memory: For every blob the first blob of those that it shares its memory with; itself if there is none.
    """

    final: list[list[str]]
    unused: list[list[str]]
    memory: dict[str, str]


def lifetimes(layers: Sequence[Layer]) -> Lifetimes:
    """Returns when the blobs of a net end, by its wiring alone.

    Blobs that share memory (see `network.run`) change together: a layer that writes one of them in place changes all.
    """
    memory: dict[str, str] = {}
    written: dict[str, int] = {}  # by the blob that owns the memory, the last layer in place
    made: dict[str, int] = {}
    read: dict[str, int] = {}
    for index, layer in enumerate(layers):
        bottoms = dict.fromkeys(layer.bottoms, index)
        read.update(bottoms)
        for top in layer.tops:
            if top in bottoms:
                written[memory[top]] = index
            else:
                memory[top] = memory[next(iter(bottoms))] if layer.shares_memory else top
                made[top] = index
    lives = Lifetimes([[] for _ in layers], [[] for _ in layers], memory)
    for blob, index in made.items():
        last = max(index, written.get(memory[blob], 0))
        lives.final[last].append(blob)
        lives.unused[max(last, read.get(blob, 0))].append(blob)
    return lives
