"""Network -> plain operations, with the weights as a model directory keeps them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from conversion.arrays import Array, Shape
from conversion.errors import UnsupportedError
from conversion.export.metadata import ModelMetadata
from conversion.export.plain_operations import (
    PlainActivation,
    PlainAffine,
    PlainConcat,
    PlainConvolution,
    PlainDepthwise,
    PlainEltwise,
    PlainLrn,
    PlainNetwork,
    PlainOperation,
    PlainPart,
    PlainPooling,
    PlainSoftmax,
    PlainStep,
)
from conversion.export.stored_network import check_readable, load_model_network
from conversion.export.weights_store import Weights, read_weights
from conversion.layers.activation import Dropout, PReLU, ReLU, SeLUDropout, Sigmoid, TanH
from conversion.layers.arithmetic import Bias, Eltwise, Scale
from conversion.layers.base import Layer, canonical_axis
from conversion.layers.convolution import Convolution
from conversion.layers.crop import Crop
from conversion.layers.elementary import BNLL, ELU, AbsVal, Clip, Exp, Log, Power, Swish, Threshold
from conversion.layers.io import Input
from conversion.layers.item_norms import BN
from conversion.layers.normalization import LRN, BatchNorm, Softmax
from conversion.layers.pooling import Pooling
from conversion.layers.rectified import SELU, CReLU, HardSigmoid, HardSwish, Mish, OtherSELU, ReLU6, SynopsysSELU
from conversion.layers.slice_concat import Concat, Slice, Split
from conversion.layers.windows import Windows
from conversion.net.network import Network, run
from conversion.passes.cast_names import name_after_cast
from conversion.passes.prune import prune

_INFINITE = math.inf


def plain_network(model: str | Path, metadata: ModelMetadata, blobs: Sequence[str] = ()) -> PlainNetwork:
    """Returns what computes the map of a model, and the blobs, in plain operations; weights are read when used.

    Args:
        model: The model directory.
        metadata: Its `densecast.json`.
        blobs: Blobs that are wanted besides the map, by their own names or by the classifier's.

    Raises:
        UnsupportedError: A layer cannot be expressed in them; the error's `where` names it.
        ModelError: The directory is not a model, or has no weights that can be read without TensorFlow.
    """
    check_readable(model, "the native engine")
    whole = load_model_network(model)
    names = [name_after_cast(blob, whole.shapes) for blob in blobs]
    return to_plain(prune(whole, [metadata.output_blob, *names]), read_weights(model))


def unplain_layer(network: Network, blob: str) -> str:
    """Returns the first layer on the way to a blob that plain operations do not compute, with the reason.

    Args:
        network: Fully convolutional; weights are not needed.
        blob: The blob.

    Returns:
        The layer's name and type, and why; empty if all can be computed.
    """
    needed = prune(network, [blob])
    trace, _ = needed.trace(needed.inputs)
    for layer, (bottoms, tops) in zip(needed.layers, trace, strict=True):
        why = "" if isinstance(layer, Input) else _refusal(layer, [*bottoms, *tops])
        if why:
            return f"{layer.where}: {why}"
    return ""


def to_plain(network: Network, weights: Weights) -> PlainNetwork:
    """Returns a network in plain operations.

    Args:
        network: The network, with one input; its own parameters are ignored.
        weights: For each layer the result of `Layer.prepare`.

    Raises:
        UnsupportedError: See `plain_network`.
    """
    writer = _Writer(network, weights)
    last = run(network.layers, writer.given, writer.apply, lambda value, _: value)
    ((data, _),) = network.inputs.items()
    return PlainNetwork(network, tuple(writer.steps), writer.first[data], tuple(writer.places), last, writer.first)


class _Writer:
    """Writes the steps of a network, layer by layer.

    Attributes:
        steps: See `PlainNetwork`, as the others.
        places: See there.
        first: See there.
    """

    def __init__(self, network: Network, weights: Weights) -> None:
        self._weights = weights
        self._indices = {layer.name: index for index, layer in enumerate(network.layers)}
        trace, _ = network.trace(network.inputs)
        self._shapes = {layer.name: shapes for layer, shapes in zip(network.layers, trace, strict=True)}
        self.steps: list[PlainStep] = []
        self.places: list[tuple[int, int]] = []
        self.first: dict[str, int] = {}

    def given(self, layer: Layer) -> list[int]:
        """Returns the values of an input."""
        return self._noted(layer, [self._value(layer, top) for top in range(len(layer.tops))])

    def apply(self, layer: Layer, bottoms: Sequence[int]) -> list[int]:
        """Returns the tops of a layer; raises UnsupportedError if it cannot be expressed."""
        before, after = self._shapes[layer.name]
        why = _refusal(layer, [*before, *after])
        if why:
            raise UnsupportedError(
                f"{layer.where} is not among the layers of the native engine",
                where=layer.where,
                why=why,
                remedy="use another engine, such as --engine onnxruntime",
            )
        arrays = [np.asarray(array) for array in self._weights.get(layer.name, ())]
        return self._noted(layer, _FORMS[type(layer)](self, layer, list(bottoms), arrays))

    def step(self, layer: Layer, operation: PlainOperation, bottoms: Sequence[int], top: int = 0) -> int:
        """Adds a step, and returns its value, which has the shape of one of the layer's tops."""
        value = self._value(layer, top)
        self.steps.append(PlainStep(operation, tuple(bottoms), value, layer.name))
        return value

    def shapes(self, layer: Layer) -> tuple[list[Shape], list[Shape]]:
        """Returns the shapes of a layer's bottoms and tops at the definition's own size."""
        return self._shapes[layer.name]

    def _value(self, layer: Layer, top: int) -> int:
        self.places.append((self._indices[layer.name], top))
        return len(self.places) - 1

    def _noted(self, layer: Layer, values: list[int]) -> list[int]:
        for top, value in zip(layer.tops, values, strict=True):
            self.first.setdefault(top, value)
        return values


