"""Shape inference under limits: nothing is allocated before its size is known and allowed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from conversion.arrays import Shape
from conversion.layers.base import Layer
from conversion.limits import UNLIMITED, Limits
from conversion.net.lifetimes import lifetimes
from conversion.net.network import Network, run

_STORED_BYTES, _COMPUTED_BYTES = 4, 8  # weights are float32, `reference.evaluate_each` computes in float64
_BUFFERS_BYTES = 1 << 20  # NumPy's own, and Python's objects


class ShapeLimits:
    """Shape inference under limits: `tops` is `Layer.output_shapes`, and counts the memory in use at once.

    Counted are the weights, the inputs, and at each layer the blobs that it or a later one reads, its tops, its
    workspace and its weights in float64: what `reference.evaluate_each` holds.
    """

    def __init__(self, layers: Sequence[Layer], limits: Limits, where: str = "") -> None:
        self._limits = limits
        self._where = where
        lives = lifetimes(layers)
        self._unused, self._memory = iter(lives.unused), lives.memory
        self._used: set[str] = set()  # the blobs that are still in use
        self._users: Counter[str] = Counter()  # and how many of them share each memory
        self._sizes: dict[str, int] = {}  # of each memory in use, in values
        self._total = 0  # of these: summed anew at each layer, the cost would grow with the square of the net
        self._inputs: set[str] = set()
        self._weights = 0  # in values
        self._computed = 0

    @property
    def peak(self) -> int:
        """The most bytes that are in use at once, as far as layers were counted."""
        return self._computed * _COMPUTED_BYTES + self._weights * _STORED_BYTES + _BUFFERS_BYTES

    def tops(self, layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes of the tops; raises NetworkError or LimitError before anything is allocated."""
        tops = layer.output_shapes(bottoms)
        self.count(layer, bottoms, tops)
        return tops

    def count(self, layer: Layer, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> None:
        """Counts the next layer; raises NetworkError or LimitError."""
        for shape in tops:
            self._check(layer, shape, "blob")
        learned = layer.blob_shapes(bottoms)
        for shape in learned:
            self._check(layer, shape, "weights")
        own = sum(map(math.prod, learned))
        # A blob in place is a new array while its bottom is read.
        new = 0 if layer.shares_memory else sum(map(math.prod, tops))
        computed = self._total + new + layer.workspace(bottoms, tops) + own
        self._computed = max(self._computed, computed)
        self._weights += own
        self._limits.check(
            "memory",
            self.peak,
            f"{layer.where}: {self.peak:,} bytes in use at once",
            where=self._where,
        )
        for blob, values in zip(layer.tops, map(math.prod, tops), strict=True):
            self._use(blob, values)
        self._inputs.update(() if layer.bottoms else layer.tops)  # whoever gives their values keeps them
        for blob in next(self._unused):
            if blob not in self._inputs:
                self._free(blob)

    def _use(self, blob: str, values: int) -> None:
        memory = self._memory[blob]
        if blob not in self._used:
            self._used.add(blob)
            self._users[memory] += 1
        self._total += values - self._sizes.get(memory, 0)
        self._sizes[memory] = values

    def _free(self, blob: str) -> None:
        memory = self._memory[blob]
        self._used.remove(blob)
        self._users[memory] -= 1
        if not self._users[memory]:
            self._total -= self._sizes.pop(memory)

    def _check(self, layer: Layer, shape: Shape, kind: str) -> None:
        where = f"{self._where}: {layer.where}" if self._where else layer.where
        self._limits.check("axes", len(shape), f"a {kind} of {len(shape)} axes", where=where)
        if min(shape, default=1) < 1:
            raise layer.invalid(f"a {kind} of shape {shape}", why="every dimension must be at least 1")
        count = math.prod(shape)
        self._limits.check("elements", count, f"a {kind} of shape {shape}, {count:,} values", where=where)


def peak_bytes(network: Network, inputs: Mapping[str, Shape], limits: Limits = UNLIMITED, where: str = "") -> int:
    """Returns the bytes that `reference.evaluate_each` needs at its peak, weights included.

    Args:
        network: Its weights are not read, only their shapes.
        inputs: The shape of every input blob.
        limits: Upper limits.
        where: The file, for errors.

    Raises:
        NetworkError: A layer refuses its bottom's shape.
        LimitError: It exceeds a limit.
    """
    guard = ShapeLimits(network.layers, limits, where)

    def given(layer: Layer) -> list[Shape]:
        tops = [inputs[top] for top in layer.tops]
        guard.count(layer, [], tops)
        return tops

    run(network.layers, given, guard.tops)
    return guard.peak
