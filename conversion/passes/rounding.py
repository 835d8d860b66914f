"""Branches that round map sizes differently: found by their shapes, and evened out where that changes nothing.

Caffe's convolution rounds the size of its map down, its pooling rounds it up. A net that joins the two (Inception's and
Xception's reductions) fits at its training size, and at every other size where nothing is rounded, but not between.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import PoolingParameter
from conversion.errors import CastError, NetworkError
from conversion.layers.base import Layer
from conversion.layers.convolution import Convolution
from conversion.layers.pooling import Pooling
from conversion.net.geometry import spans
from conversion.net.network import Network, run, to_definition
from conversion.net.reference import evaluate
from conversion.passes.rebuild import rebuild

_MOST_SIZES = 128  # rounding repeats with the stride, which is 32 for most nets


class Misfit(NamedTuple):
    """An image size at which the maps of a network do not fit each other.

    Attributes:
        size: (height, width) of the image, in pixels.
        training_size: (height, width) of the definition, where they fit.
        layer: The layer that refuses its bottoms.
        reason: What it says.
        up: The layers on the way to it that round up at that size, each with its rounding.
        down: Those that round down.
        remedied: The poolings of `up` that give the same cells at the training size if they round down.
    """

    size: tuple[int, int]
    training_size: tuple[int, int]
    layer: Layer
    reason: str
    up: Mapping[str, str]
    down: Mapping[str, str]
    remedied: tuple[str, ...]

    def error(self) -> CastError:
        """Returns the error of a network that must accept every size."""
        rounded = [
            f"rounding {way}: {', '.join(layers.values())}"
            for way, layers in (("down", self.down), ("up", self.up))
            if layers
        ]
        own = "x".join(map(str, self.training_size))
        names = ", ".join(map(repr, self.remedied))
        return CastError(
            f"on an image of {'x'.join(map(str, self.size))}: {self.reason}",
            where=self.layer.where,
            why="; ".join([*rounded, f"they agree at the training size, {own}"]) if rounded else "its maps do not fit",
            remedy=f"`round_mode: FLOOR` on {names} is the same net at {own}: give --pooling-rounding floor, or "
            "pooling_rounding in Python. It sets this wherever branches round differently, and verifies that the net "
            "stays the same"
            if self.remedied
            else "",
        )


def find_misfit(network: Network, sizes: Iterable[tuple[int, int]] | None = None) -> Misfit | None:
    """Returns the first size at which maps do not fit each other; None if all do. It compares shapes only.

    Args:
        network: Fully convolutional, and it accepts its own size; weights are not needed.
        sizes: (height, width) of images; by default from the definition's own on as many as the coarsest map has pixels
            between cells, at most 128: rounding repeats with them.
    """
    images = [blob for blob, shape in network.inputs.items() if len(shape) == 4]
    if len(images) != 1:
        return None
    own = network.inputs[images[0]]
    if sizes is None:
        strides = [math.ceil(span.stride) for pair in spans(network).values() for span in pair or ()]
        period = min(math.lcm(*strides), _MOST_SIZES)
        sizes = ((own[2] + more, own[3] + more) for more in range(1, period + 1))
    for size in sizes:
        inputs = {**network.inputs, images[0]: (*own[:2], *size)}
        misfit = _misfit_at(network, inputs, (own[2], own[3]), size)
        if misfit:
            return misfit
    return None


def floor_poolings(network: Network) -> Network:
    """Rounds poolings down where branches that join round differently.

    Given: a fully convolutional network; see `find_misfit`.
    Result: `round_mode: FLOOR` on the poolings that round up where the layers beside them round down, so that the net
    fits at every size. At the definition's own size they have the same cells, and the net is the same: with weights,
    this is verified in float64 on a seeded image, blob by blob. A note lists them.

    Raises:
        CastError: Other layers round differently, or a pooling that rounds down has fewer cells at the definition's own
            size: it would be another net.
    """
    result, changed = network, list[str]()
    while misfit := find_misfit(result):
        if not misfit.remedied:
            raise misfit.error()
        definition = to_definition(result)
        for message in definition.layer:
            if message.name in misfit.remedied:
                message.pooling_param.round_mode = PoolingParameter.FLOOR
        result = rebuild(result, definition)
        changed += misfit.remedied
    if not changed:
        return network
    if network.parameters:
        _require_same(network, result)
    names = ", ".join(map(repr, changed))
    note = f"round_mode: FLOOR on {names}: the same net at the training size"
    return dataclasses.replace(result, notes=(*result.notes, note))


def _require_same(network: Network, changed: Network) -> None:
    """Raises CastError unless both compute the same blobs, to the last bit, on an image of the definition's size."""
    rng = np.random.default_rng(0)
    inputs = {blob: rng.uniform(-128, 128, shape) for blob, shape in network.inputs.items()}
    before, after = evaluate(network, inputs), evaluate(changed, inputs)
    for layer in network.layers:
        for top in layer.tops:
            if not np.array_equal(before[top], after[top], equal_nan=True):
                raise CastError(
                    f"blob {top!r} differs at the training size where poolings round down",
                    where=layer.where,
                    why="the net would be another one",
                    remedy="please report this with the definition",
                )


