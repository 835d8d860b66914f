"""Cases of BN, Normalize, L2Norm, Axpy and Eltwise: channel by channel, position by position."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.support.definitions import data, layer
from tests.support.dialects.case import Case, Truth, Values

_SHAPES = ((1, 3, 4, 5), (2, 4, 3, 1), (3, 5, 1, 1))
_SEGNET = "alexgkendall/caffe-segnet, src/caffe/layers/bn_layer.cpp"
_PSPNET = "hszhao/PSPNet, src/caffe/layers/bn_layer.cpp"
_SSD = "weiliu89/caffe (ssd), src/caffe/layers/normalize_layer.cpp"


def bn_inference(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
    out = bottoms[0].copy()
    scale, shift = (blob.ravel() for blob in blobs)
    for c in range(out.shape[1]):
        out[:, c] = out[:, c] * scale[c] + shift[c]
    return [out]


def bn_learn(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
    out = bottoms[0].copy()
    scale, shift = (blob.ravel() for blob in blobs)
    for c in range(out.shape[1]):
        part = out[:, c]
        variance = (part**2).mean() - part.mean() ** 2
        out[:, c] = (part - part.mean()) / (variance + 1e-9) ** 0.5 * scale[c] + shift[c]
    return [out]


def bn_stored(eps: float) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        out = bottoms[0].copy()
        slope, bias, mean, variance = (blob.ravel() for blob in blobs)
        for c in range(out.shape[1]):
            out[:, c] = (out[:, c] - mean[c]) * (variance[c] + eps) ** -0.5 * slope[c] + bias[c]
        return [out]

    return truth


def normalize(across: bool, eps: float, learned: bool = True) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        x = bottoms[0]
        out = np.empty_like(x)
        scale = blobs[0].ravel() if learned else np.ones(1)
        for place in np.ndindex(*x.shape):
            n, c, *position = place
            values = x[n].ravel() if across else x[(n, slice(None), *position)]
            squares = sum(float(v) ** 2 for v in values)
            out[place] = x[place] / (squares + eps) ** 0.5 * scale[c if len(scale) > 1 else 0]
        return [out]

    return truth


def axpy(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
    factor, x, y = bottoms
    out = y.copy()
    for n, c in np.ndindex(*x.shape[:2]):
        out[n, c] += float(factor[n, c].sum()) * x[n, c]  # one value
    return [out]


def scale_items(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
    x, factor = bottoms
    out = x.copy()
    for place in np.ndindex(*factor.shape):
        out[place] = x[place] * factor[place]
    return [out]


def eltwise(operation: str, axis: int, coefficients: Sequence[float] = (1.0, 1.0)) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        first, second = bottoms
        out = np.empty_like(first)
        for place in np.ndindex(*first.shape):
            a, b = first[place], second[place[axis : axis + second.ndim]]
            values = {"PROD": a * b, "MAX": max(a, b), "SUM": coefficients[0] * a + coefficients[1] * b}
            out[place] = values[operation]
        return [out]

    return truth


def _bn(name: str, index: int, shape: Sequence[int], fields: str, truth: Truth) -> Case:
    rng = np.random.default_rng(index)
    blobs = [rng.normal(1, 0.5, shape[1]), rng.normal(0, 1, shape[1])]
    if name == "pspnet":
        blobs += [rng.normal(0, 1, shape[1]), rng.uniform(0.1, 2, shape[1])]
    return Case(
        f"bn_{name}_{index}",
        data(*shape) + layer("BN", "top", "data", bn_param=fields),
        truth,
        _PSPNET if name == "pspnet" else _SEGNET,
        seed=index,
        parameters=[blob.reshape(1, -1, 1, 1) for blob in blobs],
    )


def _chosen_bn(dialect: str, truth: Truth, blobs: int) -> Case:
    """No field tells which: the dialect does."""
    rng = np.random.default_rng(blobs)
    return Case(
        f"bn_dialect_{dialect}",
        data(2, 3, 4, 2) + layer("BN", "top", "data"),
        truth,
        _PSPNET if blobs == 4 else _SEGNET,
        dialect=dialect,
        parameters=[rng.uniform(0.5, 2, (1, 3, 1, 1)) for _ in range(blobs)],
    )


def _normalize(name: str, shape: Sequence[int], across: bool, shared: bool, eps: float | None = None) -> Case:
    fields = f"across_spatial: {str(across).lower()} channel_shared: {str(shared).lower()}"
    text = data(*shape) + layer("Normalize", "top", "data", norm_param=fields + (f" eps: {eps}" if eps else ""))
    blob = np.random.default_rng(3).uniform(5, 20, () if shared else shape[1])
    return Case(f"normalize_{name}", text, normalize(across, eps or 1e-10), _SSD, parameters=[blob])


def _l2norm(name: str, shape: Sequence[int], fields: str, across: bool) -> Case:
    parameters = {"norm_param": fields} if fields else {}
    source = "Ultinous/caffe, src/caffe/layers/l2norm_layer.cpp, and others' l2_norm_layer.cpp"
    text = data(*shape) + layer("L2Norm", "top", "data", **parameters)
    return Case(f"l2norm_{name}", text, normalize(across, 0.0, learned=False), source)


def _axpy(index: int, shape: Sequence[int], factor: Sequence[int]) -> Case:
    text = data(*factor, name="a") + data(*shape, name="x") + data(*shape, name="y") + layer("Axpy", "top", "a x y")
    return Case(f"axpy_{index}", text, axpy, "hujie-frank/SENet, src/caffe/layers/axpy_layer.cpp", seed=index)


def _scale(index: int, shape: Sequence[int], factor: Sequence[int]) -> Case:
    text = data(*shape, name="x") + data(*factor, name="a") + layer("Scale", "top", "x a", scale_param="axis: 0")
    return Case(f"scale_items_{index}", text, scale_items, "BVLC/caffe, src/caffe/layers/scale_layer.cpp", seed=index)


def _eltwise(index: int, shape: Sequence[int], second: Sequence[int], fields: str, truth: Truth) -> Case:
    text = data(*shape, name="x") + data(*second, name="a") + layer("Eltwise", "top", "x a", eltwise_param=fields)
    source = "synopsys-caffe, src/caffe/layers/eltwise_layer.cpp"
    return Case(f"eltwise_repeats_{index}", text, truth, source, seed=index)


CASES = (
    *(_bn("segnet", i, shape, "bn_mode: INFERENCE", bn_inference) for i, shape in enumerate(_SHAPES)),
    *(_bn("segnet_learn", i, shape, "scale_filler { value: 1 }", bn_learn) for i, shape in enumerate(_SHAPES[:2])),
    _bn("segnet_learn", 2, (2, 5, 3, 3), "shift_filler { value: 0.001 } bn_mode: LEARN", bn_learn),
    _bn("pspnet", 0, _SHAPES[0], "frozen: true", bn_stored(float(np.float32(1e-5)))),
    _bn("pspnet", 1, _SHAPES[1], "slope_filler { value: 1 } eps: 0.125 momentum: 0.95", bn_stored(0.125)),
    _bn("pspnet", 2, _SHAPES[2], "bias_filler { value: 0 } engine: CUDNN", bn_stored(float(np.float32(1e-5)))),
    _chosen_bn("segnet", bn_learn, 2),
    _chosen_bn("pspnet", bn_stored(float(np.float32(1e-5))), 4),
    _normalize("0", _SHAPES[0], across=False, shared=False),
    _normalize("1", _SHAPES[1], across=False, shared=True),
    _normalize("2", (2, 7), across=False, shared=False),
    _normalize("across_0", _SHAPES[0], across=True, shared=True),
    _normalize("across_1", _SHAPES[1], across=True, shared=False, eps=0.5),
    _normalize("across_2", _SHAPES[2], across=True, shared=True),
    Case(
        "normalize_dialect_happynear",
        data(2, 3, 2, 2) + layer("Normalize", "top", "data"),
        normalize(True, 0.0, learned=False),
        "happynear/caffe-windows, src/caffe/layers/normalize_layer.cpp",
        dialect="caffe-windows",
    ),
    _l2norm("0", (3, 6), "", across=True),
    _l2norm("1", (2, 5, 1, 1), "", across=True),
    _l2norm("2", (2, 3, 4, 2), "across_spatial: false", across=False),
    _l2norm("3", (2, 3, 4, 2), "across_spatial: true", across=True),
    _axpy(0, (1, 3, 4, 5), (1, 3, 1, 1)),
    _axpy(1, (2, 4, 3, 1), (2, 4)),
    _axpy(2, (3, 2, 2, 2), (3, 2, 1, 1)),
    _scale(0, (1, 3, 4, 5), (1, 3)),
    _scale(1, (2, 4, 3, 1), (2, 4)),
    _scale(2, (3, 2, 2), (3,)),
    _eltwise(0, (1, 3, 4, 5), (1, 3), "operation: PROD", eltwise("PROD", 0)),
    _eltwise(1, (2, 4, 3, 2), (4,), "axis: 1 coeff: 1 coeff: -0.5", eltwise("SUM", 1, (1, -0.5))),
    _eltwise(2, (2, 3, 4), (4,), "axis: -1 operation: MAX", eltwise("MAX", 2)),
)
