"""A program: the operations that compute a batch of images, with the place of every blob. The extension runs it.

Activations are float32, channels last, in one arena; offsets and strides are in floats. A batch is ragged: each image
has its own height and width. The extension knows an operation by the name of its class, and reads its fields once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Pair: TypeAlias = tuple[int, int]
Floats: TypeAlias = NDArray[np.float32]
Doubles: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Blob:
    """A view in the arena: pixel (y, x) of image i lies at offsets[i] + (y * widths[i] + x) * stride.

    Attributes:
        channels: Floats of a pixel.
        stride: Floats from pixel to pixel, at least `channels`; a part of a joined blob has a larger one.
        offsets: Of the first pixel's first channel, by image.
        heights: Rows, by image.
        widths: Columns, by image.
    """

    channels: int
    stride: int
    offsets: tuple[int, ...]
    heights: tuple[int, ...]
    widths: tuple[int, ...]


class Transform(NamedTuple):
    """The matrices of minimal filtering along one axis: m outputs of k taps from t products.

    Attributes:
        outputs: float64 [m, t]. If the last column has one number that is not 0, in the last row, it is infinity's:
            the other outputs do not need that product.
        inputs: float64 [t, m + k - 1].
    """

    outputs: Doubles
    inputs: Doubles


class Tile(NamedTuple):
    """Nested minimal filtering: first along the vertical axis."""

    vertical: Transform
    horizontal: Transform


@dataclass(frozen=True)
class Prepare:
    """The network's input: (pixel - mean) * scale in its order of channels; 0 outside of the image.

    With float32 images [h, w, C], which are prepared already, a copy.

    Attributes:
        top: The blob. With a block b (space to depth), pixel (y, x) has the channels (dy * b + dx) * C + c of the
            image's pixel (y * b + dy - pad[0], x * b + dx - pad[1]), for 0 <= dy, dx < b.
        order: The colour of each channel, 0 to 2; (0,) of grey images' nets is their luma, by `weights`.
        mean: By channel.
        scale: The factor.
        luma: The weights (r, g, b, one) of a net that takes grey: floor((r * R + g * G + b * B + one // 2) / one), all
            integers; None of any other.
        block: See `top`; 1 for none.
        pad: See `top`.
    """

    top: Blob
    order: tuple[int, ...]
    mean: tuple[float, ...]
    scale: float
    luma: tuple[int, int, int, int] | None = None
    block: int = 1
    pad: Pair = (0, 0)


@dataclass(frozen=True)
class SpaceToDepth:
    """As `Prepare` with a block, of a blob."""

    bottom: Blob
    top: Blob
    block: int
    pad: Pair


@dataclass(frozen=True)
class Convolution:
    """A convolution, direct or by tiles, of one or several groups.

    Attributes:
        bottom: The bottom.
        top: The top; rows and columns follow from it, and so does the padding at the ends.
        filters: `densecast_native.Filters`.
        kernel: Taps.
        stride: Bottom pixels between outputs; 1 with a tile.
        pad: Rows above and columns before.
        dilation: Bottom pixels between taps; 1 with a tile.
        bias: [C], or None.
        slope: Of the negative half, by which all is followed; None for none.
        images: Which images of the batch.
        tile: The tile; None for the direct form.
        groups: How many.
    """

    bottom: Blob
    top: Blob
    filters: object
    kernel: Pair
    stride: Pair
    pad: Pair
    dilation: Pair
    bias: Floats | None
    slope: float | None
    images: tuple[int, ...]
    tile: Tile | None = None
    groups: int = 1


@dataclass(frozen=True)
class DepthwiseConvolution:
    """A convolution with a group for each channel, and `factor` outputs of each: output c reads channel c // factor.

    Attributes:
        bottom: The bottom.
        top: The top.
        weights: [kh, kw, C_out].
        kernel: As of `Convolution`, as the others.
        stride: See there.
        pad: See there.
        dilation: See there.
        bias: See there.
        slope: See there.
    """

    bottom: Blob
    top: Blob
    weights: Floats
    kernel: Pair
    stride: Pair
    pad: Pair
    dilation: Pair
    bias: Floats | None
    slope: float | None


@dataclass(frozen=True)
class Pool:
    """Pooling by Caffe's rules; the number of windows follows from the top.

    A maximum starts from -FLT_MAX and takes what compares greater. An average divides by the taps of the window that
    lie before height + after (and width + after); with `inside` by those in the bottom.

    Attributes:
        bottom: The bottom.
        top: The top.
        kind: `max` or `average`.
        kernel: Taps; (0, 0) for the whole bottom, whatever its size.
        stride: Bottom pixels between windows.
        pad: Rows above and columns before.
        after: Rows below and columns behind: they count for the divisor.
        dilation: Bottom pixels between taps.
        inside: See above.
    """

    bottom: Blob
    top: Blob
    kind: str
    kernel: Pair
    stride: Pair
    pad: Pair
    after: Pair
    dilation: Pair = (1, 1)
    inside: bool = False


@dataclass(frozen=True)
class Lrn:
    """x / (k + alpha / size * sum of squares over `size` neighbouring channels) ** beta."""

    bottom: Blob
    top: Blob
    size: int
    alpha: float
    beta: float
    k: float


@dataclass(frozen=True)
class LrnPool:
    """`Lrn`, and the pooling of its result, which is not kept."""

    bottom: Blob
    top: Blob
    size: int
    alpha: float
    beta: float
    k: float
    kernel: Pair
    stride: Pair
    pad: Pair


@dataclass(frozen=True)
class Affine:
    """x * scale + shift, each [C] or None; then the slope of the negative half, or None."""

    bottom: Blob
    top: Blob
    scale: Floats | None
    shift: Floats | None
    slope: float | None


@dataclass(frozen=True)
class Activation:
    """A function of each value, by the table of `conversion.PlainActivation`; top and bottom may be one."""

    bottom: Blob
    top: Blob
    kind: str
    parameters: tuple[float, ...] = ()
    slopes: Floats | None = None


@dataclass(frozen=True)
class Eltwise:
    """The sum (weighted by coefficients), product or maximum of blobs, from the first on; `kind` sum, prod or max.

    Then the slope of the negative half, or None.
    """

    bottoms: tuple[Blob, ...]
    top: Blob
    kind: str
    coefficients: tuple[float, ...]
    slope: float | None = None


@dataclass(frozen=True)
class Copy:
    """Pixel (y, x) of the top is pixel (y + start[0], x + start[1]) of the bottom."""

    bottom: Blob
    top: Blob
    start: Pair = (0, 0)


@dataclass(frozen=True)
class Softmax:
    """exp(x - max) / sum of it, over the channels of each pixel."""

    bottom: Blob
    top: Blob


@dataclass(frozen=True)
class TopK:
    """A result: of each pixel the k best channels, best first, of equal ones the lower first.

    Its arrays: classes int64 [h, w, k] of every image, then scores float32 [h, w, k] of every image.
    """

    bottom: Blob
    k: int


@dataclass(frozen=True)
class Whole:
    """A result: a blob as it is. Its arrays: float32 [h, w, C] of every image."""

    bottom: Blob


Operation: TypeAlias = (
    Prepare
    | SpaceToDepth
    | Convolution
    | DepthwiseConvolution
    | Pool
    | Lrn
    | LrnPool
    | Affine
    | Activation
    | Eltwise
    | Copy
    | Softmax
)
Result: TypeAlias = TopK | Whole


@dataclass(frozen=True)
class Plan:
    """What `densecast_native.Program` is made of.

    Attributes:
        operations: In the order of execution.
        results: What leaves the arena at the end; the arrays of all of them, in order, are the results of a run.
        arena: Floats that the blobs take.
    """

    operations: Sequence[Operation]
    results: Sequence[Result]
    arena: int