def _refusal(layer: Layer, shapes: Sequence[Shape]) -> str:
    """Returns why a layer cannot be expressed; empty if it can."""
    if type(layer) not in _FORMS:
        return f"no plain operations compute {layer.caffe_type}"
    if any(len(shape) != 4 for shape in shapes):
        return "a blob of it is not a map of four axes"
    return next((why for kind, check in _CHECKS.items() if isinstance(layer, kind) and (why := check(layer))), "")


def _convolution(writer: _Writer, layer: Convolution, bottoms: list[int], arrays: list[Array]) -> list[int]:
    windows = layer.windows(2)
    kernels, bias = (arrays[:-1], arrays[-1]) if layer.bias_term else (arrays, None)
    operation: PlainOperation
    if layer.group > 1 and len(kernels) == 1:  # [kh, kw, C_in, factor]
        operation = PlainDepthwise(windows, kernels[0].reshape(*kernels[0].shape[:2], -1), bias)
    elif layer.group > 1 and kernels[0].shape[2] == 1:
        operation = PlainDepthwise(windows, np.concatenate([kernel[:, :, 0] for kernel in kernels], -1), bias)
    else:
        operation = PlainConvolution(windows, kernels, bias)
    return [writer.step(layer, operation, [bottom], top) for top, bottom in enumerate(bottoms)]


def _pooling(writer: _Writer, layer: Pooling, bottoms: list[int], _: list[Array]) -> list[int]:
    windows = None if layer.global_pooling else layer.windows()
    operation = PlainPooling(layer.method == "MAX", windows, layer.method == "AVE_EXC_PAD")
    return [writer.step(layer, operation, bottoms)]


