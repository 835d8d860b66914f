"""Shape inference under limits: nothing is allocated before its size is known and allowed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from conversion.arrays import Shape
from conversion.layers.base import Layer
from conversion.limits import Limits

_FLOAT_BYTES = 4


class ShapeLimits:
    """Shape inference under limits: `tops` is `Layer.output_shapes`, and adds up the memory of the net."""

    def __init__(self, limits: Limits, where: str) -> None:
        self._limits = limits
        self._where = where
        self._bytes = 0

    def tops(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes of the tops; raises NetworkError or LimitError before anything is allocated."""
        tops = layer.output_shapes(bottoms)
        for shape in tops:
            self._check(layer, shape, "blob")
        learned = layer.blob_shapes(bottoms)
        for shape in learned:
            self._check(layer, shape, "weights")
        values = sum(map(math.prod, tops)) + sum(map(math.prod, learned)) + layer.workspace(bottoms, tops)
        self._bytes += values * _FLOAT_BYTES
        self._limits.check(
            "memory",
            self._bytes,
            f"{layer.where}: {self._bytes:,} bytes for the blobs and weights up to here",
            where=self._where,
        )
        return tops

    def _check(self, layer: Layer, shape: Shape, kind: str) -> None:
        where = f"{self._where}: {layer.where}" if self._where else layer.where
        self._limits.check("axes", len(shape), f"a {kind} of {len(shape)} axes", where=where)
        if min(shape, default=1) < 1:
            raise layer.invalid(f"a {kind} of shape {shape}", why="every dimension must be at least 1")
        count = math.prod(shape)
        self._limits.check("elements", count, f"a {kind} of shape {shape}, {count:,} values", where=where)
