"""The pixels of a map's cells: stride, offset, nominal window, receptive field. Pure arithmetic.

Along one axis, cell i of a map is centred on pixel offset + stride * i: the middle of its *nominal window*, which is
the crop that the classifier was trained on (CaffeNet: 227). Its *receptive field* is every pixel that can change it
(CaffeNet: 355, the window and the padding on both sides). The recurrences are those of Dumoulin and Visin, "A guide to
convolution arithmetic for deep learning" (2016), in fractions, so that upsampling is exact too.

For most blobs the nominal window is arithmetic: the receptive field without padding. A blob that has one cell at the
definition's own size is the exception. That cell belongs to the whole crop, and cell i to the crop that starts i
strides later, but the arithmetic window can differ from the crop: it is shorter if rounding down drops pixels at the
end (ResNet-50: 197 of 224), and longer if Caffe rounds up and clips the last windows (GoogLeNet: 253 of 224). For such
blobs the window is the definition's size. The receptive field is still arithmetic, as perturbed pixels confirm, and its
centre is off the window's by `shift` (ResNet-50: -13.5 pixels, GoogLeNet: +14.5, CaffeNet: 0).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction

from conversion.errors import NetworkError
from conversion.layers.base import Step
from conversion.layers.io import Input
from conversion.net.network import Network

Number = Fraction | int | float  # exact from the arithmetic; floats when read from a table
Pair = tuple[Number, Number]
_HALF = Fraction(1, 2)  # exact times an exact number, a float times a float


@dataclasses.dataclass(frozen=True)
class Span:
    """The pixels of the input that cell 0 of a blob reads along one axis, ends included; and the cells' stride.

    Attributes:
        stride: Pixels between neighbouring cells.
        first, last: The receptive field; `first` is negative where it reaches into padding.
        nominal_first, nominal_last: The nominal window.
        lean: From the middle of the receptive field to that of the nominal window: half of what all padding before has
            more than that after.
    """

    stride: Fraction = Fraction(1)
    first: Fraction = Fraction(0)
    last: Fraction = Fraction(0)
    nominal_first: Fraction = Fraction(0)
    nominal_last: Fraction = Fraction(0)
    lean: Fraction = Fraction(0)

    def after(self, step: Step) -> Span:
        """Returns the span of a blob whose cell 0 reads this blob's cells [-pad, -pad + window)."""
        return Span(
            self.stride * step.stride,
            self.first - step.pad * self.stride,
            self.last + (step.window - 1 - step.pad) * self.stride,
            self.nominal_first,
            self.nominal_last + (step.window - 1 - step.pad - step.after) * self.stride,
            self.lean + (step.pad - step.after) / 2 * self.stride,
        )


def join(spans: Iterable[Span]) -> Span | None:
    """Returns the span of a blob computed from several; None if strides differ, so that cells do not correspond."""
    spans = list(spans)
    if len({span.stride for span in spans}) != 1:
        return None
    return Span(
        spans[0].stride,
        min(s.first for s in spans),
        max(s.last for s in spans),
        min(s.nominal_first for s in spans),
        max(s.nominal_last for s in spans),
        max(spans, key=lambda span: span.nominal_last).lean,
    )


@dataclasses.dataclass(frozen=True)
class AxisGeometry:
    """The geometry of a map along one axis, in pixels.

    Attributes:
        stride: Between the centres of neighbouring cells.
        offset: The pixel that cell 0 is centred on (a half where the window is even).
        window: Length of the nominal window.
        receptive_field: Length of the receptive field.
        shift: From the centre of the nominal window to that of the receptive field.
    """

    stride: Number
    offset: Number
    window: Number
    receptive_field: Number
    shift: Number = 0

    def center(self, cell: int) -> Number:
        """Returns the pixel that a cell is centred on."""
        return self.offset + self.stride * cell

    def span(self, cell: int) -> Pair:
        """Returns the nominal window of a cell, [first, end); it may extend past the image."""
        first = self.center(cell) - _HALF * (self.window - 1)
        return first, first + self.window

    def field(self, cell: int) -> Pair:
        """Returns the receptive field of a cell, [first, end); it may extend past the image, into padding."""
        first = self.center(cell) + self.shift - _HALF * (self.receptive_field - 1)
        return first, first + self.receptive_field

    def cell_at(self, pixel: float) -> int:
        """Returns the cell whose centre is nearest, not limited to any map; ties go to the higher one."""
        return math.floor((pixel - self.offset) / self.stride + _HALF)

    def interior(self, size: int, cells: int) -> range:
        """Returns the cells whose receptive field lies inside an image of `size` pixels: those that read no padding."""
        inside = [i for i in range(cells) if self.field(i)[0] >= 0 and self.field(i)[1] <= size]
        return range(inside[0], inside[-1] + 1) if inside else range(0)

    def overhang(self, size: int, cells: int) -> Number:
        """Returns how many pixels of the last cell's nominal window are past the end of the image."""
        return max(0, self.span(cells - 1)[1] - size)