def _lrn(writer: _Writer, layer: LRN, bottoms: list[int], _: list[Array]) -> list[int]:
    n = layer.local_size
    if not layer.within_channel:
        return [writer.step(layer, PlainLrn(n, layer.alpha, layer.beta, layer.k), bottoms)]
    squares = writer.step(layer, PlainEltwise("prod", (1.0, 1.0)), bottoms * 2)
    # The sum over the square, of which Caffe's average counts the padding too.
    around = (n // 2, n // 2)
    mean = writer.step(layer, PlainPooling(False, Windows((n, n), (1, 1), around, around, (1, 1))), [squares])
    factor = writer.step(layer, PlainActivation("power", (-layer.beta, layer.alpha, 1.0)), [mean])
    return [writer.step(layer, PlainEltwise("prod", (1.0, 1.0)), [*bottoms, factor])]


def _batch_norm(writer: _Writer, layer: BatchNorm, bottoms: list[int], arrays: list[Array]) -> list[int]:
    mean, scale = (array.astype(np.float64) for array in arrays)
    return [writer.step(layer, PlainAffine(scale, -mean * scale), bottoms)]


def _bn(writer: _Writer, layer: BN, bottoms: list[int], arrays: list[Array]) -> list[int]:
    scale, shift, *mean = (array.astype(np.float64) for array in arrays)
    return [writer.step(layer, PlainAffine(scale, shift - mean[0] * scale if mean else shift), bottoms)]


def _scale(writer: _Writer, layer: Scale | Bias, bottoms: list[int], arrays: list[Array]) -> list[int]:
    channels = writer.shapes(layer)[1][0][1]
    values = [np.broadcast_to(array.reshape(-1).astype(np.float64), channels) for array in arrays]
    if isinstance(layer, Bias):
        return [writer.step(layer, PlainAffine(None, values[0]), bottoms)]
    return [writer.step(layer, PlainAffine(values[0], values[1] if layer.bias_term else None), bottoms)]


def _eltwise(writer: _Writer, layer: Eltwise, bottoms: list[int], _: list[Array]) -> list[int]:
    kinds = {"SUM": "sum", "PROD": "prod", "MAX": "max"}
    operation = PlainEltwise(kinds[layer.operation], layer.coeff or (1.0,) * len(bottoms))  # type: ignore[arg-type]
    return [writer.step(layer, operation, bottoms)]


def _activation(make: Callable[..., PlainOperation]) -> Form:
    def form(writer: _Writer, layer: Layer, bottoms: list[int], _: list[Array]) -> list[int]:
        return [writer.step(layer, make(layer), bottoms)]

    return form


def _relu(writer: _Writer, layer: ReLU | ReLU6, bottoms: list[int], _: list[Array]) -> list[int]:
    capped = isinstance(layer, ReLU6) or layer.relu6
    if capped and not layer.negative_slope:
        return [writer.step(layer, PlainActivation("clip", (0.0, 6.0)), bottoms)]
    top = writer.step(layer, PlainActivation("relu", (layer.negative_slope,)), bottoms)
    return [writer.step(layer, PlainActivation("clip", (-_INFINITE, 6.0)), [top]) if capped else top]


def _prelu(writer: _Writer, layer: PReLU, bottoms: list[int], arrays: list[Array]) -> list[int]:
    channels = writer.shapes(layer)[1][0][1]
    slopes = np.array(np.broadcast_to(arrays[0].reshape(-1), channels), np.float32)
    return [writer.step(layer, PlainActivation("prelu", slopes=slopes), bottoms)]


def _power(writer: _Writer, layer: Power, bottoms: list[int], _: list[Array]) -> list[int]:
    constant = layer.constant()
    scale, shift = (layer.scale, layer.shift) if constant is None else (0.0, constant)
    if constant is not None or layer.power == 1.0:
        channels = writer.shapes(layer)[1][0][1]
        return [writer.step(layer, PlainAffine(np.full(channels, scale), np.full(channels, shift)), bottoms)]
    return [writer.step(layer, PlainActivation("power", (layer.power, scale, shift)), bottoms)]


def _exp(layer: Exp) -> PlainActivation:
    return PlainActivation("exp", (layer.log_base * layer.scale, math.exp(layer.log_base * layer.shift)))


def _selu(writer: _Writer, layer: SELU, bottoms: list[int], _: list[Array]) -> list[int]:
    elu = writer.step(layer, PlainActivation("elu", (layer.alpha,)), bottoms)
    channels = writer.shapes(layer)[1][0][1]
    return [writer.step(layer, PlainAffine(np.full(channels, layer.scale), None), [elu])]


def _hard_sigmoid(writer: _Writer, layer: HardSigmoid, bottoms: list[int], _: list[Array]) -> list[int]:
    channels = writer.shapes(layer)[1][0][1]
    line = writer.step(layer, PlainAffine(np.full(channels, layer.alpha), np.full(channels, layer.beta)), bottoms)
    return [writer.step(layer, PlainActivation("clip", (0.0, 1.0)), [line])]


def _hard_swish(writer: _Writer, layer: HardSwish, bottoms: list[int], _: list[Array]) -> list[int]:
    channels = writer.shapes(layer)[1][0][1]
    line = writer.step(layer, PlainAffine(np.full(channels, 1 / 6), np.full(channels, 0.5)), bottoms)
    gate = writer.step(layer, PlainActivation("clip", (0.0, 1.0)), [line])
    return [writer.step(layer, PlainEltwise("prod", (1.0, 1.0)), [*bottoms, gate])]


def _mish(writer: _Writer, layer: Mish, bottoms: list[int], _: list[Array]) -> list[int]:
    soft = writer.step(layer, PlainActivation("bnll"), bottoms)
    gate = writer.step(layer, PlainActivation("tanh"), [soft])
    return [writer.step(layer, PlainEltwise("prod", (1.0, 1.0)), [*bottoms, gate])]


def _crelu(writer: _Writer, layer: CReLU, bottoms: list[int], _: list[Array]) -> list[int]:
    channels = writer.shapes(layer)[1][0][1] // 2
    # The negative is of half the top's channels: it is a part of the blob of both, cut again after it is joined.
    both = writer.step(layer, PlainConcat(), bottoms * 2)
    signs = np.repeat([1.0, -1.0], channels)
    signed = writer.step(layer, PlainAffine(signs, None), [both])
    return [writer.step(layer, PlainActivation("relu", (layer.negative_slope,)), [signed])]


def _concat(writer: _Writer, layer: Concat, bottoms: list[int], _: list[Array]) -> list[int]:
    return [bottoms[0] if len(bottoms) == 1 else writer.step(layer, PlainConcat(), bottoms)]


def _slice(writer: _Writer, layer: Slice, bottoms: list[int], _: list[Array]) -> list[int]:
    if len(layer.tops) == 1:
        return bottoms
    sizes = [shape[1] for shape in writer.shapes(layer)[1]]
    starts = [sum(sizes[:top]) for top in range(len(sizes))]
    return [writer.step(layer, PlainPart(start), bottoms, top) for top, start in enumerate(starts)]


def _crop(writer: _Writer, layer: Crop, bottoms: list[int], _: list[Array]) -> list[int]:
    cuts = layer.cuts(4, 4)
    return [writer.step(layer, PlainPart(cuts.get(1, 0), (cuts.get(2, 0), cuts.get(3, 0))), bottoms[:1])]


def _identity(writer: _Writer, layer: Layer, bottoms: list[int], _: list[Array]) -> list[int]:  # noqa: ARG001
    return bottoms * len(layer.tops)


Form = Callable[..., list[int]]
"""(writer, layer, bottoms, learned blobs) -> tops."""
_FORMS: Mapping[type[Layer], Form] = {
    Convolution: _convolution,
    Pooling: _pooling,
    LRN: _lrn,
    BatchNorm: _batch_norm,
    BN: _bn,
    Scale: _scale,
    Bias: _scale,
    Eltwise: _eltwise,
    Softmax: _activation(lambda _: PlainSoftmax()),
    ReLU: _relu,
    ReLU6: _relu,
    PReLU: _prelu,
    Sigmoid: _activation(lambda _: PlainActivation("sigmoid")),
    TanH: _activation(lambda _: PlainActivation("tanh")),
    ELU: _activation(lambda layer: PlainActivation("elu", (layer.alpha,))),
    AbsVal: _activation(lambda _: PlainActivation("abs")),
    Power: _power,
    Exp: _activation(_exp),
    Log: _activation(lambda layer: PlainActivation("log", (layer.scale, layer.shift, 1.0 / layer.log_base))),
    BNLL: _activation(lambda _: PlainActivation("bnll")),
    Threshold: _activation(lambda layer: PlainActivation("threshold", (layer.threshold,))),
    Clip: _activation(lambda layer: PlainActivation("clip", (layer.low, layer.high))),
    Swish: _activation(lambda layer: PlainActivation("swish", (layer.beta,))),
    HardSigmoid: _hard_sigmoid,
    HardSwish: _hard_swish,
    Mish: _mish,
    SELU: _selu,
    SynopsysSELU: _selu,
    OtherSELU: _selu,
    CReLU: _crelu,
    Dropout: _identity,
    SeLUDropout: _identity,
    Split: _identity,
    Concat: _concat,
    Slice: _slice,
    Crop: _crop,
}


def _channels(layer: Concat | Slice | Softmax | CReLU) -> str:
    return "" if canonical_axis(layer, layer.axis, 4) == 1 else f"it works along axis {layer.axis}, not the channels"


def _operand(layer: Scale | Bias) -> str:
    one = layer.num_axes == 0 or (layer.num_axes == 1 and canonical_axis(layer, layer.axis, 4) == 1)
    return "" if one and len(layer.bottoms) == 1 else "its operand is not one learned value for each channel"


def _own_statistics(layer: BatchNorm | BN) -> str:
    own = not layer.use_global_stats if isinstance(layer, BatchNorm) else layer.learn
    return "it normalizes by the batch's own statistics" if own else ""


_CHECKS: Mapping[type[Layer], Callable[..., str]] = {
    Pooling: lambda layer: "its second top is a mask" if len(layer.tops) > 1 else "",
    BatchNorm: _own_statistics,
    BN: _own_statistics,
    Scale: _operand,
    Bias: _operand,
    Concat: _channels,
    Slice: _channels,
    Softmax: _channels,
    CReLU: _channels,
    Crop: lambda layer: "it cuts the batch" if canonical_axis(layer, layer.axis, 4) == 0 else "",
}
"""Why layers of a type cannot be expressed by their parameters."""
