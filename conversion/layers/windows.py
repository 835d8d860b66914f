"""Kernel, stride, pad and dilation from Caffe's messages, and output sizes, for all sliding layers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from types import EllipsisType
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from conversion.arrays import Array
    from conversion.caffe.caffe_pb2 import ConvolutionParameter
    from conversion.layers.base import Layer


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


def convolution_size(size: int, kernel: int, *, stride: int, pad: int, dilation: int) -> int:
    """Returns the cells along one axis, rounded down (conv_layer.cpp); below 1 if the window does not fit."""
    return (size + 2 * pad - (dilation * (kernel - 1) + 1)) // stride + 1


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
