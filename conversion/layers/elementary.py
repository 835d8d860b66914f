"""Elementary functions of each value: ELU, AbsVal, Power, Exp, Log, BNLL, Threshold, Clip, Swish."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import ElementwiseLayer, Layer, register
from conversion.layers.layout import import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value


@register("ELU")
@dataclasses.dataclass(frozen=True, eq=False)
class ELU(ElementwiseLayer):
    """x where it is positive, else alpha * (exp(x) - 1), values above -alpha (elu_layer.cpp)."""

    alpha: float = 1.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `elu_param`."""
        return cls(definition, definition.elu_param.alpha)

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:  # noqa: ARG002
        """Returns the two halves of the formula."""
        return 2 * math.prod(bottoms[0])

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Returns the formula, as a sum of two halves."""
        x = bottoms[0]
        return [np.maximum(x, 0) + self.alpha * (np.exp(np.minimum(x, 0)) - 1)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `expm1`, which keeps its digits near 0; its argument is bounded so that gradients stay finite."""
        tf = import_tensorflow()
        x = bottoms[0]
        return [tf.where(x > 0.0, x, self.alpha * tf.math.expm1(tf.minimum(x, 0.0)))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Elu."""
        return [graph.node("Elu", bottoms, alpha=self.alpha)]


@register("AbsVal")
@dataclasses.dataclass(frozen=True, eq=False)
class AbsVal(ElementwiseLayer):
    """|x|; never in place (absval_layer.cpp)."""

    may_be_in_place = False

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.abs`."""
        return [np.abs(bottoms[0])]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.abs`."""
        return [import_tensorflow().abs(bottoms[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Abs."""
        return [graph.node("Abs", bottoms)]


@register("Power")
@dataclasses.dataclass(frozen=True, eq=False)
class Power(ElementwiseLayer):
    """(shift + scale * x) ** power as C's pow has it: NaN for a negative base and a fractional power (power_layer.cpp).

    If power * scale is 0 the input is ignored: the top is constant, shift ** power, or 1 for power 0.
    """

    power: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `power_param`."""
        message = definition.power_param
        return cls(definition, message.power, message.scale, message.shift)

    def constant(self) -> float | None:
        """Returns the value of a top that does not depend on the bottom; None if it does."""
        with np.errstate(all="ignore"):  # inf, NaN and underflow to 0 are Caffe's results too
            if np.float32(self.power) * np.float32(self.scale) != 0:
                return None
            return float(np.power(np.float64(self.shift), self.power))

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        constant = self.constant()
        if constant is not None:
            return [np.full(bottoms[0].shape, constant)]
        with np.errstate(all="ignore"):
            return [np.power(self.shift + self.scale * bottoms[0], self.power)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.pow` where there is a power."""
        tf = import_tensorflow()
        constant = self.constant()
        if constant is not None:
            return [tf.ones_like(bottoms[0]) * constant]
        affine = self.scale * bottoms[0] + self.shift
        return [affine if self.power == 1.0 else tf.pow(affine, self.power)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Pow where there is a power."""
        x = bottoms[0]
        constant = self.constant()
        if constant is not None:
            top = graph.scalar(constant, x)
            return [graph.node("Expand", [top, graph.shape_of(x)], shape=x.shape, finite=math.isfinite(constant))]
        base = _affine(graph, x, self.scale, self.shift)
        if self.power == 1.0:
            return [base]
        always = self.power > 0 and self.power.is_integer()
        return [graph.node("Pow", [base, graph.scalar(self.power, x)], finite=x.finite and always)]


def _affine(graph: OnnxGraph, x: Value, scale: float, shift: float) -> Value:
    """Returns scale * x + shift as nodes of an ONNX graph, as few as it takes."""
    if scale != 1.0:
        x = graph.node("Mul", [x, graph.scalar(scale, x)])
    return graph.node("Add", [x, graph.scalar(shift, x)]) if shift else x


def _log_base(layer: Layer, base: float) -> float:
    """Returns the natural logarithm of `base`, where -1 means e; raises NetworkError if it has none."""
    if base == -1.0:
        return 1.0
    if not 0.0 < base < math.inf:
        raise layer.invalid(f"base {base}", why="a base is positive and finite, or -1 for e")
    return math.log(base)


@register("Exp")
@dataclasses.dataclass(frozen=True, eq=False)
class Exp(ElementwiseLayer):
    """base ** (shift + scale * x), values above 0; base -1 means e (exp_layer.cpp)."""

    log_base: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `exp_param`."""
        message = definition.exp_param
        layer = cls(definition, 1.0, message.scale, message.shift)
        return dataclasses.replace(layer, log_base=_log_base(layer, message.base))

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        with np.errstate(over="ignore"):
            return [np.power(math.exp(self.log_base), self.shift + self.scale * bottoms[0])]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes one exponential; base ** shift is a constant factor, as in Caffe."""
        tf = import_tensorflow()
        factor = float(np.exp(self.log_base * self.shift))
        top = tf.exp(self.log_base * self.scale * bottoms[0])
        return [top if factor == 1.0 else top * factor]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes as the TensorFlow form does."""
        factor = float(np.exp(self.log_base * self.shift))
        top = graph.node("Exp", [_affine(graph, bottoms[0], self.log_base * self.scale, 0.0)])
        return [_affine(graph, top, factor, 0.0)]


@register("Log")
@dataclasses.dataclass(frozen=True, eq=False)
class Log(ElementwiseLayer):
    """The logarithm of shift + scale * x to `base`; base -1 means e (log_layer.cpp). NaN below 0, -inf at 0."""

    log_base: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `log_param`."""
        message = definition.log_param
        layer = cls(definition, 1.0, message.scale, message.shift)
        log_base = _log_base(layer, message.base)
        if log_base == 0.0:
            raise layer.invalid("base 1", why="1 / log(1) is infinite")
        return dataclasses.replace(layer, log_base=log_base)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return [np.log(self.shift + self.scale * bottoms[0]) / self.log_base]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula."""
        top = import_tensorflow().math.log(self.scale * bottoms[0] + self.shift)
        return [top if self.log_base == 1.0 else top * (1.0 / self.log_base)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes the formula."""
        top = graph.node("Log", [_affine(graph, bottoms[0], self.scale, self.shift)], finite=False)
        return [_affine(graph, top, 1.0 / self.log_base, 0.0)]


@register("BNLL")
@dataclasses.dataclass(frozen=True, eq=False)
class BNLL(ElementwiseLayer):
    """log(1 + exp(x)), values above 0 (bnll_layer.cpp)."""

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.logaddexp`, which does not overflow."""
        return [np.logaddexp(0.0, bottoms[0])]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.math.softplus`."""
        return [import_tensorflow().math.softplus(bottoms[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Softplus."""
        return [graph.node("Softplus", bottoms)]


@register("Threshold")
@dataclasses.dataclass(frozen=True, eq=False)
class Threshold(ElementwiseLayer):
    """1 where x is greater than `threshold`, else 0, for NaN too (threshold_layer.cpp)."""

    threshold: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `threshold_param`."""
        return cls(definition, definition.threshold_param.threshold)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Compares."""
        return [np.where(bottoms[0] > self.threshold, 1.0, 0.0)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Compares."""
        return [import_tensorflow().cast(bottoms[0] > self.threshold, bottoms[0].dtype)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Compares."""
        x = bottoms[0]
        return [graph.cast(graph.node("Greater", [x, graph.scalar(self.threshold, x)], finite=True), x.dtype)]


@register("Clip")
@dataclasses.dataclass(frozen=True, eq=False)
class Clip(ElementwiseLayer):
    """max(low, min(x, high)), which for NaN is `low` as C++ compares (clip_layer.cpp)."""

    low: float = 0.0
    high: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `clip_param`."""
        message = definition.clip_param
        layer = cls(definition, message.min, message.max)
        missing = [field for field in ("min", "max") if not message.HasField(field)]
        if missing:
            raise layer.invalid(f"{' and '.join(missing)} of clip_param missing", why="both are required fields")
        return layer

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Makes the two comparisons."""
        x = np.where(bottoms[0] > self.high, self.high, bottoms[0])
        return [np.where(x > self.low, x, self.low)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Makes the two comparisons."""
        tf = import_tensorflow()
        x = tf.minimum(bottoms[0], self.high)
        return [tf.where(x > self.low, x, self.low)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Clip, or makes the two comparisons where runtimes read it otherwise: for NaN, and for low above high."""
        x = bottoms[0]
        low, high = graph.scalar(self.low, x), graph.scalar(self.high, x)
        if x.finite and self.low <= self.high:
            return [graph.node("Clip", [x, low, high])]
        x = graph.node("Where", [graph.node("Greater", [x, high]), high, x])
        return [graph.node("Where", [graph.node("Greater", [x, low]), x, low], finite=True)]


@register("Swish")
@dataclasses.dataclass(frozen=True, eq=False)
class Swish(ElementwiseLayer):
    """x / (1 + exp(-beta * x)) (swish_layer.cpp)."""

    beta: float = 1.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `swish_param`."""
        return cls(definition, definition.swish_param.beta)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes it by the hyperbolic tangent, which does not overflow."""
        x = bottoms[0]
        return [x * (0.5 * np.tanh(0.5 * self.beta * x) + 0.5)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.sigmoid`."""
        return [bottoms[0] * import_tensorflow().sigmoid(self.beta * bottoms[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Sigmoid."""
        x = bottoms[0]
        return [graph.node("Mul", [x, graph.node("Sigmoid", [_affine(graph, x, self.beta, 0.0)])])]
