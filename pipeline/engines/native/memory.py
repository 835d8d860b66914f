"""The places of blobs in an arena: two share floats if no step needs both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

ALIGNMENT = 16
"""Floats: a line of the cache."""


class Life(NamedTuple):
    """A block of floats with the steps that need it.

    Attributes:
        first: The step that writes it.
        last: The last step that reads it.
        size: Floats.
    """

    first: int
    last: int
    size: int


def aligned(floats: int) -> int:
    """Returns a number of floats rounded up to whole lines.

    >>> aligned(1), aligned(16)
    (16, 16)
    """
    return -(-floats // ALIGNMENT) * ALIGNMENT


def arrange(lives: Sequence[Life]) -> tuple[list[int], int]:
    """Returns the offset of each block, and the floats that all take: each in the smallest gap that holds it.

    Args:
        lives: The blocks; sizes are whole lines.
    """
    offsets = [0] * len(lives)
    whole = 0
    live: list[tuple[int, int, int]] = []  # (offset, end, last step), by offset
    for index in sorted(range(len(lives)), key=lambda i: (lives[i].first, -lives[i].size, i)):
        life = lives[index]
        live = [block for block in live if block[2] >= life.first]
        offset = _gap(live, life.size)
        offsets[index] = offset
        whole = max(whole, offset + life.size)
        live.append((offset, offset + life.size, life.last))
        live.sort()
    return offsets, whole


def _gap(live: Sequence[tuple[int, int, int]], size: int) -> int:
    """Returns the offset of the smallest gap between blocks that holds so many floats; the end if there is none."""
    best, least, end = None, 0, 0
    for offset, until, _ in live:
        gap = offset - end
        if gap >= size and (best is None or gap < least):
            best, least = end, gap
        end = max(end, until)
    return end if best is None else best
