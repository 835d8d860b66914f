"""Pooling by Caffe's rules: sizes round up by default, windows are clipped, averages have their own divisor."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Size, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter, PoolingParameter
from conversion.errors import UnsupportedError
from conversion.layers.base import Layer, Narrow, Step, register
from conversion.layers.convolution import window_steps
from conversion.layers.layout import import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_pooling import PoolWindow, pool, pool_globally
from conversion.layers.onnx_sizes import larger, size_of, smaller
from conversion.layers.windows import (
    SAME,
    Pair,
    Windows,
    four_pads,
    pad_spatial,
    same_pads,
    set_four_pads,
    taps,
)

FLT_MAX = float(np.finfo(np.float32).max)  # what Caffe starts a maximum from: -FLT_MAX
_INSIDE = "AVE_EXC_PAD"


@register("Pooling")
@dataclasses.dataclass(frozen=True, eq=False)
class Pooling(Layer):
    """Caffe's Pooling (pooling_layer.cpp), MAX or AVE; AVE_EXC_PAD, also called AVE_TF, is a fork's.

    Shape: [N, C, H, W] -> [N, C, h, w] with h = ceil((H + 2 pad - kernel) / stride) + 1 (floor with
    `round_mode: FLOOR`), one less where padding is used and the last window would start at H + pad or beyond.

    MAX starts from -FLT_MAX and takes values that compare greater, so padding, NaN and empty windows give -FLT_MAX. AVE
    divides by the window clipped to H + pad: padding counts, cells past it do not. AVE_EXC_PAD divides by the cells
    inside the bottom (synopsys-caffe, pooling_layer.cpp).

    `pad_t`, `pad_b`, `pad_l` and `pad_r` pad the ends differently: the formula has their sum, and each bound the end's
    own (the same file); Caffe's rule on the last window is the fork's. `pad_type: 1` is TensorFlow's SAME, for maps of
    the definition's own size.

    A second top of MAX is the mask: the index in the plane (y * W + x) of the first of the largest values, -1 if no
    value is greater than -FLT_MAX.

    Two parameters are densecast's own (`densecast_param`), for `dilate`. With a dilation, taps lie `dilation` cells
    apart: kernel becomes dilation * (kernel - 1) + 1 in the formula, and AVE divides by the taps before H + pad.
    With `coarse`, the stride before `dilate`, h is rounded down, but is at least factor * (cells of the coarse map - 1)
    + 1, so that no cell of the coarse map is lost.
    """

    method: str = "MAX"
    kernel: Pair = (0, 0)
    stride: Pair = (1, 1)
    pad: Pair = (0, 0)
    after: Pair = (0, 0)
    ceil: bool = True
    global_pooling: bool = False
    dilation: Pair = (1, 1)
    coarse: Pair | None = None

    top_count = (1, 2)

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `pooling_param`."""
        message = definition.pooling_param
        layer = cls(definition)
        if message.pool == PoolingParameter.STOCHASTIC:
            raise UnsupportedError("pool: STOCHASTIC", where=layer.where)
        if len(definition.top) > 1 and message.pool != PoolingParameter.MAX:
            raise layer.invalid(f"{len(definition.top)} top blobs, Caffe requires 1", why="only MAX has a mask")
        stride = layer._pair(message, "stride", ("stride_h", "stride_w"), 1)
        four = four_pads(layer, message)
        pad = layer._pair(message, "pad", ("pad_h", "pad_w"), 0)
        pad, after = four or (pad, pad)
        dilation, coarse = layer._extension()
        kernel = (0, 0)
        if message.global_pooling:
            if message.HasField("kernel_size") or message.HasField("kernel_h") or message.HasField("kernel_w"):
                raise layer.invalid("global_pooling with a kernel", why="the kernel is the whole bottom")
            if any(pad + after) or stride != (1, 1):
                raise layer.invalid(
                    "global_pooling with a pad or a stride", why="Caffe accepts pad 0 and stride 1 only"
                )
        else:
            kernel = layer._pair(message, "kernel_size", ("kernel_h", "kernel_w"), None)
            if min(kernel) < 1:
                raise layer.invalid(f"kernel {kernel[0]}x{kernel[1]} has no cells")
            for ends in (pad, after):
                if any(p >= d * (k - 1) + 1 for p, k, d in zip(ends, kernel, dilation, strict=True)):
                    raise layer.invalid(
                        f"pad {ends} is not smaller than the kernel {kernel}", why="windows would be empty"
                    )
        if min(stride) < 1:
            raise layer.invalid(f"stride {min(stride)} is below 1")
        return dataclasses.replace(
            layer,
            method=PoolingParameter.PoolMethod.Name(message.pool),
            kernel=kernel,
            stride=stride,
            pad=pad,
            after=after,
            ceil=message.round_mode == PoolingParameter.CEIL,
            global_pooling=message.global_pooling,
            dilation=dilation,
            coarse=coarse,
        )

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:
        """Returns the layer with stated pads where `pad_type` is TensorFlow's SAME; it has ceil(H / stride) windows."""
        if self.definition.pooling_param.pad_type != SAME or len(bottoms[0]) != 4:  # which `output_shapes` refuses
            return None
        message = LayerParameter()
        message.CopyFrom(self.definition)
        sides = zip(bottoms[0][2:], self.kernel, self.stride, strict=True)
        pads = [(0, 0)] * 2 if self.global_pooling else [same_pads(n, k, stride=s) for n, k, s in sides]
        set_four_pads(message.pooling_param, *zip(*pads, strict=True))
        if not self.global_pooling:
            message.pooling_param.round_mode = PoolingParameter.FLOOR  # Caffe has one window more for stride > kernel
        return message

    def windows(self) -> Windows:
        """Returns the windows; not of global pooling."""
        return Windows(self.kernel, self.stride, self.pad, self.after, self.dilation)

    def _extension(self) -> tuple[Pair, Pair | None]:
        """Returns dilation and coarse stride from `densecast_param`."""
        message = self.definition.densecast_param
        dilation, coarse = tuple(message.pooling_dilation) or (1, 1), tuple(message.pooling_stride)
        if len(dilation) != 2 or len(coarse) not in (0, 2) or min(dilation + coarse) < 1:
            raise self.invalid(
                f"pooling_dilation {list(dilation)}, pooling_stride {list(coarse)}",
                why="each is two numbers of at least 1",
            )
        extended = self.definition.HasField("densecast_param")
        if extended and (self.definition.pooling_param.global_pooling or len(self.definition.top) > 1):
            raise self.invalid("densecast_param with global_pooling or a mask")
        return (dilation[0], dilation[1]), (coarse[0], coarse[1]) if coarse else None

    def _pair(self, message: PoolingParameter, field: str, twins: tuple[str, str], default: int | None) -> Pair:
        """Returns (vertical, horizontal) from `field` or its `_h` and `_w` twins, as PoolingLayer::LayerSetUp does."""
        given = [message.HasField(twin) for twin in twins]
        if message.HasField(field) and any(given):
            raise self.invalid(
                f"both {field} and {twins[0]} / {twins[1]} are given", why="Caffe accepts one or the other"
            )
        if any(given):
            if not all(given):
                raise self.invalid(
                    f"{twins[given.index(False)]} is missing", why=f"{twins[given.index(True)]} is given"
                )
            return (getattr(message, twins[0]), getattr(message, twins[1]))
        if not message.HasField(field) and default is None:
            raise self.invalid(f"{field} is missing")
        value = getattr(message, field)
        return (value, value)

    def _window(self, height: int, width: int) -> Pair:
        return (height, width) if self.global_pooling else self.kernel

    def _cells(
        self, height: Size, width: Size, least: Callable[..., Size] = min, most: Callable[..., Size] = max
    ) -> tuple[Size, Size]:
        """Returns the cells along each axis; sizes are integers, or tensors with TensorFlow's minimum and maximum."""
        y, x = (
            self._cells_along(axis, size, kernel, least=least, most=most)
            for axis, (size, kernel) in enumerate(zip((height, width), self._window(height, width), strict=True))
        )
        return y, x

    def _cells_along(
        self, axis: int, size: Size, kernel: int, *, least: Callable[..., Size], most: Callable[..., Size]
    ) -> Size:
        stride, pad, after, dilation = (ends[axis] for ends in (self.stride, self.pad, self.after, self.dilation))
        span = size + pad + after - (dilation * (kernel - 1) + 1)
        whole = span // stride + 1
        if self.coarse is None:
            return self._rounded(size, span, stride=stride, pad=pad, least=least) if self.ceil else whole
        coarse, shrunk, padding = self.coarse[axis], -(-size // dilation), pad // dilation
        rest = shrunk + padding + after // dilation - kernel
        cells = self._rounded(shrunk, rest, stride=coarse, pad=padding, least=least)
        return most(whole, coarse * dilation // stride * (cells - 1) + 1)

    def _rounded(self, size: Size, span: int, *, stride: int, pad: int, least: Callable[..., Size]) -> Size:
        """Returns Caffe's count: rounded up, but if any axis is padded, no window starts at size + pad or later."""
        cells = -(-span // stride) + 1
        return least(cells, (size + pad - 1) // stride + 1) if any(self.pad + self.after) else cells

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.invalid(f"a bottom of {len(shape)} axes", why="pooling is defined for N, C, H, W")
        cells = self._cells(shape[2], shape[3])
        if min(cells) < 1:
            raise self.invalid(f"a bottom of {shape[2]}x{shape[3]} is smaller than the window")
        return [(*shape[:2], *cells)] * self._tops

    @property
    def _tops(self) -> int:
        """1, or 2 with a mask."""
        return max(len(self.tops), 1)

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the bottom with all cells that its windows read, and what its results are made of."""
        window = self._reach(self._window(*bottoms[0][2:]))
        sides = ((n - 1) * s + k for n, s, k in zip(tops[0][2:], self.stride, window, strict=True))
        padded = math.prod(bottoms[0][:2]) * math.prod(sides)
        if self.method == "MAX":
            return padded + 3 * math.prod(tops[0]) + 3 * math.prod(bottoms[0][2:])
        return padded + math.prod(tops[0])

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns the window's step; None if the window is the whole bottom."""
        return None if self.global_pooling else window_steps(self.windows())

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Goes tap by tap over a padded copy."""
        x = bottoms[0]
        size = x.shape[2:]
        kernel, cells = self._window(*size), self._cells(*size)
        after = _end_padding(size, self._reach(kernel), stride=self.stride, pad=self.pad, cells=cells)
        if self.method == "MAX":
            top, mask = np.full((*x.shape[:2], *cells), -FLT_MAX), np.full((*x.shape[:2], *cells), -1.0)
            plane = np.arange(size[0] * size[1]).reshape(size)
            views, places = (
                taps(
                    pad_spatial(array, self.pad, after, -np.inf),
                    kernel,
                    stride=self.stride,
                    dilation=self.dilation,
                    cells=cells,
                )
                for array in (x, plane.astype(np.float64))
            )
            for (_, view), (_, place) in zip(views, places, strict=True):
                mask = np.where(view > top, place, mask)
                top = np.where(view > top, view, top)
            return [top, mask][: self._tops]
        total = np.zeros((*x.shape[:2], *cells))
        padded = pad_spatial(x, self.pad, after, 0.0)
        for _, view in taps(padded, kernel, stride=self.stride, dilation=self.dilation, cells=cells):
            total += view
        rows, columns = (self._counts(n, axis, size[axis], kernel[axis]) for axis, n in enumerate(cells))
        with np.errstate(invalid="ignore"):  # an empty window is 0 / 0: Caffe's NaN
            return [total / np.outer(rows, columns)]

    def _counts(self, cells: int, axis: int, size: int, kernel: int) -> Array:
        """Returns what Caffe divides by along one axis: the cells of the window before size + pad, or in the bottom."""
        start = np.arange(cells) * self.stride[axis] - self.pad[axis]
        inside = self.method == _INSIDE
        taps_before = [
            np.clip(-(-(end - start) // self.dilation[axis]), 0, kernel)
            for end in ((size, 0) if inside else (size + self.after[axis],))
        ]
        return taps_before[0] - taps_before[1] if inside else taps_before[0]

    def _reach(self, kernel: Pair) -> Pair:
        """Returns the number of bottom cells from a window's first tap to its last."""
        y, x = (d * (k - 1) + 1 for k, d in zip(kernel, self.dilation, strict=True))
        return y, x

    @property
    def narrow(self) -> Narrow:
        """A maximum is one of the values; a mean adds up many, and a mask has indices."""
        return Narrow.INFER if self.method == "MAX" and self._tops == 1 else Narrow.DENY

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Pools (VALID) the bottom, padded at its end to Caffe's rounded size, which is computed at run time."""
        tf = import_tensorflow()
        x = bottoms[0]
        if self.global_pooling:
            return self._global(tf, x)
        size = tf.shape(x)[1:3]
        reach, stride, pad = (tf.constant(v) for v in (self._reach(self.kernel), self.stride, self.pad))
        cells = tf.stack(self._cells(size[0], size[1], tf.minimum, tf.maximum))
        # Negative if floor rounding or a stride above the kernel leaves cells unread: VALID leaves them too.
        after = tf.maximum((cells - 1) * stride + reach - size - pad, 0)
        around = tf.pad(tf.stack([pad, after], axis=1), [[1, 1], [0, 0]])
        if self.method == "MAX":
            # NaN and -inf are not greater than -FLT_MAX: they never are the maximum.
            least = x.dtype.min  # -FLT_MAX, or its counterpart in 16 bits
            clean = tf.where(x > least, x, least)
            padded = _keep_channels(tf.pad(clean, around, constant_values=least), x)
            top = self._pool(tf, padded)
            if self._tops == 1:
                return [top]
            plane = _keep_channels(tf.pad(_plane(tf, size)[None, :, :, None], around), x[:1, :, :, :1])
            windows, places = (
                tf.image.extract_patches(a, [1, *self.kernel, 1], [1, *self.stride, 1], [1, 1, 1, 1], "VALID")
                for a in (padded, plane)
            )
            # [N, h, w, taps, C] and [1, h, w, taps, 1]
            windows = tf.reshape(windows, tf.concat([tf.shape(top)[:3], [-1, x.shape[-1]]], axis=0))
            return [top, _first(tf, windows, top[:, :, :, None], places[..., None])]
        mean = self._pool(tf, _keep_channels(tf.pad(x, around), x))
        rows, columns = (tf.cast(self._divisors(tf, size[a], cells[a], axis=a), x.dtype) for a in (0, 1))
        taps_over_counts = self.kernel[0] * self.kernel[1] / (rows[:, None] * columns[None, :])
        return [mean * taps_over_counts[None, :, :, None]]

    def _divisors(self, tf: ModuleType, size: Tensor, cells: Tensor, *, axis: int) -> Tensor:
        """Returns what `_counts` returns."""
        start = tf.range(cells) * self.stride[axis] - self.pad[axis]

        def before(end: Tensor) -> Tensor:
            return tf.clip_by_value(-(-(end - start) // self.dilation[axis]), 0, self.kernel[axis])

        return before(size) - before(0) if self.method == _INSIDE else before(size + self.after[axis])

    def _pool(self, tf: ModuleType, padded: Tensor) -> Tensor:
        """Returns the maximum or mean of whole windows."""
        if max(self.dilation) == 1:
            pool = tf.nn.max_pool2d if self.method == "MAX" else tf.nn.avg_pool2d
            return pool(padded, self.kernel, self.stride, "VALID")
        # tf.nn.pool pools each phase of the map (space to batch): 2 to 5 times faster than maxima of slices.
        kind = "MAX" if self.method == "MAX" else "AVG"
        top = tf.nn.pool(padded, self.kernel, kind, padding="VALID", dilations=self.dilation)
        top = _keep_channels(top, padded)
        return top[:, :: self.stride[0], :: self.stride[1]] if max(self.stride) > 1 else top

    def _global(self, tf: ModuleType, x: Tensor) -> list[Tensor]:
        if self.method != "MAX":
            return [tf.reduce_mean(x, axis=(1, 2), keepdims=True)]
        clean = tf.where(x > x.dtype.min, x, x.dtype.min)
        top = tf.reduce_max(clean, axis=(1, 2), keepdims=True)
        if self._tops == 1:
            return [top]
        shape = tf.shape(x)
        window = tf.reshape(clean, [shape[0], 1, 1, -1, x.shape[-1]])
        places = tf.reshape(_plane(tf, shape[1:3]), [1, 1, 1, -1, 1])
        return [top, _first(tf, window, top[:, :, :, None], places)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses MaxPool or AveragePool, with attributes alone where these have Caffe's rounding at every size.

        Otherwise the bottom is padded at its end to Caffe's size, which is computed at run time unless it is known.
        """
        x = bottoms[0]
        if self.global_pooling:
            return pool_globally(graph, x, maximum=self.method == "MAX", tops=self._tops)
        window = PoolWindow(
            self.method == "MAX",
            self.kernel,
            self.stride,
            self.pad,
            self.after,
            self.dilation,
            inside=self.method == _INSIDE,
        )
        plain = self.coarse is None and max(self.dilation) == 1 and (not self.ceil or window.starts_inside())
        cells = None if plain else self._cells(size_of(graph, x, 2), size_of(graph, x, 3), smaller, larger)
        return pool(graph, x, window, cells=cells, ceil=self.ceil, tops=self._tops)


def _plane(tf: ModuleType, size: Tensor) -> Tensor:
    """Returns [H, W] int32: y * W + x at every place."""
    return tf.reshape(tf.range(size[0] * size[1]), size)


def _first(tf: ModuleType, windows: Tensor, largest: Tensor, places: Tensor) -> Tensor:
    """Returns [N, h, w, C]: the first of the `places` of each window (axis 3) that holds its largest value, or -1.

    Places rise along a window, so the first is the least; `tf.nn.max_pool_with_argmax` guarantees no order.
    """
    none = tf.int32.max
    first = tf.reduce_min(tf.where((windows == largest) & (largest > -FLT_MAX), places, none), axis=3)
    return tf.cast(tf.where(first == none, -1, first), windows.dtype)


def _keep_channels(padded: Tensor, x: Tensor) -> Tensor:
    """Restores the static batch and channels, which TensorFlow loses when padding is computed at run time."""
    padded.set_shape([x.shape[0], None, None, x.shape[-1]])
    return padded


def _end_padding(size: Sequence[int], kernel: Pair, *, stride: Pair, pad: Pair, cells: Pair) -> Pair:
    """Returns the cells to add at the end of each axis so that every window is complete."""
    y, x = (
        max((n - 1) * s + k - length - p, 0)
        for length, k, s, p, n in zip(size, kernel, stride, pad, cells, strict=True)
    )
    return y, x
