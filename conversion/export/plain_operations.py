"""Plain operations: the few that all layers of most classifiers are made of, for engines that compute them themselves.

All of them are on maps [N, C, h, w]. Sizes are not theirs: they follow from the network.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from conversion.arrays import Array, Shape
from conversion.layers.windows import Windows
from conversion.net.network import Network

Kind: TypeAlias = Literal[
    "relu",
    "prelu",
    "elu",
    "sigmoid",
    "tanh",
    "abs",
    "power",
    "exp",
    "log",
    "bnll",
    "threshold",
    "clip",
    "swish",
]


@dataclasses.dataclass(frozen=True, eq=False)
class PlainConvolution:
    """A convolution, as `Convolution` computes it.

    Attributes:
        windows: The windows.
        filters: float32 [kh, kw, inside, outside] of each group.
        bias: float32 [C], or None.
    """

    windows: Windows
    filters: Sequence[Array]
    bias: Array | None


@dataclasses.dataclass(frozen=True, eq=False)
class PlainDepthwise:
    """A convolution with one input channel for each output channel.

    Attributes:
        windows: The windows.
        filters: float32 [kh, kw, C_out]; output c reads channel c // (C_out / C_in).
        bias: float32 [C_out], or None.
    """

    windows: Windows
    filters: Array
    bias: Array | None


@dataclasses.dataclass(frozen=True)
class PlainPooling:
    """Pooling, as `Pooling` computes it.

    Attributes:
        maximum: Maximum or average.
        windows: The windows; None for the whole map.
        inside: Whether an average divides by the cells inside the map.
    """

    maximum: bool
    windows: Windows | None
    inside: bool = False


@dataclasses.dataclass(frozen=True)
class PlainLrn:
    """Local response normalization across channels, as `LRN` computes it."""

    size: int
    alpha: float
    beta: float
    k: float


@dataclasses.dataclass(frozen=True, eq=False)
class PlainAffine:
    """x * scale + shift; float64 [C] each, or None for 1 and 0."""

    scale: Array | None
    shift: Array | None


@dataclasses.dataclass(frozen=True, eq=False)
class PlainActivation:
    """A function of each value.

    | kind | parameters | value |
    |---|---|---|
    | relu | slope | max(x, 0) + slope * min(x, 0) |
    | prelu | | the same with `slopes`, float32 [C] |
    | elu | alpha | x where it is above 0, else alpha * (exp(x) - 1) |
    | sigmoid | | 1 / (1 + exp(-x)) |
    | tanh | | tanh(x) |
    | abs | | abs(x) |
    | power | power, scale, shift | (shift + scale * x) ** power, as C's pow |
    | exp | scale, factor | factor * exp(scale * x) |
    | log | scale, shift, factor | factor * log(shift + scale * x) |
    | bnll | | log(1 + exp(x)) |
    | threshold | threshold | 1 where x is above it, else 0 |
    | clip | low, high | max(low, min(x, high)) |
    | swish | beta | x / (1 + exp(-beta * x)) |
    """

    kind: Kind
    parameters: tuple[float, ...] = ()
    slopes: Array | None = None


@dataclasses.dataclass(frozen=True)
class PlainEltwise:
    """The sum (weighted by the coefficients), product or maximum of maps, from the first on."""

    kind: Literal["sum", "prod", "max"]
    coefficients: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class PlainConcat:
    """Maps joined along the channels."""


@dataclasses.dataclass(frozen=True)
class PlainPart:
    """A part of a map, of the top's size.

    Attributes:
        channel: Its first channel.
        corner: Its first row and column; None if it has all rows and columns.
    """

    channel: int
    corner: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class PlainSoftmax:
    """exp(x - max) / sum of it, over the channels."""


PlainOperation: TypeAlias = (
    PlainConvolution
    | PlainDepthwise
    | PlainPooling
    | PlainLrn
    | PlainAffine
    | PlainActivation
    | PlainEltwise
    | PlainConcat
    | PlainPart
    | PlainSoftmax
)


@dataclasses.dataclass(frozen=True, eq=False)
class PlainStep:
    """An operation with its values, each a number; every value is written once.

    Attributes:
        operation: The operation.
        bottoms: The values that it reads.
        top: The value that it writes.
        layer: The layer's name.
    """

    operation: PlainOperation
    bottoms: tuple[int, ...]
    top: int
    layer: str


@dataclasses.dataclass(frozen=True, eq=False)
class PlainNetwork:
    """A network as steps.

    Attributes:
        network: The network, as far as it is needed.
        steps: In the order of execution.
        data: The value of the network's input.
        places: Where the shape of each value is found: index of a layer, index of its top.
        last: The value of each blob, by name: its last.
        first: The value of each blob before layers change it in place.
    """

    network: Network
    steps: tuple[PlainStep, ...]
    data: int
    places: tuple[tuple[int, int], ...]
    last: Mapping[str, int]
    first: Mapping[str, int]

    def shapes(self, height: int, width: int) -> list[Shape]:
        """Returns the shape [1, C, h, w] of each value for an image of a size; raises NetworkError if it is refused."""
        ((data, (_, channels, *_)),) = self.network.inputs.items()
        trace, _ = self.network.trace({data: (1, channels, height, width)})
        return [trace[layer][1][top] for layer, top in self.places]
