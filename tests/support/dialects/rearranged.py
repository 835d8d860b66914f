"""Cases of layers that move values: index by index, as the forks' loops do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.support.definitions import data, layer
from tests.support.dialects.case import Case, Truth, Values

_SYNOPSYS = "synopsys-caffe, src/caffe/layers"


def permute(order: Sequence[int]) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        axes = list(order) + [axis for axis in range(x.ndim) if axis not in order]
        out = np.empty([x.shape[axis] for axis in axes])
        for place in np.ndindex(*out.shape):
            source = [0] * x.ndim
            for axis, index in zip(axes, place, strict=True):
                source[axis] = index
            out[place] = x[tuple(source)]
        return [out]

    return truth


def shuffle(group: int) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        out = np.empty_like(x)
        columns = x.shape[1] // group
        for i in range(group):
            for j in range(columns):
                out[:, j * group + i] = x[:, i * columns + j]
        return [out]

    return truth


def pixel_shuffle(r: int) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        n, channels, height, width = x.shape
        out = np.empty((n, channels // r**2, height * r, width * r))
        for b, c, h, w in np.ndindex(*x.shape):
            out[b, c // (r * r), h * r + c // r % r, w * r + c % (r * r) % r] = x[b, c, h, w]
        return [out]

    return truth


def reorg(stride: int, reverse: bool = False) -> Truth:
    """reorg_cpu of Darknet, on flat indices; Caffe's `reverse` is its `forward`."""

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        n, c, h, w = x.shape
        flat, out = x.ravel(), np.empty(x.size)
        out_c = c // (stride * stride)
        for b, k, j, i in np.ndindex(n, c, h, w):
            in_index = i + w * (j + h * (k + c * b))
            offset = k // out_c
            w2 = i * stride + offset % stride
            h2 = j * stride + offset // stride
            out_index = w2 + w * stride * (h2 + h * stride * (k % out_c + out_c * b))
            if reverse:
                out[out_index] = flat[in_index]
            else:
                out[in_index] = flat[out_index]
        s = stride
        return [out.reshape((n, c // s**2, h * s, w * s) if reverse else (n, c * s**2, h // s, w // s))]

    return truth


def flat(shape: Sequence[int]) -> Truth:
    """The same values in the same order."""

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        return [np.array(list(bottoms[0].ravel())).reshape(shape)]

    return truth


def _permute(name: str, shape: Sequence[int], order: Sequence[int]) -> Case:
    text = data(*shape) + layer("Permute", "top", "data", permute_param=" ".join(f"order: {axis}" for axis in order))
    return Case(f"permute_{name}", text, permute(order), "weiliu89/caffe (ssd), src/caffe/layers/permute_layer.cpp")


def _shuffle(index: int, shape: Sequence[int], group: int) -> Case:
    text = data(*shape) + layer("ShuffleChannel", "top", "data", shuffle_channel_param=f"group: {group}")
    source = "farmingyard/ShuffleNet, shuffle_channel_layer.cpp, as caffe-ssd-windows has it"
    return Case(f"shuffle_channel_{index}", text, shuffle(group), source)


def _pixel_shuffle(index: int, shape: Sequence[int], factor: int, as_reshape: bool = False) -> Case:
    kind, parameters, name, source = (
        ("Reshape", {"reshape_param": f"pixelshuffler: {factor}"}, "pixelshuffler", f"{_SYNOPSYS}/reshape_layer.cpp")
        if as_reshape
        else (
            "PixelShuffle",
            {"pixelshuffle_param": f"upscale_factor: {factor}"},
            "pixel_shuffle",
            "inisis/caffe, src/caffe/layers/pixelshuffle_layer.cpp",
        )
    )
    return Case(
        f"{name}_{index}", data(*shape) + layer(kind, "top", "data", **parameters), pixel_shuffle(factor), source
    )


def _reorg(name: str, shape: Sequence[int], stride: int, reverse: bool = False) -> Case:
    fields = f"stride: {stride}" + (" reverse: true" if reverse else "")
    text = data(*shape) + layer("Reorg", "top", "data", reorg_param=fields)
    source = "gklz1982/caffe-yolov2, src/caffe/layers/reorg_layer.cpp, and Darknet's reorg_cpu"
    return Case(f"reorg_{name}", text, reorg(stride, reverse), source)


def _squeeze(index: int, shape: Sequence[int], axes: str, top: Sequence[int]) -> Case:
    parameters = {"squeeze_param": axes} if axes else {}
    text = data(*shape) + layer("Squeeze", "top", "data", **parameters)
    return Case(f"squeeze_{index}", text, flat(top), f"{_SYNOPSYS}/squeeze_layer.cpp")


CASES = (
    _permute("0", (1, 3, 4, 5), (0, 2, 3, 1)),
    _permute("1", (2, 4, 3, 2), (0, 3, 1, 2)),
    _permute("2", (3, 5, 2), (1, 0, 2)),
    _permute("some", (2, 3, 4, 5), (0, 2)),
    _permute("none", (2, 3, 4, 5), (0, 1, 2, 3)),
    _shuffle(0, (1, 6, 3, 4), 2),
    _shuffle(1, (2, 12, 2, 1), 3),
    _shuffle(2, (3, 8), 4),
    _pixel_shuffle(0, (1, 4, 3, 4), 2),
    _pixel_shuffle(1, (2, 18, 2, 3), 3),
    _pixel_shuffle(2, (1, 12, 1, 5), 2),
    _pixel_shuffle(0, (1, 8, 3, 4), 2, as_reshape=True),
    _pixel_shuffle(1, (2, 9, 2, 3), 3, as_reshape=True),
    _pixel_shuffle(2, (3, 4, 4, 1), 2, as_reshape=True),
    _reorg("0", (1, 8, 4, 6), 2),
    _reorg("1", (2, 4, 6, 2), 2),
    _reorg("2", (1, 18, 3, 6), 3),
    _reorg("reverse_0", (1, 8, 2, 3), 2, reverse=True),
    _reorg("reverse_1", (2, 18, 3, 1), 3, reverse=True),
    _reorg("reverse_2", (1, 16, 2, 2), 2, reverse=True),
    _squeeze(0, (2, 5, 1, 1), "axis: 2 axis: 3", (2, 5)),
    _squeeze(1, (1, 4, 1, 3), "axis: -2", (1, 4, 3)),
    _squeeze(2, (3, 1, 6, 1), "", (3, 6)),
)
