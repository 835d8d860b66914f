"""Poolings in an ONNX graph, with Caffe's rounding and divisor in every runtime."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_sizes import (
    RunTimeSize,
    Size,
    as_value,
    larger,
    lowest,
    padded,
    size_of,
    smaller,
)

Pair = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class PoolWindow:
    """What slides over a map, vertical and horizontal.

    Attributes:
        maximum: Whether the largest value is taken, or the mean.
        kernel: Taps of the window.
        stride: Cells between windows.
        before: Padding before the first cell.
        after: Padding after the last cell.
        dilation: Cells between taps.
        inside: Whether the mean is that of the cells inside the bottom; otherwise padding counts, cells past it do not.
    """

    maximum: bool
    kernel: Pair
    stride: Pair
    before: Pair
    after: Pair
    dilation: Pair = (1, 1)
    inside: bool = False

    @property
    def pads(self) -> tuple[int, int, int, int]:
        """The padding in ONNX's order."""
        return (*self.before, *self.after)

    def starts_inside(self) -> bool:
        """Returns whether windows start before the end of the bottom, even the last one where sizes are rounded up.

        If it holds, all runtimes agree with Caffe. They differ in windows that start past the end: some drop them, as
        Caffe does if there is padding. The last window starts at most at size + after - kernel + stride - 1.
        """
        return all(a <= k - s for a, k, s in zip(self.after, self.kernel, self.stride, strict=True))


def pool(
    graph: OnnxGraph,
    x: Value,
    window: PoolWindow,
    *,
    cells: tuple[Size, Size] | None,
    ceil: bool,
    tops: int = 1,
) -> list[Value]:
    """Returns the pooled map, and the mask of a maximum if there are two tops.

    Args:
        graph: The graph.
        x: [N, C, H, W].
        window: The window.
        cells: The size of the map; None if ONNX's own rounding (see `ceil`) gives it, and no window starts past the
            end of the bottom.
        ceil: Whether that rounds up.
        tops: 2 with a mask.
    """
    x = clean(graph, x) if window.maximum else x
    if cells is None:
        rounds = int(ceil and max(window.stride) > 1)
        return (
            _maximum(graph, x, window, ceil=rounds, tops=tops)
            if window.maximum
            else [_plain_mean(graph, x, window, rounds)]
        )
    size = size_of(graph, x, 2), size_of(graph, x, 3)
    # Negative if a stride above the kernel leaves cells unread: the pooling leaves them too.
    after = [
        larger((n - 1) * s + d * (k - 1) + 1 - length - p, 0)
        for n, k, s, d, length, p in zip(
            cells, window.kernel, window.stride, window.dilation, size, window.before, strict=True
        )
    ]
    around = padded(graph, x, [*window.before, *after], lowest(x) if window.maximum else 0.0)
    whole = dataclasses.replace(window, before=(0, 0), after=(0, 0))
    if window.maximum:
        return _maximum(graph, around, whole, tops=tops, unpadded=(size[1], window.before))
    rows, columns = (_shares(graph, x, window, axis, cells=cells[axis], size=size[axis]) for axis in (0, 1))
    if rows.array is not None and columns.array is not None:
        shares = graph.constant(np.outer(rows.array, columns.array)[None, None])
    else:
        shares = graph.node("Mul", [graph.reshaped(rows, [-1, 1]), columns])
    return [graph.node("Div", [_mean(graph, around, whole), shares], finite=False)]  # an empty window: Caffe's NaN


def pool_globally(graph: OnnxGraph, x: Value, *, maximum: bool, tops: int = 1) -> list[Value]:
    """Returns the maximum or mean of each plane, [N, C, 1, 1], and the mask of a maximum if there are two tops."""
    if not maximum:
        return [graph.node("GlobalAveragePool", [x])]
    x = clean(graph, x)
    top = graph.node("GlobalMaxPool", [x])
    if tops == 1:
        return [top]
    flat = graph.reshaped(x, [0, 0, -1])
    place = graph.node("ArgMax", [flat], axis=2, keepdims=1)  # the first of equal values
    return [top, _mask(graph, top, graph.node("Unsqueeze", [place, graph.integers([3])]))]


def clean(graph: OnnxGraph, x: Value) -> Value:
    """Returns the bottom of a maximum with the value that Caffe starts from, -FLT_MAX, in place of NaN and -infinity.

    No comparison with NaN is true, so that Caffe never takes it; runtimes differ in it.
    """
    if x.finite:
        return x
    least = graph.scalar(lowest(x), x)
    return graph.node("Where", [graph.node("Greater", [x, least]), x, least])


