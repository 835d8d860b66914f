"""Cases of the activations that forks have: value by value."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from tests.support.definitions import data, layer
from tests.support.dialects.case import Case, Truth, Values

_SYNOPSYS = "synopsys-caffe, src/caffe/layers"
_YOLO = "MobileNet-YOLO, src/caffe/layers"
_SHAPES = ((1, 3, 4, 5), (2, 2, 6, 1), (4, 7))


def each(function: Callable[[float], float]) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        return [np.reshape([function(float(v)) for v in bottoms[0].ravel()], bottoms[0].shape)]

    return truth


def crelu(axis: int, slope: float) -> Truth:
    """Row by row of the axes before `axis`: the values, then their negatives."""

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        (x,) = bottoms
        count = math.prod(x.shape[axis:])
        out: list[float] = []
        for start in range(0, x.size, count):
            row = x.ravel()[start : start + count]
            for sign in (1, -1):
                out += [max(sign * v, 0.0) + slope * min(sign * v, 0.0) for v in row]
        shape = list(x.shape)
        shape[axis] *= 2
        return [np.reshape(out, shape)]

    return truth


def _hard_sigmoid(alpha: float, beta: float) -> Callable[[float], float]:
    def function(x: float) -> float:
        value = alpha * x + beta
        return 0.0 if value <= 0 else 1.0 if value > 1 else value

    return function


def _mish(x: float) -> float:
    soft = math.log1p(math.exp(x)) if x < 30 else x
    return x * (2 / (1 + math.exp(-2 * soft)) - 1)


def _selu(scale: float, alpha: float) -> Callable[[float], float]:
    return lambda x: scale * x if x > 0 else scale * alpha * (math.exp(x) - 1)


_LAMBDA, _ALPHA = (float(np.float32(v)) for v in (1.050700987, 1.67326324))
_KINDS: dict[str, tuple[str, dict[str, str], Callable[[float], float], str]] = {
    "relu6_type": ("ReLU6", {}, lambda x: min(max(x, 0.0), 6.0), f"{_YOLO}/relu6_layer.cpp"),
    "relu6_type_slope": (
        "ReLU6",
        {"relu6_param": "negative_slope: 0.125"},
        lambda x: min(max(x, 0.0) + 0.125 * min(x, 0.0), 6.0),
        f"{_YOLO}/relu6_layer.cpp",
    ),
    "hard_sigmoid": (
        "HardSigmoid",
        {},
        _hard_sigmoid(float(np.float32(0.2)), 0.5),
        f"{_SYNOPSYS}/hard_sigmoid_layer.cpp",
    ),
    "hard_sigmoid_other": (
        "HardSigmoid",
        {"hard_sigmoid_param": "alpha: 0.75 beta: 0.25"},
        _hard_sigmoid(0.75, 0.25),
        f"{_SYNOPSYS}/hard_sigmoid_layer.cpp",
    ),
    "hard_swish": (
        "HardSwish",
        {},
        lambda x: x * min(max(x + 3.0, 0.0), 6.0) / 6.0,
        f"{_SYNOPSYS}/hard_swish_layer.cpp",
    ),
    "mish": ("Mish", {}, _mish, f"{_SYNOPSYS}/mish_layer.cpp"),
    "selu": ("SELU", {}, _selu(_LAMBDA, _ALPHA), f"{_SYNOPSYS}/selu_layer.cpp"),
    "selu_synopsys": (
        "SeLU",
        {"selu_param": "lambda: 2 alpha: 0.5"},
        _selu(2, 0.5),
        f"{_SYNOPSYS}/selu_layer.cpp",
    ),
}


def _case(name: str, index: int, shape: Sequence[int]) -> Case:
    kind, parameters, function, source = _KINDS[name]
    values = np.random.default_rng(index).normal(0, 4, shape)
    text = data(*shape) + layer(kind, "top", "data", **parameters)
    return Case(f"{name}_{index}", text, each(function), source, inputs={"data": values})


def _crelu(name: str, shape: Sequence[int], axis: int = 1, slope: float = 0.0) -> Case:
    fields = f"concat_axis: {axis} negative_slope: {slope}" if axis != 1 or slope else ""
    parameters = {"crelu_param": fields} if fields else {}
    return Case(
        f"crelu_{name}",
        data(*shape) + layer("CReLU", "top", "data", **parameters),
        crelu(axis % len(shape), slope),
        "caffe_pushpush, src/caffe/layers/crelu_layer.cpp (Shang et al. 2016)",
    )


CASES = (
    *(_case(name, index, shape) for name in _KINDS for index, shape in enumerate(_SHAPES)),
    *(_crelu(str(index), shape) for index, shape in enumerate(_SHAPES)),
    _crelu("slope", _SHAPES[0], slope=0.25),
    _crelu("rows", _SHAPES[0], axis=-2),
)
