"""The offset of a Crop that states none: where the maps of its two bottoms meet.

The branch of fully convolutional networks (longjon/caffe, crop_layer.cpp of 2015) has no `crop_param`. Its Crop walks
up from both bottoms, by the first bottom of every layer, to the blob where the ways meet. Every layer on the way maps
cell i of its top to the position stride * i + (window - 1) / 2 - pad of its bottom; composed, both maps give positions
in the common blob, and the offset makes them equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Step


class Made(NamedTuple):
    """The first layer that makes a blob (later ones change it in place), and the shapes of its bottoms."""

    layer: Layer
    bottoms: Sequence[Shape]


class _Line(NamedTuple):
    """Cell i is at position slope * i + start of the common blob."""

    slope: Fraction = Fraction(1)
    start: Fraction = Fraction(0)

    def through(self, step: Step) -> _Line:
        """Returns the line of a blob in whose cells this one was measured, with the step of the layer between."""
        centre = (step.window - 1) / 2 - step.pad
        return _Line(step.stride * self.slope, step.stride * self.start + centre)


def with_meeting_offset(layer: Layer, makers: Mapping[str, Made]) -> LayerParameter:
    """Returns the message of a Crop with its offset stated.

    Args:
        layer: A Crop with `crop_to_meet`.
        makers: The layer that made each blob so far.

    Raises:
        NetworkError: The bottoms have no blob in common, their cells have other strides, or the offset is not a whole
            number of cells, from 0.
    """
    first, second = layer.bottoms
    upwards = list(_upwards(first, makers))
    common = next((blob for blob in _upwards(second, makers) if blob in upwards), None)
    if common is None:
        raise _refused(layer, "its bottoms have no blob in common")
    lines = [_lines(layer, blob, common, makers) for blob in (first, second)]
    offsets = []
    for of_first, of_second in zip(*lines, strict=True):
        if of_first.slope != of_second.slope:
            raise _refused(layer, f"its bottoms have a cell every {of_first.slope} and every {of_second.slope}")
        offset = (of_second.start - of_first.start) / of_first.slope
        if offset < 0 or offset.denominator != 1:
            raise _refused(layer, f"its first bottom would be cut at cell {offset}")
        offsets.append(int(offset))
    message = LayerParameter()
    message.CopyFrom(layer.definition)
    message.ClearField("densecast_param")
    message.crop_param.axis = 2
    message.crop_param.offset[:] = offsets[:1] if offsets[0] == offsets[1] else offsets
    return message


def _upwards(blob: str, makers: Mapping[str, Made]) -> Sequence[str]:
    """Returns a blob and those above it, by the first bottom of each layer."""
    blobs = [blob]
    while blob in makers and makers[blob].layer.bottoms:
        blob = makers[blob].layer.bottoms[0]
        blobs.append(blob)
    return blobs


def _lines(layer: Layer, blob: str, common: str, makers: Mapping[str, Made]) -> tuple[_Line, _Line]:
    """Returns the lines of a blob's cells in the common blob, vertical and horizontal."""
    y, x = _Line(), _Line()
    while blob != common:
        maker, bottoms = makers[blob]
        step = maker.step(bottoms)
        if step is None:
            raise _refused(layer, f"the cells of {blob!r} do not correspond to positions ({maker.where})")
        y, x = y.through(step[0]), x.through(step[1])
        blob = maker.bottoms[0]
    return y, x


def _refused(layer: Layer, why: str) -> Exception:
    return layer.invalid(
        "it states no offset, and none makes its bottoms meet", why=why, remedy="state it: crop_param { offset: ... }"
    )
