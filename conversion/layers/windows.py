"""Kernel, stride, pad and dilation from Caffe's messages, and output sizes, for all sliding layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from types import EllipsisType
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from conversion.arrays import Array
    from conversion.caffe.caffe_pb2 import ConvolutionParameter, PoolingParameter
    from conversion.layers.base import Layer

Pair = tuple[int, int]
SAME = 1  # pad_type: TensorFlow's rule


class Windows(NamedTuple):
    """The windows of a sliding layer, each with one value per spatial axis, height first.

    Attributes:
        kernel: Taps.
        stride: Cells of the bottom between windows.
        pad: Cells of padding before the first of the bottom.
        after: Cells of padding after the last.
        dilation: Cells between taps.
    """

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    after: tuple[int, ...]
    dilation: tuple[int, ...]


def four_pads(layer: Layer, message: ConvolutionParameter | PoolingParameter) -> tuple[Pair, Pair] | None:
    """Returns the padding before and after, each (vertical, horizontal), that `pad_l`, ... state; None if none is set.

    As Synopsys' fork reads them (synopsys-caffe, base_conv_layer.cpp and pooling_layer.cpp): all 0 is as if none were
    given, and otherwise they stand alone.

    Raises:
        NetworkError: `pad`, `pad_h`, `pad_w` or `pad_type` is given as well; or `pad_type` is neither 0 nor 1.
    """
    if message.pad_type not in (0, SAME):
        raise layer.invalid(f"pad_type {message.pad_type}", why="0 is Caffe's padding, 1 is TensorFlow's SAME")
    pad, after = (message.pad_t, message.pad_l), (message.pad_b, message.pad_r)
    names = "pad_l, pad_r, pad_t, pad_b" if any(pad + after) else "pad_type: 1" if message.pad_type else ""
    given = {field.name for field, _ in message.ListFields()} & {"pad", "pad_h", "pad_w"}
    if message.pad_type and any(pad + after):
        given = {"pad_type"}
    if names and given:
        raise layer.invalid(
            f"{names} and {', '.join(sorted(given))} are given", why="the fork accepts one or the other"
        )
    return (pad, after) if any(pad + after) else None


def same_pads(size: int, kernel: int, *, stride: int, dilation: int = 1) -> Pair:
    """Returns the padding (before, after) along one axis of `size` cells that gives ceil(size / stride) windows.

    TensorFlow's SAME, as Synopsys' fork has it (synopsys-caffe, im2col.cpp and pooling_layer.cpp): the padding before
    is half of what a kernel *without* dilation needs, rounded down.
    """
    whole = max(kernel - (size % stride or stride), 0)
    last = (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1
    return whole // 2, max(last - size - whole // 2, 0)


def set_four_pads(message: ConvolutionParameter | PoolingParameter, pad: Sequence[int], after: Sequence[int]) -> None:
    """States the padding of two axes, before and after, by `pad_l`, ... alone; nothing where all are 0."""
    for field in ("pad", "pad_h", "pad_w", "pad_type", "pad_l", "pad_r", "pad_t", "pad_b"):
        message.ClearField(field)
    if any((*pad, *after)):
        (message.pad_t, message.pad_l), (message.pad_b, message.pad_r) = pad, after


def per_axis(
    layer: Layer,
    message: ConvolutionParameter,
    field: str,
    *,
    count: int,
    default: int | None,
    least: int = 1,
    pair: str = "",
) -> tuple[int, ...]:
    """Returns one value for each spatial axis from a repeated field and its `_h` / `_w` twins (base_conv_layer.cpp).

    Args:
        layer: Named in errors.
        message: A ConvolutionParameter.
        field: The repeated field: one value for all axes, or one per axis (height first).
        count: Number of spatial axes.
        default: The value if the message has none; None if Caffe requires one.
        least: The smallest legal value.
        pair: Stem of the `_h` / `_w` fields: "kernel" for `kernel_size`, otherwise the field itself; "" if it has none.

    Raises:
        NetworkError: Values are missing, contradictory, of the wrong number, or below `least`.
    """
    values = tuple(getattr(message, field))
    high, wide = (f"{pair}_h", f"{pair}_w")
    if pair and (message.HasField(high) or message.HasField(wide)):
        if values:
            raise layer.invalid(f"both {field} and {high} / {wide} are given", why="Caffe accepts one or the other")
        if count != 2:
            raise layer.invalid(f"{high} / {wide} are given for {count} spatial axes", why="they exist for two")
        if default is None and not (message.HasField(high) and message.HasField(wide)):
            raise layer.invalid(
                f"{high} or {wide} is missing", why="Caffe requires both", remedy=f"give {field} instead"
            )
        values = (getattr(message, high), getattr(message, wide))
        if default and 0 in values:  # stride_h without stride_w: the proto's default is 0, which Caffe refuses
            raise layer.invalid(f"{high} or {wide} is 0 or missing", remedy=f"give both, or {field}")
    elif not values:
        if default is None:
            raise layer.invalid(f"{field} is missing")
        values = (default,)
    if len(values) not in (1, count):
        raise layer.invalid(
            f"{field} has {len(values)} values for {count} spatial axes", remedy="give one value, or one per axis"
        )
    if min(values) < least:
        raise layer.invalid(f"{field} {min(values)} is below {least}")
    return values * count if len(values) == 1 else values


def convolution_size(size: int, kernel: int, stride: int, pad: int, after: int, dilation: int) -> int:  # noqa: PLR0917
    """Returns the cells along one axis, rounded down (conv_layer.cpp); below 1 if the window does not fit."""
    return (size + pad + after - (dilation * (kernel - 1) + 1)) // stride + 1


def taps(
    array: Array,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    dilation: Sequence[int],
    cells: Sequence[int],
) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yields, for each tap of a window, the strided view of `array` (spatial axes last, padded) that it reads.

    Yields:
        (tap, view): the tap's index, and a view of shape [..., *cells].
    """
    for tap in product(*map(range, kernel)):
        index: tuple[slice | EllipsisType, ...] = (
            ...,
            *(
                slice(t * d, t * d + s * (n - 1) + 1, s)
                for t, s, d, n in zip(tap, stride, dilation, cells, strict=True)
            ),
        )
        yield tap, array[index]


def pad_spatial(array: Array, before: Sequence[int], after: Sequence[int], value: float) -> Array:
    """Returns `array` with its last len(before) axes padded by a constant."""
    lead = [(0, 0)] * (array.ndim - len(before))
    return np.pad(array, lead + list(zip(before, after, strict=True)), constant_values=value)
