"""Cases of layers that map values one by one, or by channel: relu6, and where eps is added."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tests.support.definitions import data, layer
from tests.support.dialects.case import Case, Truth, Values

_SYNOPSYS = "synopsys-caffe, src/caffe/layers"
_SHAPES = ((1, 3, 4, 5), (2, 2, 6, 1), (3, 5, 1, 1))


def relu6(slope: float) -> Truth:
    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        values = [max(v, 0.0) + slope * min(v, 0.0) for v in bottoms[0].ravel()]
        capped = [0.0 if np.isnan(v) else min(v, 6.0) for v in values]
        return [np.reshape(capped, bottoms[0].shape)]

    return truth


def batch_norm(eps: float) -> Truth:
    """add_eps_before_sqrt: false."""

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        mean, variance, (factor,) = blobs
        out = np.empty_like(bottoms[0])
        for channel in range(len(mean)):
            deviation = (variance[channel] / factor) ** 0.5 + eps
            out[:, channel] = (bottoms[0][:, channel] - mean[channel] / factor) / deviation
        return [out]

    return truth


def mvn(eps: float, across: bool) -> Truth:
    """add_eps_before_sqrt: true."""

    def truth(bottoms: Sequence[Values], blobs: Sequence[Values]) -> list[Values]:
        out = bottoms[0].copy()
        for n, c in np.ndindex(*out.shape[:2]):
            part = bottoms[0][n] if across else bottoms[0][n, c]
            out[n, c] = (out[n, c] - part.mean()) / (((part - part.mean()) ** 2).mean() + eps) ** 0.5
        return [out]

    return truth


def _relu(name: str, shape: Sequence[int], slope: float = 0.0) -> Case:
    values = np.random.default_rng(len(name)).normal(0, 5, shape)
    text = f"relu6: true negative_slope: {slope}"
    return Case(
        f"relu6_{name}",
        data(*shape) + layer("ReLU", "relu", "data", relu_param=text),
        relu6(slope),
        f"{_SYNOPSYS}/relu_layer.cpp",
        inputs={"data": values},
    )


def _batch_norm(index: int, shape: Sequence[int]) -> Case:
    rng = np.random.default_rng(index)
    channels = shape[1]
    factor = (1.0, 0.5, 999.0)[index]
    blobs = [rng.normal(0, factor, channels), rng.uniform(0, 0.2 * factor, channels), np.array([factor])]
    return Case(
        f"batchnorm_eps_after_{index}",
        data(*shape)
        + layer(
            "BatchNorm", "bn", "data", batch_norm_param="use_global_stats: true eps: 0.01 add_eps_before_sqrt: false"
        ),
        batch_norm(0.01),
        f"{_SYNOPSYS}/batch_norm_layer.cpp",
        parameters=blobs,
    )


def _mvn(index: int, shape: Sequence[int], across: bool = False) -> Case:
    text = f"eps: 0.1 add_eps_before_sqrt: true across_channels: {str(across).lower()}"
    return Case(
        f"mvn_eps_before_{index}",
        data(*shape) + layer("MVN", "mvn", "data", mvn_param=text),
        mvn(0.1, across),
        f"{_SYNOPSYS}/mvn_layer.cpp",
    )


CASES = (
    *(_relu(str(i), shape) for i, shape in enumerate(_SHAPES)),
    _relu("slope", _SHAPES[0], 0.25),
    *(_batch_norm(i, shape) for i, shape in enumerate(_SHAPES)),
    *(_mvn(i, shape) for i, shape in enumerate(_SHAPES[:2])),
    _mvn(2, _SHAPES[2], across=True),
)
