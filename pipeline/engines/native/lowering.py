"""From the plain operations of a network to the steps that a program has: fewer, each with what follows it."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from conversion import (
    PlainActivation,
    PlainAffine,
    PlainConcat,
    PlainConvolution,
    PlainDepthwise,
    PlainEltwise,
    PlainLrn,
    PlainNetwork,
    PlainOperation,
    PlainPart,
    PlainPooling,
    PlainStep,
)

_MOST_TAPS_OF_BLOCKS = 64  # channels of a block: four by four pixels of four channels


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """An operation with what is done to its values at once.

    Attributes:
        operation: The operation.
        bottoms: The values that it reads.
        top: The value that it writes.
        layer: The name of its layer.
        affine: What its values are multiplied by and what is added, of a convolution.
        slope: Then that of the negative half; None for none.
        pooling: The maximum that an LRN ends in.
        block: Side of the blocks of pixels that a convolution reads as channels; 1 for none.
    """

    operation: PlainOperation
    bottoms: tuple[int, ...]
    top: int
    layer: str
    affine: PlainAffine | None = None
    slope: float | None = None
    pooling: PlainPooling | None = None
    block: int = 1


def fused_steps(network: PlainNetwork, kept: Collection[int]) -> list[Step]:
    """Returns the steps that compute the kept values, in order, as few as possible.

    A factor and a summand of each channel (BatchNorm, Scale, Bias) after a convolution become part of it; a ReLU part
    of what it follows; a maximum part of the LRN. A value that is kept, or that several steps read, is not lost.
    """
    needed = _needed(network.steps, kept)
    readers = Counter(bottom for step in needed for bottom in step.bottoms)
    steps: list[Step] = []
    writer: dict[int, int] = {}  # by value, the step that writes it
    for plain in needed:
        first = plain.bottoms[0]
        alone = readers[first] == 1 and first not in kept and first in writer
        joined = _joined(steps[writer[first]], plain) if alone else None
        if joined is None:
            writer[plain.top] = len(steps)
            steps.append(_first_form(plain, network.data))
        else:
            writer[plain.top] = writer[first]
            steps[writer[first]] = joined
    return steps


def _needed(steps: Sequence[PlainStep], kept: Collection[int]) -> list[PlainStep]:
    """Returns the steps that the kept values depend on."""
    wanted, needed = set(kept), []
    for step in reversed(steps):
        if step.top in wanted:
            wanted.update(step.bottoms)
            needed.append(step)
    return needed[::-1]


def _first_form(plain: PlainStep, data: int) -> Step:
    operation = plain.operation
    step = Step(operation, plain.bottoms, plain.top, plain.layer)
    if not isinstance(operation, PlainConvolution) or plain.bottoms != (data,) or len(operation.filters) > 1:
        return step
    (vertical, horizontal), dilation = operation.windows.stride, operation.windows.dilation
    channels = vertical * horizontal * operation.filters[0].shape[2]
    # With strides of several pixels a convolution wastes most of a tile; over blocks of pixels its stride is 1.
    if vertical == horizontal > 1 and dilation == (1, 1) and channels <= _MOST_TAPS_OF_BLOCKS:
        return dataclasses.replace(step, block=vertical)
    return step


def _joined(step: Step, plain: PlainStep) -> Step | None:
    """Returns a step that also does what the only reader of its value does; None if it cannot."""
    done, follows = step.operation, plain.operation
    after = dataclasses.replace(step, top=plain.top, layer=f"{step.layer} + {plain.layer}")
    sums = isinstance(done, PlainConvolution | PlainDepthwise | PlainAffine | PlainEltwise)
    if step.slope is not None or step.pooling is not None:
        return None
    if isinstance(follows, PlainAffine):
        if isinstance(done, PlainAffine):
            return dataclasses.replace(after, operation=_both(done, follows))
        if isinstance(done, PlainConvolution | PlainDepthwise):
            return dataclasses.replace(after, affine=_both(step.affine or PlainAffine(None, None), follows))
    if isinstance(follows, PlainActivation) and follows.kind == "relu" and sums:
        return dataclasses.replace(after, slope=follows.parameters[0])
    if isinstance(follows, PlainPooling) and isinstance(done, PlainLrn) and follows.maximum:
        plain_windows = follows.windows is not None and follows.windows.dilation == (1, 1)
        return dataclasses.replace(after, pooling=follows) if plain_windows else None
    return None


def _both(first: PlainAffine, second: PlainAffine) -> PlainAffine:
    """Returns the second of the first."""
    scale, shift = first.scale, first.shift
    if second.scale is not None:
        scale = second.scale if scale is None else scale * second.scale
        shift = None if shift is None else shift * second.scale
    if second.shift is not None:
        shift = second.shift if shift is None else shift + second.shift
    return PlainAffine(scale, shift)


def convolution_bias(step: Step) -> NDArray[np.float32] | None:
    """Returns the bias of a convolution with what follows it, float32 [C]; None if there is none."""
    operation = step.operation
    if not isinstance(operation, PlainConvolution | PlainDepthwise):
        raise TypeError(f"{step.layer} is not a convolution")
    if step.affine is None:
        return None if operation.bias is None else np.ascontiguousarray(operation.bias, np.float32)
    bias = None if operation.bias is None else operation.bias.astype(np.float64)
    shift = _both(PlainAffine(None, bias), step.affine).shift
    return None if shift is None else np.ascontiguousarray(shift, np.float32)


def convolution_filters(step: Step) -> NDArray[np.float32]:
    """Returns the filters of a convolution with the factor that follows it, float32 [groups, kh, kw, inside, outside].

    Over blocks of b x b pixels they have ceil(k / b) taps, of b * b * inside channels, with zeros beyond the kernel.
    """
    operation = step.operation
    if not isinstance(operation, PlainConvolution):
        raise TypeError(f"{step.layer} is not a convolution")
    groups = len(operation.filters)
    filters = np.stack(operation.filters) if groups > 1 else operation.filters[0][np.newaxis]
    if step.affine is not None and step.affine.scale is not None:
        scale = step.affine.scale.reshape(groups, 1, 1, 1, -1)
        filters = (filters * scale).astype(np.float32)
    if step.block > 1:
        filters = _of_blocks(filters[0], step.block)[np.newaxis]
    return np.ascontiguousarray(filters, np.float32)


def block_taps(kernel: Sequence[int], block: int) -> tuple[int, int]:
    """Returns the taps of a kernel over blocks of pixels."""
    return -(-kernel[0] // block), -(-kernel[1] // block)


def _of_blocks(filters: NDArray[np.float32], block: int) -> NDArray[np.float32]:
    kernel, (inside, outside) = filters.shape[:2], filters.shape[2:]
    rows, columns = block_taps(kernel, block)
    whole = np.zeros((rows * block, columns * block, inside, outside), np.float32)
    whole[: kernel[0], : kernel[1]] = filters
    parted = whole.reshape(rows, block, columns, block, inside, outside)
    return parted.transpose(0, 2, 1, 3, 4, 5).reshape(rows, columns, block * block * inside, outside)


def parents(steps: Sequence[Step], channels: Sequence[int], data: int) -> dict[int, tuple[int, int]]:
    """Returns the values that lie within another: the other, and their first channel in it.

    A blob of joined channels holds those that it is joined of, so that nothing is copied: each is written where it
    belongs. A part of a blob's channels lies in that blob.

    Args:
        steps: The steps.
        channels: Of each value.
        data: The network's input, which lies alone.
    """
    within: dict[int, tuple[int, int]] = {}
    for step in steps:
        if isinstance(step.operation, PlainPart) and step.operation.corner is None:
            within[step.top] = (step.bottoms[0], step.operation.channel)
        if isinstance(step.operation, PlainConcat):
            start = 0
            for bottom in step.bottoms:
                if bottom not in within and bottom != data:
                    within[bottom] = (step.top, start)
                start += channels[bottom]
    return within