@dataclasses.dataclass(frozen=True)
class ReceptiveField:
    """The geometry of a map, by axis.

    Iterating gives stride, offset, nominal window and receptive field, each as (vertical, horizontal), in pixels.
    """

    y: AxisGeometry
    x: AxisGeometry

    def __iter__(self) -> Iterator[Pair]:
        return iter((self.stride, self.offset, self.nominal_window, self.receptive_field))

    @property
    def stride(self) -> Pair:
        """Pixels between the centres of neighbouring cells."""
        return self.y.stride, self.x.stride

    @property
    def offset(self) -> Pair:
        """The pixel that cell 0 is centred on."""
        return self.y.offset, self.x.offset

    @property
    def nominal_window(self) -> Pair:
        """Size of the crop of a cell."""
        return self.y.window, self.x.window

    @property
    def receptive_field(self) -> Pair:
        """Size of the receptive field of a cell."""
        return self.y.receptive_field, self.x.receptive_field


def spans(network: Network) -> dict[str, tuple[Span, Span] | None]:
    """Returns the (vertical, horizontal) spans of every blob; None for blobs without positions."""
    result: dict[str, tuple[Span, Span] | None] = {}
    steps, _ = network.trace(network.inputs)
    for layer, (bottoms, _tops) in zip(network.layers, steps, strict=True):
        pair: tuple[Span, Span] | None
        if isinstance(layer, Input):
            pair = (Span(), Span())
        else:
            sources = [source for bottom in layer.reads if (source := result[bottom]) is not None]
            step = layer.step(bottoms)
            y, x = (join(s[axis] for s in sources) for axis in (0, 1)) if sources else (None, None)
            complete = y and x and step and len(sources) == len(layer.reads)
            pair = (y.after(step[0]), x.after(step[1])) if complete and y and x and step else None
        result.update(dict.fromkeys(layer.tops, pair))
    return result


def receptive_field(network: Network, blob: str | None = None) -> ReceptiveField:
    """Returns stride, offset, nominal window and receptive field of a blob's cells.

    Args:
        network: A fully convolutional network (see `cast`); weights are not needed.
        blob: The blob; the network's last output by default.

    Raises:
        NetworkError: There is no such blob, or its cells do not correspond to pixels.
    """
    blob = network.outputs[-1] if blob is None else blob
    if blob not in network.shapes:
        raise NetworkError(f"no blob {blob!r}", where=f"network {network.name!r}")
    known = spans(network)
    pair = known[blob]
    if pair is None:
        raise NetworkError(
            f"the cells of blob {blob!r} do not correspond to pixels",
            where=f"network {network.name!r}",
            why=_without_positions(network, blob, known),
            remedy="name a blob before that layer: --output-blob, or blob in Python. The command line has cast the "
            "network; in Python, cast it first: cast(network)",
        )
    return ReceptiveField(_axis(network, blob, 0, pair[0]), _axis(network, blob, 1, pair[1]))


def _without_positions(network: Network, blob: str, known: Mapping[str, tuple[Span, Span] | None]) -> str:
    """Returns which layer, on the way to a blob, loses the positions."""
    needed, losing = {blob}, None
    for layer in reversed(network.layers):
        if needed.isdisjoint(layer.tops) or known[layer.tops[0]] is not None:
            continue
        losing = layer
        needed.update(layer.bottoms)
    if losing is None:
        return ""
    strides = {pair[axis].stride for bottom in losing.bottoms if (pair := known[bottom]) for axis in (0, 1)}
    if len(losing.bottoms) > 1 and len(strides) > 1:
        return f"{losing.where} joins maps of strides {', '.join(map(str, sorted(strides)))}"
    return f"{losing.where} reads its whole bottom, or a blob without positions"


def _axis(network: Network, blob: str, axis: int, span: Span) -> AxisGeometry:
    """Returns the geometry of a blob along one axis; see the module on its nominal window."""
    middle = (span.first + span.last) / 2
    field = span.last - span.first + 1
    crop = training_windows(network).get(blob, (None, None))[axis]
    if crop is None:
        nominal = span.nominal_last - span.nominal_first + 1
        return AxisGeometry(span.stride, middle + span.lean, nominal, field, -span.lean)
    offset = Fraction(crop - 1, 2)
    return AxisGeometry(span.stride, offset, crop, field, middle - offset)


def training_windows(network: Network) -> dict[str, tuple[int | None, int | None]]:
    """Returns the nominal windows, (height, width), that are the definition's own size; None along other axes.

    A blob has one if it has one cell at that size, or if it had one before `dilate`.
    """
    inputs = [shape for shape in network.inputs.values() if len(shape) == 4]
    if len({shape[2:] for shape in inputs}) != 1:
        return {}
    height, width = inputs[0][2:]
    own = {
        blob: (height if shape[2] == 1 else None, width if shape[3] == 1 else None)
        for blob, shape in network.shapes.items()
        if len(shape) == 4 and blob not in network.inputs
    }
    return {**own, **network.windows}
