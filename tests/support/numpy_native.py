"""The extension `densecast_native` in plain NumPy: what the operations mean, in float64 between float32 blobs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from pipeline.engines.native import program

__version__ = "numpy"


def isas() -> list[str]:
    return ["numpy"]


FLT_MAX = np.finfo(np.float32).max


class ThreadPool:
    def __init__(self, threads: int, isa: str | None = None) -> None:
        self.isa = isa or "numpy"


class Filters:
    def __init__(self, pool: ThreadPool, weights: np.ndarray, vertical: Any, horizontal: Any) -> None:
        self.weights = weights.astype(np.float64)
        if vertical is not None:
            self.weights = np.einsum("ta,ub,gabio->gtuio", vertical, horizontal, self.weights)
        self.weights = self.weights.astype(np.float32).astype(np.float64)
        self.nbytes = self.weights.size * 4


class Program:
    def __init__(self, pool: ThreadPool, operations: Sequence[Any], results: Sequence[Any], arena: int) -> None:
        self.operations, self.results, self.arena = operations, results, arena

    def run(self, images: Sequence[np.ndarray], arrays: Sequence[np.ndarray]) -> None:
        # What no operation writes must not be read.
        arena = np.full(self.arena, np.nan, np.float32)
        for operation in self.operations:
            run_operation(operation, arena, images)
        remaining = iter(arrays)
        for result in self.results:
            values = [view(arena, result.bottom, i) for i in range(len(images))]
            if isinstance(result, program.TopK):
                order = [np.argsort(-v, axis=-1, kind="stable")[..., : result.k] for v in values]
                for best in order:
                    next(remaining)[...] = best
                values = [np.take_along_axis(v, best, -1) for v, best in zip(values, order, strict=True)]
            for value in values:
                next(remaining)[...] = value


def view(arena: np.ndarray, blob: program.Blob, image: int) -> np.ndarray:
    """[h, w, C] of an image, to be read or written."""
    height, width = blob.heights[image], blob.widths[image]
    start = blob.offsets[image]
    assert start + ((height * width - 1) * blob.stride + blob.channels) <= len(arena)
    return np.lib.stride_tricks.as_strided(
        arena[start:], (height, width, blob.channels), (width * blob.stride * 4, blob.stride * 4, 4)
    )


def run_operation(o: Any, arena: np.ndarray, images: Sequence[np.ndarray]) -> None:
    for i in o.images if isinstance(o, program.Convolution) else range(len(images)):
        top = view(arena, o.top, i)
        if isinstance(o, program.Prepare):
            prepared(o, images[i], top)
            continue
        bottoms = o.bottoms if isinstance(o, program.Eltwise) else (o.bottom,)
        given = [view(arena, bottom, i).astype(np.float64) for bottom in bottoms]
        assert not any(np.isnan(x).any() for x in given), type(o).__name__
        top[...] = VALUES[type(o)](o, *given, size=top.shape[:2])


def prepared(o: program.Prepare, image: np.ndarray, top: np.ndarray) -> None:
    x = image.astype(np.float64)
    if image.dtype == np.uint8:
        if o.luma is not None:
            *weights, one = o.luma
            x = np.floor((x @ np.array(weights) + one // 2) / one)[..., None]
        else:
            x = x[..., list(o.order)]
        x = (x - np.array(o.mean)) * o.scale
    top[...] = in_blocks(x, o.block, o.pad, top.shape[:2])


def in_blocks(x: np.ndarray, block: int, pad: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    channels = x.shape[-1]
    whole = np.zeros((size[0] * block, size[1] * block, channels))
    inside = x[: whole.shape[0] - pad[0], : whole.shape[1] - pad[1]]
    whole[pad[0] : pad[0] + inside.shape[0], pad[1] : pad[1] + inside.shape[1]] = inside
    parted = whole.reshape(size[0], block, size[1], block, channels)
    return parted.transpose(0, 2, 1, 3, 4).reshape(*size, -1)


def convolution(o: program.Convolution, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    filters: Any = o.filters
    weights = filters.weights
    if o.tile is None:
        columns = windows(x, o, size)
        inside = x.shape[-1] // o.groups
        parts = [
            np.einsum("hwabi,abio->hwo", columns[..., g * inside : (g + 1) * inside], weights[g])
            for g in range(o.groups)
        ]
        top = np.concatenate(parts, -1)
    else:
        top = tiled(o, x, weights, size)
    return rectified(top if o.bias is None else top + o.bias, o.slope)


def windows(x: np.ndarray, o: Any, size: tuple[int, int], fill: float = 0.0) -> np.ndarray:
    """[h, w, kh, kw, C]; what lies outside is `fill`."""
    kernel = o.kernel if max(o.kernel) else x.shape[:2]
    index = [
        np.arange(n)[:, None] * s - p + np.arange(k) * d
        for n, s, p, k, d in zip(size, o.stride, o.pad, kernel, o.dilation, strict=True)
    ]
    beyond = [max(int(-i.min()), int(i.max()) + 1 - length, 0) for i, length in zip(index, x.shape, strict=False)]
    padded = np.pad(x, [(beyond[0],) * 2, (beyond[1],) * 2, (0, 0)], constant_values=fill)
    rows, columns = (i + b for i, b in zip(index, beyond, strict=True))
    return padded[rows[:, None, :, None], columns[None, :, None, :]]


def tiled(o: program.Convolution, x: np.ndarray, weights: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    assert o.tile is not None
    sides = [len(t.outputs) for t in o.tile]
    counts = [-(-n // m) for n, m in zip(size, sides, strict=True)]
    spans = [t.inputs.shape[1] for t in o.tile]
    whole = np.zeros([(c - 1) * m + s for c, m, s in zip(counts, sides, spans, strict=True)] + [x.shape[-1]])
    inside = x[: whole.shape[0] - o.pad[0], : whole.shape[1] - o.pad[1]]
    whole[o.pad[0] : o.pad[0] + inside.shape[0], o.pad[1] : o.pad[1] + inside.shape[1]] = inside
    top = np.zeros((counts[0] * sides[0], counts[1] * sides[1], weights.shape[-1] * o.groups))
    channels = x.shape[-1] // o.groups
    for y in range(counts[0]):
        for z in range(counts[1]):
            cut = whole[y * sides[0] :, z * sides[1] :][: spans[0], : spans[1]]
            points = np.einsum("ta,abc->tbc", o.tile.vertical.inputs, cut)
            points = np.einsum("ub,tbc->tuc", o.tile.horizontal.inputs, points)
            parts = points.reshape(*points.shape[:2], o.groups, channels)
            products = np.einsum("tugi,gtuio->tugo", parts, weights).reshape(*points.shape[:2], -1)
            outputs = np.einsum("mt,tuo->muo", o.tile.vertical.outputs, products)
            outputs = np.einsum("nu,muo->mno", o.tile.horizontal.outputs, outputs)
            top[y * sides[0] :, z * sides[1] :][: sides[0], : sides[1]] = outputs
    return top[: size[0], : size[1]]


def depthwise(o: program.DepthwiseConvolution, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    factor = o.weights.shape[-1] // x.shape[-1]
    top = np.einsum("hwabc,abc->hwc", windows(np.repeat(x, factor, -1), o, size), o.weights)
    return rectified(top if o.bias is None else top + o.bias, o.slope)


def pooled(o: program.Pool, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if o.kind == "max":
        return windows(np.where(x > -FLT_MAX, x, -FLT_MAX), o, size, -FLT_MAX).max((2, 3))
    inside = o.inside
    ends = x.shape[:2] if inside else [n + a for n, a in zip(x.shape, o.after, strict=False)]
    kernel = o.kernel if max(o.kernel) else x.shape[:2]
    counts = []
    for axis, n in enumerate(size):
        taps = np.arange(n)[:, None] * o.stride[axis] - o.pad[axis] + np.arange(kernel[axis]) * o.dilation[axis]
        counts.append(((taps < ends[axis]) & ((taps >= 0) | (not inside))).sum(1))
    return windows(x, o, size).sum((2, 3)) / np.outer(*counts)[..., None]


def normalized(o: program.Lrn | program.LrnPool, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    half = o.size // 2
    squares = np.pad(x**2, [(0, 0), (0, 0), (half, half)])
    total = sum(squares[..., i : i + x.shape[-1]] for i in range(o.size))
    top = x * (o.k + o.alpha / o.size * total) ** -o.beta
    if isinstance(o, program.Lrn):
        return top
    return pooled(program.Pool(o.bottom, o.top, "max", o.kernel, o.stride, o.pad, (0, 0)), top, size)


def affine(o: program.Affine, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    x = x if o.scale is None else x * o.scale
    return rectified(x if o.shift is None else x + o.shift, o.slope)


def activation(o: program.Activation, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    p = o.parameters
    with np.errstate(all="ignore"):
        if o.kind in ("relu", "prelu"):
            return np.maximum(x, 0) + (p[0] if o.slopes is None else o.slopes) * np.minimum(x, 0)
        if o.kind == "elu":
            return np.where(x > 0, x, p[0] * np.expm1(np.minimum(x, 0)))
        if o.kind == "power":
            return np.power(p[2] + p[1] * x, p[0])
        if o.kind == "exp":
            return p[1] * np.exp(p[0] * x)
        if o.kind == "log":
            return p[2] * np.log(p[1] + p[0] * x)
        if o.kind == "threshold":
            return np.where(x > p[0], 1.0, 0.0)
        if o.kind == "clip":
            return np.maximum(p[0], np.minimum(x, p[1]))
        if o.kind == "swish":
            return x / (1 + np.exp(-p[0] * x))
        plain = {"sigmoid": lambda: 1 / (1 + np.exp(-x)), "tanh": lambda: np.tanh(x), "abs": lambda: np.abs(x)}
        return plain[o.kind]() if o.kind in plain else np.logaddexp(0, x)


def eltwise(o: program.Eltwise, *given: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    if o.kind == "sum":
        return rectified(sum(c * x for c, x in zip(o.coefficients, given, strict=True)), o.slope)
    return rectified((np.multiply if o.kind == "prod" else np.maximum).reduce(given), o.slope)


def copied(o: program.Copy, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return x[o.start[0] :, o.start[1] :][: size[0], : size[1]]


def softmax(o: program.Softmax, x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rectified(x: np.ndarray, slope: float | None) -> np.ndarray:
    return x if slope is None else np.maximum(x, 0) + slope * np.minimum(x, 0)


VALUES: dict[type, Any] = {
    program.SpaceToDepth: lambda o, x, size: in_blocks(x, o.block, o.pad, size),
    program.Convolution: convolution,
    program.DepthwiseConvolution: depthwise,
    program.Pool: pooled,
    program.Lrn: normalized,
    program.LrnPool: normalized,
    program.Affine: affine,
    program.Activation: activation,
    program.Eltwise: eltwise,
    program.Copy: copied,
    program.Softmax: softmax,
}
