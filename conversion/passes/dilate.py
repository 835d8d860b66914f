"""Finer maps from the same weights: strides are removed, and every later window is dilated (atrous) instead.

A pooling or convolution of stride s drops s - 1 of s cells. If it keeps them, the layers after it read a map that is s
times finer, in which the cells that they were trained on lie s apart: their windows are dilated by s. Every s-th cell
is then computed as before, and the cells between equal those of the image shifted by less than its stride:
shift-and-stitch (Sermanet et al. 2014, OverFeat; Long et al. 2015, section 3.2) without computing anything twice.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import NamedTuple

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.errors import CastError, NetworkError
from conversion.layers.base import Layer, Step
from conversion.layers.convolution import Convolution
from conversion.layers.crop import Crop
from conversion.layers.deconvolution import Deconvolution
from conversion.layers.io import Input
from conversion.layers.pooling import Pooling
from conversion.layers.windows import set_four_pads
from conversion.limits import UNLIMITED
from conversion.net.build import build
from conversion.net.geometry import receptive_field, spans, training_windows
from conversion.net.network import Network, to_definition

Pair = tuple[int, int]


class _Scale(NamedTuple):
    """A blob's stride along one axis, in pixels: the old one and the new one."""

    old: Fraction
    new: Fraction

    @property
    def factor(self) -> int:
        """Number of new cells per old cell."""
        return int(self.old / self.new)

    @classmethod
    def of(cls, old: Fraction, output_stride: int) -> _Scale:
        """Returns the scale to the greatest common divisor: new strides divide each other if the old ones do."""
        # A Deconvolution makes fractions: they are kept here, and refused by the layers that cannot have them.
        whole = old.denominator == 1
        return cls(old, Fraction(math.gcd(int(old), output_stride)) if whole else old)


def dilate(network: Network, output_stride: int, blob: str | None = None) -> Network:
    """Returns the network with a finer map: a cell every `output_stride` pixels, from the same weights.

    Given: a fully convolutional network (see `cast`) whose map has a stride that `output_stride` divides.
    Result: the last convolutions and poolings have smaller strides, so that the map's is the wanted one, and the layers
    after them are dilated, with their pads. A blob of stride s gets the stride gcd(s, output_stride). Names, weights
    and nominal windows stay. With k = old stride / new stride, cell k * i + j of the finer map is cell i of the old net
    on the image shifted by j * output_stride pixels; exactly so for interior cells, which read no padding. Near the
    right and bottom border, cells that the old map had only by rounding up can be missing.

    Args:
        network: With or without weights.
        output_stride: In pixels, along both axes.
        blob: The blob that gets the stride; the last output by default.

    Raises:
        CastError: The stride does not divide the map's, or a layer cannot be dilated; the message names it.
        NetworkError: There is no such blob, or its cells do not correspond to pixels.
    """
    blob = network.outputs[-1] if blob is None else blob
    old = [Fraction(stride) for stride in receptive_field(network, blob).stride]
    if output_stride < 1 or any(stride.denominator != 1 or stride % output_stride for stride in old):
        text = " and ".join(dict.fromkeys(str(stride) for stride in old))
        allowed = [n for n in range(1, math.gcd(*map(int, old)) + 1) if all(s % n == 0 for s in old)]
        raise CastError(
            f"output stride {output_stride}",
            where=f"network {network.name!r}",
            why=f"the map's stride is {text}, and a finer one must divide it",
            remedy=f"give one of {', '.join(map(str, reversed(allowed)))}",
        )
    if all(stride == output_stride for stride in old):
        return network
    definition = to_definition(network)
    steps, _ = network.trace(network.inputs)
    scales = _scales(network, output_stride)
    for layer, message, (bottoms, _tops) in zip(network.layers, definition.layer, steps, strict=True):
        if not isinstance(layer, Input) and layer.tops:
            _refine(layer, message, bottoms, read=[scales[b] for b in layer.bottoms], written=scales[layer.tops[0]])
    try:
        result = build(definition, network.parameters, limits=UNLIMITED)
    except NetworkError as error:
        raise _does_not_fit(error, tuple(network.inputs.values())) from error
    _check_sizes(network, result, int(max(old)))
    return dataclasses.replace(result, notes=network.notes, windows=training_windows(network))


def finer(network: Network, output_stride: int, blob: str | None = None) -> Network:
    """Returns `dilate(network, output_stride, blob)`: its name before 0.2, which goes after it."""
    warnings.warn("conversion.finer is now conversion.dilate", DeprecationWarning, stacklevel=2)
    return dilate(network, output_stride, blob)


def multiply_adds_by_stride(
    network: Network, size: Pair, strides: Sequence[int], blob: str | None = None
) -> dict[int, int]:
    """Returns the multiply-adds of one image of `size` (height, width) at each output stride; computes no image.

    Args:
        network: Fully convolutional, with one input, at its own stride.
        size: In pixels.
        strides: The output strides to try; see `dilate`.
        blob: See `dilate`.
    """
    ((name, shape),) = network.inputs.items()
    image = {name: (1, shape[1], *size)}
    return {stride: dilate(network, stride, blob).multiply_adds(image) for stride in strides}


