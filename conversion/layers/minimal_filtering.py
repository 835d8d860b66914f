"""Minimal filtering: two outputs of a filter of k taps from k + 1 products instead of 2 k.

The algorithm F(2, k) of S. Winograd, Arithmetic Complexity of Computations (1980), by interpolation at k points and at
infinity (Toom-Cook). Here it takes one direction of a filter that has two; the taps along the other stay columns of one
product. So two outputs of k x k taps take k (k + 1) products instead of 2 k^2, for k = 6 a saving of 42 %, and there
are k + 1 large matrices, 7 / 6 of the filters.

Nested in both directions (A. Lavin, S. Gray, Fast Algorithms for Convolutional Neural Networks, 2016) it takes (k +
1)^2 products for four outputs and saves 66 %, from (k + 1)^2 matrices of fewer rows. On large maps that gains a few
percent of a whole net, since there are more sums; small maps are slower, and the weights take more memory.

The products at finite points alone give the first of the two outputs. So a single output costs k products: no more than
without the algorithm.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from conversion.arrays import Array

OUTPUTS = 2
LARGEST_KERNEL = 7
_PAIRS = (Fraction(1), Fraction(2), Fraction(1, 2))


class Filtering(NamedTuple):
    """The matrices of F(m, k); the last row or column belongs to infinity, if it is a point, the others to finite ones.

    The outputs are outputs @ ((filters @ g) * (inputs @ d)) for k taps g and m + k - 1 inputs d.

    Attributes:
        outputs: float64 [m, m + k - 1]; the first row is ones, and only the last row has a number at infinity.
        filters: float64 [m + k - 1, k].
        inputs: float64 [m + k - 1, m + k - 1]; with infinity only the last row reads the last input.
    """

    outputs: Array
    filters: Array
    inputs: Array


def filtering(taps: int) -> Filtering:
    """Returns the matrices of F(2, `taps`).

    The points are small powers of two with their negatives: products with them are exact in binary, and on filters of 6
    x 6 over 256 channels float32 keeps 2e-6 of the largest output.

    Args:
        taps: k, 2 to `LARGEST_KERNEL`.

    Raises:
        ValueError: `taps` is out of range.
    """
    if not 2 <= taps <= LARGEST_KERNEL:
        raise ValueError(f"{taps} taps; minimal filtering is for 2 to {LARGEST_KERNEL}")
    return point_filtering(
        OUTPUTS, taps, [Fraction(0)] * (taps % 2) + [s * p for p in _PAIRS[: taps // 2] for s in (1, -1)]
    )


def point_filtering(count: int, taps: int, points: Sequence[Fraction]) -> Filtering:
    """Returns the matrices of F(m, k), in exact fractions before they are rounded to float64.

    Args:
        count: m, the outputs.
        taps: k.
        points: m + k - 1 finite points; or one less, where infinity is the last.

    Raises:
        ValueError: There are more or fewer points, or two are equal.
    """
    products = count + taps - 1
    if len(points) not in (products, products - 1) or len(set(points)) < len(points):
        raise ValueError(f"F({count}, {taps}) is not made of the points {', '.join(map(str, points))}")
    infinite = len(points) < products
    others = [[q for q in points if q != p] for p in points]
    scales = [math.prod((p - q for q in rest), start=Fraction(1)) for p, rest in zip(points, others, strict=True)]
    outputs = [[p**row for p in points] + [Fraction(row == count - 1)] * infinite for row in range(count)]
    filters = [[p**tap / scale for tap in range(taps)] for p, scale in zip(points, scales, strict=True)]
    inputs = [_polynomial(rest) + [Fraction(0)] * infinite for rest in others]
    if infinite:
        filters.append([Fraction(0)] * (taps - 1) + [Fraction(1)])
        inputs.append(_polynomial(points))
    a, g, b = (np.array([[float(x) for x in row] for row in rows]) for rows in (outputs, filters, inputs))
    # Powers of two make both factors of a product equally large, and change no digit.
    balance = 2.0 ** np.round(np.log2(np.linalg.norm(b, axis=1) / np.linalg.norm(g, axis=1)) / 2)
    return Filtering(a, g * balance[:, np.newaxis], b / balance[:, np.newaxis])


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Returns the coefficients of the product of (x - root), lowest first."""
    coefficients = [Fraction(1)]
    for root in roots:
        shifted, scaled = [Fraction(0), *coefficients], [root * c for c in coefficients] + [Fraction(0)]
        coefficients = [s - t for s, t in zip(shifted, scaled, strict=True)]
    return coefficients


def transformed_filters(weights: Array) -> Iterator[Array]:
    """Yields the matrices of F(2, k) along the first axis: one for each point, that of infinity last.

    Each has the taps along the second axis and the channels as its rows.

    Args:
        weights: float32 [k, k, inside, outside].

    Yields:
        float32 [k * inside, outside], k + 1 times, with memory of its own.
    """
    outside = weights.shape[-1]
    for point in filtering(len(weights)).filters.astype(np.float32):
        yield np.tensordot(point, weights, 1).reshape(-1, outside)