def _misfit_at(
    network: Network, inputs: Mapping[str, Shape], training_size: tuple[int, int], size: tuple[int, int]
) -> Misfit | None:
    shapes: dict[str, Shape] = dict(inputs)
    roundings: dict[str, tuple[bool, str]] = {}  # by layer: whether it rounds up, and how
    refusing: list[Layer] = []

    def apply(layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        refusing[:] = [layer]
        tops = layer.output_shapes(bottoms)
        rounding = _rounding(layer, bottoms, tops)
        if rounding:
            roundings[layer.name] = rounding
        shapes.update(zip(layer.tops, tops, strict=True))
        return tops

    try:
        run(network.layers, lambda layer: [inputs[top] for top in layer.tops], apply)
    except NetworkError as error:
        layer = refusing[0]
        beside = [name for name in _beside(network, layer) if name in roundings]
        up = {name: roundings[name][1] for name in beside if roundings[name][0]}
        return Misfit(
            size,
            training_size,
            layer,
            f"its bottoms are {', '.join(f'{b} {_text(shapes[b])}' for b in layer.bottoms)}"
            if len(layer.bottoms) > 1
            else error.what,
            up,
            {name: roundings[name][1] for name in beside if not roundings[name][0]},
            tuple(name for name in up if _same_rounded_down(network, name)),
        )
    return None


def _beside(network: Network, layer: Layer) -> Iterator[str]:
    """Yields the layers on the way to some bottoms of a layer, but not to all of them."""
    above: dict[str, int] = {}  # for each blob, the layers that it depends on, as bits: nets have up to 10,000
    for index, one in enumerate(network.layers):
        ways = [above[bottom] for bottom in one.bottoms]
        some = functools.reduce(operator.or_, ways, 0)
        if one is layer:
            partly = some & ~functools.reduce(operator.and_, ways, some)
            yield from (other.name for bit, other in enumerate(network.layers) if partly >> bit & 1)
            return
        above.update(dict.fromkeys(one.tops, some | 1 << index))


def _rounding(layer: Layer, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> tuple[bool, str] | None:
    """Returns whether a layer rounds a size up, and that as text; None if its windows fit its bottom."""
    if isinstance(layer, Convolution) and len(bottoms[0]) == 4:
        windows = layer.windows(2)
    elif isinstance(layer, Pooling) and not layer.global_pooling:
        windows = layer.windows()
    else:
        return None
    kernel, stride, pad, after, dilation = windows
    found = None
    for axis in (0, 1):
        size, cells = bottoms[0][2 + axis], tops[0][2 + axis]
        whole, rest = divmod(size + pad[axis] + after[axis] - dilation[axis] * (kernel[axis] - 1) - 1, stride[axis])
        if rest and (found is None or cells > whole + 1):
            found = cells > whole + 1, f"{layer.where} from {size} to {cells}"
    return found


def _same_rounded_down(network: Network, name: str) -> bool:
    """Returns whether a pooling has the same cells at the definition's own size if it rounds down."""
    layer = network.layer(name)
    if not isinstance(layer, Pooling) or not layer.ceil:
        return False
    floored = type(layer.definition)()
    floored.CopyFrom(layer.definition)
    floored.pooling_param.round_mode = PoolingParameter.FLOOR
    bottoms = [network.shapes[bottom] for bottom in layer.bottoms]
    return Pooling.parse(floored).output_shapes(bottoms) == layer.output_shapes(bottoms)


def _text(shape: Shape) -> str:
    return "x".join(map(str, shape))
