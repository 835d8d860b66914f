"""Cases of layers that change the size of a map: cell by cell, places in float32 where the fork has them in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.support.definitions import data, layer
from tests.support.dialects.case import Case, Truth, Values

_SYNOPSYS = "synopsys-caffe, src/caffe/layers"
_DEEPLAB = "hszhao/PSPNet, src/caffe/util/interp.cpp and interp_layer.cpp"
F = np.float32


def interp(rows: int, columns: int, before: int = 0, after: int = 0) -> Truth:
    """caffe_cpu_interp2: to so many rows and columns, from the bottom without its first and last cells."""

    def places(cells: int, top: int) -> list[tuple[int, int, float]]:
        ratio = F(cells - 1) / F(top - 1) if top > 1 else F(0)
        out = []
        for o in range(top):
            real = ratio * F(o)
            low = int(real)
            out.append((low, low + (1 if low < cells - 1 else 0), float(F(real - F(low)))))
        return out

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        x = bottoms[0]
        height, width = (n - before - after for n in x.shape[2:])
        out = np.empty((*x.shape[:2], rows, columns))
        for i, (y0, y1, v) in enumerate(places(height, rows)):
            for j, (x0, x1, u) in enumerate(places(width, columns)):
                a, b, c, d = (x[:, :, before + y, before + z] for y in (y0, y1) for z in (x0, x1))
                out[:, :, i, j] = (1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * c + u * d)
        return [out]

    return truth


def repeat(factor: int) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        x = bottoms[0]
        out = np.empty((*x.shape[:2], x.shape[2] * factor, x.shape[3] * factor))
        for i, j in np.ndindex(*out.shape[2:]):
            out[:, :, i, j] = x[:, :, i // factor, j // factor]
        return [out]

    return truth


def unpool(rows: int, columns: int) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        x, mask = bottoms
        out = np.zeros((*x.shape[:2], rows * columns))
        for place in np.ndindex(*x.shape):
            if mask[place] >= 0:
                out[(*place[:2], int(mask[place]))] = x[place]
        return [out.reshape(*x.shape[:2], rows, columns)]

    return truth


def resize(
    axes: tuple[int, int], sizes: tuple[int, int], place: Callable[[int, int, int], tuple[int, int, float]]
) -> Truth:
    """`place(o, cells, top)` returns the two cells that cell o lies between, and the weight of the second."""

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        out = bottoms[0]
        for axis, top in zip(axes, sizes, strict=True):
            x = np.moveaxis(out, axis, 0)
            rows = []
            for o in range(top):
                low, high, weight = place(o, len(x), top)
                rows.append(x[low] * (1 - weight) + x[high] * weight)
            out = np.moveaxis(np.stack(rows), 0, axis)
        return [out]

    return truth


def nearest(mode: str) -> Callable[[int, int, int], tuple[int, int, float]]:
    def place(o: int, cells: int, top: int) -> tuple[int, int, float]:
        if mode == "align_corners" and top > 1:
            at = math.floor(float(F(o) * (F(cells - 1) / F(top - 1))) + 0.5)
        elif mode == "half_pixel_centers":
            at = math.floor((F(o) + F(0.5)) * (F(cells) / F(top)))
        else:
            at = math.floor(F(o) * (F(cells) / F(top)))
        at = max(min(at, cells - 1), 0)
        return at, at, 0.0

    return place


def bilinear(mode: str) -> Callable[[int, int, int], tuple[int, int, float]]:
    def place(o: int, cells: int, top: int) -> tuple[int, int, float]:
        scale = F(cells - 1) / F(top - 1) if mode == "align_corners" and top > 1 else F(cells) / F(top)
        real = F(o) * scale
        if mode in ("half_pixel_centers", "pytorch_half_pixel"):
            real = (F(o) + F(0.5)) * scale - F(0.5)
        if mode == "pytorch_half_pixel" and top == 1:
            real = F(-0.5)
        low = math.floor(real)
        return max(low, 0), min(math.ceil(real), cells - 1), float(F(real - F(low)))

    return place


def _interp(name: str, shape: Sequence[int], fields: str, top: tuple[int, int], cut: tuple[int, int] = (0, 0)) -> Case:
    text = data(*shape) + layer("Interp", "top", "data", interp_param=fields)
    return Case(f"interp_{name}", text, interp(*top, *cut), _DEEPLAB)


def _like(shape: Sequence[int], like: Sequence[int]) -> Case:
    text = data(*shape, name="x") + data(*like, name="like") + layer("Interp", "top", "x like")
    source = "xiamenwcy/extended-caffe, src/caffe/layers/interp_layer.cpp"
    return Case("interp_like", text, interp(like[2], like[3]), source)


def _upsample(index: int, shape: Sequence[int], factor: int) -> Case:
    text = data(*shape) + layer("Upsample", "top", "data", upsample_param=f"scale: {factor}")
    return Case(f"upsample_{index}", text, repeat(factor), "MobileNet-YOLO, src/caffe/layers/upsample_layer.cpp")


def _darknet(index: int, shape: Sequence[int], factor: int) -> Case:
    text = data(*shape) + layer("UpsampleDarknet", "top", "data", upsample_darknet_param=f"stride: {factor}")
    return Case(f"upsample_darknet_{index}", text, repeat(factor), f"{_SYNOPSYS}/upsample_darknet_layer.cpp")


def _unpool(name: str, shape: Sequence[int], fields: str, top: tuple[int, int], window: int = 2) -> Case:
    """The mask that a pooling of so many cells with stride 2 has: a place in each window that lies in the plane."""
    rng = np.random.default_rng(len(name))
    mask = np.empty(shape)
    for place in np.ndindex(*shape):
        cells = [(2 * place[2] + i, 2 * place[3] + j) for i in range(window) for j in range(window)]
        inside = [y * top[1] + x for y, x in cells if y < top[0] and x < top[1]]
        mask[place] = rng.choice(inside)
    if name == "nothing":
        mask[0, 0, 0, 0] = -1
    text = (
        data(*shape, name="x") + data(*shape, name="mask") + layer("Upsample", "top", "x mask", upsample_param=fields)
    )
    source = "alexgkendall/caffe-segnet, src/caffe/layers/upsample_layer.cpp"
    return Case(f"unpool_{name}", text, unpool(*top), source, inputs={"mask": mask})


def _resize(kind: str, name: str, shape: Sequence[int], fields: str, top: tuple[int, int], mode: str = "") -> Case:
    axes = (2, 3) if "NCHW" in fields else (1, 2)
    parameter = "resize_nearest_neighbor_param" if kind == "ResizeNearestNeighbor" else "resize_bilinear_param"
    place = nearest(mode) if kind == "ResizeNearestNeighbor" else bilinear(mode)
    text = data(*shape) + layer(kind, "top", "data", **{parameter: fields + (f" {mode}: true" if mode else "")})
    stem = parameter.removesuffix("_param")
    return Case(f"{stem}_{name}", text, resize(axes, top, place), f"{_SYNOPSYS}/{stem}_layer.cpp")


_NCHW = 'data_format: "NCHW"'


def _resizes(kind: str) -> list[Case]:
    return [
        _resize(kind, "0", (1, 2, 3, 4), f"{_NCHW} scale_height: 2 scale_width: 3", (6, 12)),
        _resize(kind, "1", (2, 3, 5, 7), f"{_NCHW} output_height: 8 output_width: 3", (8, 3)),
        _resize(kind, "2", (1, 4, 6, 3), "output_height: 7 scale_width: 1.5", (7, 9)),
        _resize(kind, "corners", (1, 2, 4, 5), f"{_NCHW} output_height: 7 output_width: 1", (7, 1), "align_corners"),
        _resize(kind, "half", (1, 2, 4, 5), f"{_NCHW} scale_height: 2 scale_width: 0.5", (8, 2), "half_pixel_centers"),
    ]


CASES = (
    _interp("0", (1, 2, 3, 4), "zoom_factor: 4", (9, 13)),
    _interp("1", (2, 3, 7, 5), "shrink_factor: 2", (4, 3)),
    _interp("2", (1, 2, 6, 6), "height: 11 width: 4", (11, 4)),
    _interp("shrink_uneven", (1, 2, 6, 8), "shrink_factor: 3", (2, 3)),
    _interp("both", (1, 2, 7, 9), "shrink_factor: 2 zoom_factor: 3", (10, 13)),
    _interp("pads", (2, 2, 6, 7), "zoom_factor: 2 pad_beg: -1 pad_end: -2", (5, 7), (1, 2)),
    _interp("one", (1, 3, 1, 1), "height: 3 width: 2", (3, 2)),
    _interp("to_one", (1, 3, 4, 5), "height: 1 width: 1", (1, 1)),
    _interp("zoom_goes_first", (1, 2, 3, 3), "height: 4 width: 4 zoom_factor: 2", (5, 5)),
    _interp("full_zoom", (1, 2, 3, 5), "full_zoom_factor: 2", (6, 10)),
    _like((1, 2, 4, 3), (1, 5, 7, 9)),
    _upsample(0, (1, 2, 3, 4), 2),
    _upsample(1, (2, 3, 2, 1), 3),
    _upsample(2, (1, 4, 1, 5), 1),
    _darknet(0, (1, 2, 3, 4), 2),
    _darknet(1, (2, 3, 2, 1), 4),
    _darknet(2, (1, 1, 5, 5), 3),
    _unpool("0", (1, 2, 3, 4), "scale: 2", (6, 8)),
    _unpool("1", (2, 3, 2, 3), "scale: 2 pad_out_h: true pad_out_w: true", (3, 5)),
    _unpool("2", (1, 2, 3, 3), "upsample_h: 5 upsample_w: 6", (5, 6)),
    _unpool("two_for_one_place", (1, 2, 4, 4), "upsample_h: 8 upsample_w: 8", (8, 8), window=3),
    _unpool("nothing", (1, 1, 2, 2), "scale_h: 2 scale_w: 3", (4, 6)),
    *_resizes("ResizeNearestNeighbor"),
    *_resizes("ResizeBilinear"),
    _resize(
        "ResizeBilinear",
        "pytorch",
        (1, 2, 4, 5),
        f"{_NCHW} scale_height: 3 output_width: 1",
        (12, 1),
        "pytorch_half_pixel",
    ),
)
