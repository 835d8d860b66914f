"""The form of each convolution, by the model and the size of its top alone: never by timing, and never by the batch.

So an output is summed in one order on every machine. A cost model counts what a form multiplies, what it transforms,
and the weights that it reads.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

from conversion import Filtering, point_filtering
from pipeline.engines.native.program import Tile, Transform

DIRECT = 0
"""The form of a convolution without tiles; any other form is m, the outputs along a side of a tile."""
_READ = 15.0
"""Multiply-adds in the time that a weight takes to be read: those of two cores at their peak, and of memory."""
_TOGETHER = 4.0
"""Images of a batch that share the reading of the weights, as the cost model sees it."""
_TRANSFORMED = 4.0
"""Multiply-adds of a product of matrices in the time of one of a transform."""
_LEAST_GAIN = 0.9  # a form with transforms has to be so much cheaper than the direct one
_TILES = (2, 4, 5, 6)
_MANY_WEIGHTS = 1 << 21
_LARGEST_KERNEL = 7


def _signed(*points: Fraction | int) -> list[Fraction]:
    return [Fraction(sign * point) for point in points for sign in (1, -1)]


_HALF = Fraction(1, 2)
_ZERO = [Fraction(0)]
_POINTS: dict[int, list[Fraction]] = {
    2: _signed(1),
    3: _ZERO + _signed(1),
    4: _signed(1, _HALF),
    5: _ZERO + _signed(Fraction(2, 3), Fraction(4, 3)),
    6: _signed(Fraction(3, 8), Fraction(7, 8), Fraction(3, 2)),
    7: _ZERO + _signed(_HALF, 1, 2),
}
"""The finite points by their number; infinity is one more. Near 1 and apart from each other they keep most digits."""
_FINITE: dict[tuple[int, int], list[Fraction]] = {
    (4, 6): _ZERO + _signed(_HALF, Fraction(7, 8), Fraction(3, 2), 4),
}
"""Where infinity costs digits, all points are finite: with sums of 64 terms 1e-5 of the largest output for F(4, 6)."""


class Geometry(NamedTuple):
    """What the forms of a convolution depend on.

    Attributes:
        kernel: Taps.
        plain: Whether stride and dilation are 1.
        inside: Input channels of a group.
        outside: Output channels of a group.
        groups: Groups.
    """

    kernel: tuple[int, int]
    plain: bool
    inside: int
    outside: int
    groups: int


def possible(geometry: Geometry) -> tuple[int, ...]:
    """Returns the forms that a convolution has, the direct one first."""
    tiles = [m for m in _TILES if all(taps == 1 or _has(m, taps) for taps in geometry.kernel)]
    filtered = geometry.plain and max(geometry.kernel) > 1
    return (DIRECT, *tiles) if filtered else (DIRECT,)


def candidates(geometry: Geometry, forms: Sequence[int]) -> Sequence[int]:
    """Returns those of the possible forms that images may take.

    Of a layer with many weights there are two at most, since each has weights of its own.
    """
    weights = geometry.inside * geometry.outside * geometry.groups * geometry.kernel[0] * geometry.kernel[1]
    return forms if weights < _MANY_WEIGHTS else (DIRECT, *forms[1:][-1:])


def best(geometry: Geometry, top: tuple[int, int], forms: Sequence[int]) -> int:
    """Returns the cheapest of the forms for a top of a size; of equal ones the first."""
    costs = {form: cost(geometry, top, form) / (1.0 if form == DIRECT else _LEAST_GAIN) for form in forms}
    return min(costs, key=lambda form: costs[form])


def cost(geometry: Geometry, top: tuple[int, int], form: int) -> float:
    """Returns the cost of a form for one image, in multiply-adds of a product of matrices."""
    weights = geometry.inside * geometry.outside * geometry.groups
    taps = geometry.kernel[0] * geometry.kernel[1]
    read = _READ / _TOGETHER
    if form == DIRECT:
        return weights * taps * (top[0] * top[1] + read)
    sides = [1 if taps == 1 else form for taps in geometry.kernel]
    products = [m + taps - 1 for m, taps in zip(sides, geometry.kernel, strict=True)]
    tiles = _count(top[0], sides[0]) * _count(top[1], sides[1])
    multiplied = tiles * products[0] * products[1] * weights
    inputs = products[0] * products[1] * sum(products) * geometry.inside
    outputs = sides[0] * products[1] * (products[0] + sides[1]) * geometry.outside
    transformed = tiles * _TRANSFORMED * (inputs + outputs) * geometry.groups / 2
    return multiplied + transformed + products[0] * products[1] * weights * read


@functools.cache
def tile(kernel: tuple[int, int], form: int) -> tuple[Tile, tuple[Filtering, Filtering]]:
    """Returns the tile of a form, and the matrices of both axes."""
    vertical, horizontal = (_filtering(form, taps) for taps in kernel)
    transforms = (Transform(of.outputs, of.inputs) for of in (vertical, horizontal))
    return Tile(*transforms), (vertical, horizontal)


def _filtering(m: int, taps: int) -> Filtering:
    if taps == 1:
        return point_filtering(1, 1, [])
    return point_filtering(m, taps, _FINITE.get((m, taps)) or _POINTS[m + taps - 1 - 1])


def _has(m: int, taps: int) -> bool:
    return taps <= _LARGEST_KERNEL and ((m, taps) in _FINITE or m + taps - 2 in _POINTS)


def _count(size: int, side: int) -> float:
    return -(-size // side)
