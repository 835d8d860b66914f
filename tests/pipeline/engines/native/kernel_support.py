"""Operations for the kernels without a network, and what float64 says of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
_POINTS = (Fraction(1), Fraction(2), Fraction(1, 2), Fraction(3))


def operation(name: str, **fields: Any) -> Any:
    """Returns an object with these fields whose class has this name: all that the extension looks at."""
    return type(name, (SimpleNamespace,), {})(**fields)


class Blob(NamedTuple):
    channels: int
    stride: int
    offsets: tuple[int, ...]
    heights: tuple[int, ...]
    widths: tuple[int, ...]

    def part(self, first: int, channels: int) -> Blob:
        """A view of some of the channels."""
        return self._replace(channels=channels, offsets=tuple(o + first for o in self.offsets))


class Arena:
    """Gives every blob a place of its own."""

    def __init__(self, gap: int = 0) -> None:
        self.size = 0
        self.gap = gap

    def blob(self, channels: int, sizes: Sequence[tuple[int, int]], *, wider: int = 0) -> Blob:
        """Returns a blob; its stride is the channels and `wider`."""
        offsets = []
        for height, width in sizes:
            self.size += self.gap
            offsets.append(self.size)
            self.size += height * width * (channels + wider)
        heights, widths = (tuple(size[axis] for size in sizes) for axis in (0, 1))
        return Blob(channels, channels + wider, tuple(offsets), heights, widths)


def prepare(top: Blob) -> Any:
    """The operation that copies float32 images into the arena."""
    return operation(
        "Prepare",
        top=top,
        order=tuple(range(top.channels)),
        mean=(0.0,) * top.channels,
        scale=1.0,
        luma=None,
        block=1,
        pad=(0, 0),
    )


def run(
    native: Any, pool: Any, images: Sequence[Array], *, operations: Sequence[Any], wanted: Blob, arena: Arena
) -> list[Array]:
    """Returns the pixels of the wanted blob after the operations, by image."""
    results = [
        np.full((height, width, wanted.channels), np.nan, np.float32)
        for height, width in zip(wanted.heights, wanted.widths, strict=True)
    ]
    program = native.Program(pool, list(operations), [operation("Whole", bottom=wanted)], arena.size)
    program.run([np.ascontiguousarray(image) for image in images], results)
    return results


def images(rng: np.random.Generator, sizes: Sequence[tuple[int, int]], channels: int) -> list[Array]:
    """Returns normally distributed images."""
    return [rng.standard_normal((*size, channels)).astype(np.float32) for size in sizes]


class Filtering(NamedTuple):
    """Matrices of minimal filtering; outputs @ ((filters @ g) * (inputs @ d))."""

    outputs: Array
    filters: Array
    inputs: Array


class ConvolutionCase(NamedTuple):
    """A convolution, and where its blobs lie."""

    sizes: tuple[tuple[int, int], ...]  # of the bottom
    groups: int
    inside: int
    outside: int
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    tile: tuple[int, int] | None = None
    bias: bool = True
    slope: float | None = None
    wider: int = 0  # floats between the channels of pixels
    axes: tuple[Filtering, Filtering] | None = None  # matrices of the tile, instead of the usual ones

    @property
    def top_sizes(self) -> list[tuple[int, int]]:
        """With as much padding at the ends as before."""
        axes = list(zip(self.kernel, self.stride, self.pad, self.dilation, strict=True))
        heights, widths = (
            [(size[axis] + 2 * p - d * (k - 1) - 1) // s + 1 for size in self.sizes]
            for axis, (k, s, p, d) in enumerate(axes)
        )
        return list(zip(heights, widths, strict=True))

    def weights(self, rng: np.random.Generator) -> Array:
        """float32 [groups, kh, kw, inside, outside]."""
        return rng.standard_normal((self.groups, *self.kernel, self.inside, self.outside)).astype(np.float32)


def convolve(
    native: Any, pool: Any, case: ConvolutionCase, *, weights: Array, bias: Array, pixels: Sequence[Array]
) -> list[Array]:
    """Returns the tops of a convolution by the extension."""
    arena = Arena(gap=3)
    bottom = arena.blob(case.groups * case.inside, case.sizes, wider=case.wider)
    top = arena.blob(case.groups * case.outside, case.top_sizes, wider=case.wider)
    tile: SimpleNamespace | None = None
    matrices: tuple[Array, ...] = ()
    if case.tile:
        axes = case.axes or [filtering(m, taps) for m, taps in zip(case.tile, case.kernel, strict=True)]
        matrices = tuple(axis.filters for axis in axes)
        tile = SimpleNamespace(vertical=axes[0], horizontal=axes[1])
    step = operation(
        "Convolution",
        bottom=bottom,
        top=top,
        filters=native.Filters(pool, weights, *matrices),
        kernel=case.kernel,
        stride=case.stride,
        pad=case.pad,
        dilation=case.dilation,
        bias=bias if case.bias else None,
        slope=case.slope,
        images=tuple(range(len(case.sizes))),
        tile=tile,
        groups=case.groups,
    )
    return run(native, pool, pixels, operations=[prepare(bottom), step], wanted=top, arena=arena)


def convolution_in_float64(case: ConvolutionCase, weights: Array, bias: Array, image: Array) -> Array:
    """Returns the top of one image, float64."""
    (sh, sw), (ph, pw), (dh, dw) = case.stride, case.pad, case.dilation
    padded = np.pad(image.astype(np.float64), ((ph, ph), (pw, pw), (0, 0)))
    height, width = (
        (n - d * (k - 1) - 1) // s + 1
        for n, k, s, d in zip(padded.shape, case.kernel, case.stride, case.dilation, strict=False)
    )
    top = np.zeros((height, width, case.groups, case.outside))
    for y in range(case.kernel[0]):
        for x in range(case.kernel[1]):
            taps = padded[y * dh :, x * dw :][: (height - 1) * sh + 1 : sh, : (width - 1) * sw + 1 : sw]
            taps = taps.reshape(height, width, case.groups, case.inside)
            top += np.einsum("hwgi,gio->hwgo", taps, weights[:, y, x].astype(np.float64), optimize=True)
    top = top.reshape(height, width, -1)
    if case.bias:
        top = top + bias
    if case.slope is not None:
        top = np.where(top < 0, case.slope * top, top)
    return top


def filtering(outputs: int, taps: int, *, infinity: bool = True) -> Filtering:
    """Returns the matrices of F(outputs, taps) with small points in pairs, and infinity."""
    count = outputs + taps - 1 - infinity
    if count == 0:
        return Filtering(*(np.ones((1, 1)),) * 3)
    points = [Fraction(0)] * (count % 2) + [s * p for p in _POINTS for s in (1, -1)]
    points = points[:count]
    others = [[q for q in points if q != p] for p in points]
    scales = [math.prod((p - q for q in rest), start=Fraction(1)) for p, rest in zip(points, others, strict=True)]
    a = [[p**row for p in points] + [Fraction(row == outputs - 1)] * infinity for row in range(outputs)]
    g = [[p**tap / scale for tap in range(taps)] for p, scale in zip(points, scales, strict=True)]
    b = [_polynomial(rest) + [Fraction(0)] * infinity for rest in others]
    if infinity:
        g.append([Fraction(tap == taps - 1) for tap in range(taps)])
        b.append(_polynomial(points))
    return Filtering(*(np.array([[float(x) for x in row] for row in rows]) for rows in (a, g, b)))


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    coefficients = [Fraction(1)]
    for root in roots:
        coefficients = [
            below - root * here
            for below, here in zip([Fraction(0), *coefficients], [*coefficients, Fraction(0)], strict=True)
        ]
    return coefficients


def relative_error(found: Array, expected: Array) -> float:
    """The largest difference, of the largest number that is expected."""
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))