def _check_sizes(network: Network, result: Network, period: int) -> None:
    """Raises CastError if the finer net refuses a size that the net accepts; sizes matter modulo the stride."""
    for more in range(period):
        larger = {
            blob: (*shape[:2], *(n + more for n in shape[2:])) if len(shape) == 4 else shape
            for blob, shape in network.inputs.items()
        }
        try:
            network.shapes_at(larger)
        except NetworkError:
            continue
        try:
            result.shapes_at(larger)
        except NetworkError as error:
            raise _does_not_fit(error, tuple(larger.values())) from error


def _does_not_fit(error: NetworkError, shapes: Sequence[Shape]) -> CastError:
    return CastError(
        f"a finer map does not fit inputs of {', '.join(map(str, shapes))}: {error.what}",
        where=error.where,
        why="branches before it round sizes differently, which shows in a finer map",
        remedy="keep the map's own stride",
    )


def _scales(network: Network, output_stride: int) -> dict[str, tuple[_Scale, _Scale] | None]:
    """Returns for every blob its old and new strides, (vertical, horizontal); None where a blob has no positions."""
    result: dict[str, tuple[_Scale, _Scale] | None] = {}
    for blob, pair in spans(network).items():
        if pair is None:
            result[blob] = None
            continue
        y, x = (_Scale.of(span.stride, output_stride) for span in pair)
        result[blob] = (y, x)
    return result


def _refine(
    layer: Layer,
    message: LayerParameter,
    bottoms: Sequence[Shape],
    *,
    read: Sequence[tuple[_Scale, _Scale] | None],
    written: tuple[_Scale, _Scale] | None,
) -> None:
    """Changes the message of a layer whose bottoms or tops become finer."""
    dilation = _dilation(read)
    if dilation == (1, 1) and (written is None or all(scale.factor == 1 for scale in written)):
        return
    step = layer.step(bottoms)
    if isinstance(layer, (Convolution, Pooling)) and step is not None and written is not None and read[0] is not None:
        stride = _pair(int(top.new / bottom.new) for top, bottom in zip(written, read[0], strict=True))
        if isinstance(layer, Pooling):
            if len(layer.tops) > 1:
                raise _refused(layer, "its second top has indices into the map, which changes")
            _set_pooling(layer, message, stride, dilation)
        else:
            _set_convolution(layer, message, stride, dilation)
    elif isinstance(layer, (Deconvolution, Crop)) or step != (Step(), Step()):
        raise _refused(layer, f"{layer.caffe_type} reads neighbouring cells, and has no dilated form")


def _refused(layer: Layer, why: str) -> CastError:
    return CastError("cannot be part of a finer map", where=layer.where, why=why, remedy="keep the map's own stride")


def _dilation(read: Sequence[tuple[_Scale, _Scale] | None]) -> Pair:
    """Returns the distance of the cells that the layer was trained on, along each axis; 1 without positions."""
    known = [pair for pair in read if pair is not None]
    return _pair(max((pair[axis].factor for pair in known), default=1) for axis in (0, 1))


def _pair(values: Iterable[int]) -> Pair:
    y, x = values
    return y, x


def _set_pooling(layer: Pooling, message: LayerParameter, stride: Pair, dilation: Pair) -> None:
    value = message.pooling_param
    pad, after = (_pair(p * d for p, d in zip(ends, dilation, strict=True)) for ends in (layer.pad, layer.after))
    set_four_pads(value, *((pad, after) if pad != after else ((0, 0), (0, 0))))
    for field, numbers, default in (("stride", stride, 1), *([("pad", pad, 0)] if pad == after else [])):
        for name in (field, f"{field}_h", f"{field}_w"):
            value.ClearField(name)
        if numbers[0] != numbers[1]:
            setattr(value, f"{field}_h", numbers[0])
            setattr(value, f"{field}_w", numbers[1])
        elif numbers[0] != default:
            setattr(value, field, numbers[0])
    if layer.ceil and (max(layer.stride) > 1 or layer.coarse):
        # Rounding down would lose the cells that exist only by rounding up: GoogLeNet's single cell depends on them.
        message.densecast_param.pooling_stride[:] = layer.coarse or layer.stride
    dilation = _pair(old * d for old, d in zip(layer.dilation, dilation, strict=True))
    if dilation != (1, 1):
        message.densecast_param.pooling_dilation[:] = dilation


def _set_convolution(layer: Convolution, message: LayerParameter, stride: Pair, dilation: Pair) -> None:
    value = message.convolution_param
    windows = layer.windows(2)
    pad, after = (_pair(p * d for p, d in zip(ends, dilation, strict=True)) for ends in (windows.pad, windows.after))
    set_four_pads(value, *((pad, after) if pad != after else ((0, 0), (0, 0))))
    numbers = {
        "stride": (stride, 1),
        **({"pad": (pad, 0)} if pad == after else {}),
        "dilation": (_pair(o * d for o, d in zip(windows.dilation, dilation, strict=True)), 1),
    }
    for name in ("stride_h", "stride_w"):
        value.ClearField(name)
    for field, (pair, default) in numbers.items():
        different = pair if pair[0] != pair[1] else pair[:1]
        getattr(value, field)[:] = () if different == (default,) else different
