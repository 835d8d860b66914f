"""Which pixels a cell of a map stands for: stride, offset, nominal window, receptive field. Pure arithmetic.

Along one axis, cell i of a map is centred on pixel offset + stride * i. Its *receptive field* is every pixel that can
change it. Its *nominal window* is the receptive field without what padding adds at either side: the crop that the
classifier was trained on (CaffeNet: window 227, receptive field 355). The recurrences are those of Dumoulin and Visin,
"A guide to convolution arithmetic for deep learning" (2016), kept in fractions so that upsampling is exact too.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

from conversion.errors import NetworkError
from conversion.layers.base import Step
from conversion.layers.shaping import Input
from conversion.network import Network

Number = Fraction | int
Pair = tuple[Number, Number]


@dataclasses.dataclass(frozen=True)
class Span:
    """What cell 0 of a blob reads along one axis, in pixels of the input, ends included; and the cells' stride.

    Attributes:
        stride: Pixels between neighbouring cells.
        first, last: The receptive field; `first` is negative where it reaches into padding.
        nominal_first, nominal_last: The nominal window.
    """

    stride: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)
    nominal_first: Fraction = Fraction(0)
    nominal_last: Fraction = Fraction(0)

    def after(self, step: Step) -> Span:
        """The span of a blob whose cell 0 reads this blob's cells [-pad, -pad + window)."""
        return Span(
            self.stride * step.stride,
            self.first - step.pad * self.stride,
            self.last + (step.window - 1 - step.pad) * self.stride,
            self.nominal_first,
            self.nominal_last + (step.window - 1 - 2 * step.pad) * self.stride,
        )


def join(spans: Iterable[Span]) -> Span | None:
    """The span of a blob computed from several; None if their strides differ, so that cells do not correspond."""
    spans = list(spans)
    if len({span.stride for span in spans}) != 1:
        return None
    return Span(
        spans[0].stride,
        min(s.first for s in spans),
        max(s.last for s in spans),
        min(s.nominal_first for s in spans),
        max(s.nominal_last for s in spans),
    )


@dataclasses.dataclass(frozen=True)
class AxisGeometry:
    """The geometry of a map along one axis, in pixels.

    Attributes:
        stride: Between the centres of neighbouring cells.
        offset: The pixel that cell 0 is centred on (a half where the window is even).
        window: Length of the nominal window.
        receptive_field: Length of the receptive field, centred alike.
    """

    stride: Number
    offset: Number
    window: Number
    receptive_field: Number

    def center(self, cell: int) -> Number:
        """The pixel that a cell is centred on."""
        return self.offset + self.stride * cell

    def span(self, cell: int) -> Pair:
        """The nominal window of a cell, [first, end); it may overhang the image."""
        first = self.center(cell) - Fraction(self.window - 1, 2)
        return first, first + self.window

    def field(self, cell: int) -> Pair:
        """The receptive field of a cell, [first, end); it may overhang the image, where padding is read."""
        first = self.center(cell) - Fraction(self.receptive_field - 1, 2)
        return first, first + self.receptive_field

    def cell_at(self, pixel: float) -> int:
        """The cell whose centre is nearest, not limited to any map; ties go to the higher one."""
        return math.floor((pixel - self.offset) / self.stride + Fraction(1, 2))

    def interior(self, size: int, cells: int) -> range:
        """The cells of a map whose receptive field lies inside an image of `size` pixels: no padding touches them."""
        inside = [i for i in range(cells) if self.field(i)[0] >= 0 and self.field(i)[1] <= size]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def overhang(self, size: int, cells: int) -> Number:
        """By how many pixels the last cell's nominal window reaches past the image; 0 if it does not."""
        return max(Fraction(0), self.span(cells - 1)[1] - size)


class ReceptiveField(NamedTuple):
    """The geometry of a map, each value as (vertical, horizontal), in pixels; see `AxisGeometry`."""

    stride: Pair
    offset: Pair
    nominal_window: Pair
    receptive_field: Pair

    @property
    def y(self) -> AxisGeometry:
        """The vertical axis."""
        return AxisGeometry(*(value[0] for value in self))

    @property
    def x(self) -> AxisGeometry:
        """The horizontal axis."""
        return AxisGeometry(*(value[1] for value in self))


def spans(network: Network) -> dict[str, tuple[Span, Span] | None]:
    """The (vertical, horizontal) spans of every blob; None where a blob has no positions any more."""
    result: dict[str, tuple[Span, Span] | None] = {}
    steps, _ = network.trace(network.inputs)
    for layer, (bottoms, _tops) in zip(network.layers, steps, strict=True):
        pair: tuple[Span, Span] | None
        if isinstance(layer, Input):
            pair = (Span(), Span())
        else:
            sources = [source for bottom in layer.bottoms if (source := result[bottom]) is not None]
            step = layer.step(bottoms)
            y, x = (join(s[axis] for s in sources) for axis in (0, 1)) if sources else (None, None)
            complete = y and x and step and len(sources) == len(layer.bottoms)
            pair = (y.after(step[0]), x.after(step[1])) if complete and y and x and step else None
        result.update(dict.fromkeys(layer.tops, pair))
    return result


def receptive_field(network: Network, blob: str | None = None) -> ReceptiveField:
    """Stride, offset, nominal window and receptive field of a blob's cells.

    Args:
        network: A fully convolutional network (see `cast`); weights are not needed.
        blob: The blob; the network's last output by default.

    Raises:
        NetworkError: There is no such blob, or its cells do not correspond to pixels.
    """
    blob = network.outputs[-1] if blob is None else blob
    if blob not in network.shapes:
        raise NetworkError(f"no blob {blob!r}", where=f"network {network.name!r}")
    pair = spans(network)[blob]
    if pair is None:
        raise NetworkError(
            f"the cells of blob {blob!r} do not correspond to pixels",
            where=f"network {network.name!r}",
            why="a layer before it sees its whole input, or joins blobs of different strides",
            remedy="cast the network first: cast(network)",
        )
    return ReceptiveField(
        (pair[0].stride, pair[1].stride),
        (_middle(pair[0]), _middle(pair[1])),
        (pair[0].nominal_last - pair[0].nominal_first + 1, pair[1].nominal_last - pair[1].nominal_first + 1),
        (pair[0].last - pair[0].first + 1, pair[1].last - pair[1].first + 1),
    )


def _middle(span: Span) -> Fraction:
    return (span.first + span.last) / 2