def _maximum(
    graph: OnnxGraph,
    x: Value,
    window: PoolWindow,
    *,
    ceil: int = 0,
    tops: int,
    unpadded: tuple[Size, Pair] | None = None,
) -> list[Value]:
    """Returns the maximum, and the mask if there are two tops.

    Args:
        graph: The graph.
        x: The bottom, without NaN.
        window: The window.
        ceil: 1 to round up.
        tops: 2 with a mask.
        unpadded: If x was padded: the bottom's width, and the padding before its first cell.
    """
    top, *places = graph.nodes(
        "MaxPool",
        [x],
        tops,
        kernel_shape=window.kernel,
        strides=window.stride,
        pads=window.pads,
        dilations=window.dilation,
        ceil_mode=ceil,
    )
    if not places:
        return [top]
    # MaxPool's places count through the whole blob; of equal values it takes the first, as Caffe does.
    width = size_of(graph, x, 3)
    place = graph.node("Mod", [places[0], as_value(graph, size_of(graph, x, 2) * width)])
    if unpadded is not None:
        bottom_width, before = unpadded
        row, column = (graph.node(op, [place, as_value(graph, width)]) for op in ("Div", "Mod"))
        y, z = (graph.node("Sub", [v, graph.integers([p])]) for v, p in zip((row, column), before, strict=True))
        place = graph.node("Add", [graph.node("Mul", [y, as_value(graph, bottom_width)]), z])
    return [top, _mask(graph, top, place)]


def _mask(graph: OnnxGraph, top: Value, place: Value) -> Value:
    """Returns the places as numbers of the top's type, -1 where Caffe found no value that is greater than its start."""
    found = graph.node("Greater", [top, graph.scalar(lowest(top), top)])
    return graph.node("Where", [found, graph.cast(place, top.dtype), graph.scalar(-1.0, top)], finite=True)


def _plain_mean(graph: OnnxGraph, x: Value, window: PoolWindow, ceil: int) -> Value:
    """Returns the mean where every window starts inside.

    Zeros stand in place of padding that counts. Then one reading is left of which cells do, those that exist; OpenCV
    4.14 does not heed `count_include_pad`.
    """
    if window.inside:
        return _average(graph, x, window, pads=window.pads, ceil_mode=ceil)
    around = padded(graph, x, window.pads, 0.0)
    exact = all(
        isinstance(n, int) and (n - k) % s == 0
        for n, k, s in zip(around.shape[2:], window.kernel, window.stride, strict=True)
    )
    return _average(graph, around, window, ceil_mode=0 if exact else ceil)


def _average(
    graph: OnnxGraph, x: Value, window: PoolWindow, *, pads: Sequence[int] = (0, 0, 0, 0), ceil_mode: int = 0
) -> Value:
    return graph.node(
        "AveragePool", [x], kernel_shape=window.kernel, strides=window.stride, pads=pads, ceil_mode=ceil_mode
    )


def _mean(graph: OnnxGraph, x: Value, window: PoolWindow) -> Value:
    """Returns the mean of whole windows."""
    if max(window.dilation) == 1:
        return _average(graph, x, window)
    # AveragePool has dilations only since opset 19.
    channels = x.known(1)
    each = np.full((channels, 1, *window.kernel), 1.0 / math.prod(window.kernel), x.dtype)
    return graph.node(
        "Conv",
        [x, graph.constant(each)],
        kernel_shape=window.kernel,
        strides=window.stride,
        dilations=window.dilation,
        group=channels,
    )


def _shares(graph: OnnxGraph, x: Value, window: PoolWindow, axis: int, *, cells: Size, size: Size) -> Value:
    """Returns, for each cell along an axis, the share of its window's taps that Caffe divides by."""
    kernel, dilation = window.kernel[axis], window.dilation[axis]
    if isinstance(cells, int) and isinstance(size, int):
        starts = np.arange(cells) * window.stride[axis] - window.before[axis]
        known_ends = (size, 0) if window.inside else (size + window.after[axis],)
        known = [np.clip(-(-(end - starts) // dilation), 0, kernel) for end in known_ends]
        return graph.constant(((known[0] - known[1] if window.inside else known[0]) / kernel).astype(x.dtype))
    ends = (size, 0) if window.inside else (size + window.after[axis],)
    first, step = (graph.constant(np.array(n, np.int64)) for n in (0, 1))
    count = graph.node("Squeeze", [as_value(graph, cells), graph.integers([0])])
    numbers = RunTimeSize(graph, computed=graph.node("Range", [first, count, step]))
    start = numbers * window.stride[axis] - window.before[axis]
    before = [smaller(larger(-(-(end - start) // dilation), 0), kernel) for end in ends]
    taps = before[0] - before[1] if window.inside else before[0]
    return graph.node("Div", [graph.cast(as_value(graph, taps), x.dtype), graph.scalar(kernel, x)])
