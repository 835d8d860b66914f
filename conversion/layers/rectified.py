"""Activations that forks of Caffe have: ReLU6, HardSigmoid, HardSwish, Mish, SELU, CReLU."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import ElementwiseLayer, Layer, Narrow, Step, canonical_axis, register
from conversion.layers.layout import carried_axis, import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value


@register("ReLU6")
@dataclasses.dataclass(frozen=True, eq=False)
class ReLU6(ElementwiseLayer):
    """min(max(x, 0) + negative_slope * min(x, 0), 6) (relu6_layer.cpp of the fork MobileNet-YOLO)."""

    negative_slope: float = 0.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `relu6_param`."""
        return cls(definition, definition.relu6_param.negative_slope)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        x = bottoms[0]
        return [np.minimum(np.maximum(x, 0) + self.negative_slope * np.minimum(x, 0), 6)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.nn.relu6`, or the formula if there is a slope."""
        tf = import_tensorflow()
        x = bottoms[0]
        if not self.negative_slope:
            return [tf.nn.relu6(x)]
        return [tf.minimum(tf.nn.relu(x) + self.negative_slope * tf.minimum(x, 0.0), 6.0)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Clip; NaN stays NaN, which runtimes do not agree on."""
        x = bottoms[0]
        if self.negative_slope:
            leaky = graph.node("LeakyRelu", [x], alpha=self.negative_slope)
            return [_where_number(graph, x, graph.node("Clip", [leaky, None, graph.scalar(6.0, x)]))]
        return [_where_number(graph, x, graph.node("Clip", [x, graph.scalar(0.0, x), graph.scalar(6.0, x)]))]


@register("HardSigmoid")
@dataclasses.dataclass(frozen=True, eq=False)
class HardSigmoid(ElementwiseLayer):
    """alpha * x + beta limited to [0, 1]; 0.2 and 0.5 by default (hard_sigmoid_layer.cpp of Synopsys' fork)."""

    alpha: float = 0.2
    beta: float = 0.5

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `hard_sigmoid_param`."""
        return cls(definition, definition.hard_sigmoid_param.alpha, definition.hard_sigmoid_param.beta)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        return [np.clip(self.alpha * bottoms[0] + self.beta, 0, 1)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula."""
        return [import_tensorflow().clip_by_value(self.alpha * bottoms[0] + self.beta, 0.0, 1.0)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses HardSigmoid."""
        top = graph.node("HardSigmoid", bottoms, alpha=self.alpha, beta=self.beta)
        return [_where_number(graph, bottoms[0], top)]


@register("HardSwish")
@dataclasses.dataclass(frozen=True, eq=False)
class HardSwish(ElementwiseLayer):
    """x * min(max(x + 3, 0), 6) / 6 (Howard et al. 2019, MobileNet v3; hard_swish_layer.cpp of Synopsys' fork)."""

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        return [bottoms[0] * np.clip(bottoms[0] + 3, 0, 6) / 6]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Divides before it multiplies, since the product of two large values leaves the range of 16 bits."""
        x = bottoms[0]
        return [x * (import_tensorflow().nn.relu6(x + 3.0) / 6.0)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses HardSigmoid, whose product with x it is."""
        gate = graph.node("HardSigmoid", bottoms, alpha=1 / 6, beta=0.5)
        return [graph.node("Mul", [bottoms[0], gate])]


@register("Mish")
@dataclasses.dataclass(frozen=True, eq=False)
class Mish(ElementwiseLayer):
    """x * tanh(log(1 + exp(x))) (Misra 2019; mish_layer.cpp of Synopsys' fork)."""

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the two halves of the formula."""
        return 2 * super().workspace(bottoms, tops)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.logaddexp`, which does not overflow; the fork has x and exp(x) beyond 20 for it."""
        return [bottoms[0] * np.tanh(np.logaddexp(0.0, bottoms[0]))]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.math.softplus`."""
        tf = import_tensorflow()
        return [bottoms[0] * tf.tanh(tf.math.softplus(bottoms[0]))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Softplus and Tanh."""
        return [graph.node("Mul", [bottoms[0], graph.node("Tanh", [graph.node("Softplus", bottoms)])])]


@register("SELU")
@dataclasses.dataclass(frozen=True, eq=False)
class SELU(ElementwiseLayer):
    """lambda * x where x is positive, else lambda * alpha * (exp(x) - 1) (Klambauer et al. 2017; selu_layer.cpp).

    Synopsys' fork calls the type SeLU, and others SeLu: they are one layer.
    """

    scale: float = 1.0
    alpha: float = 1.0

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `selu_param`; `lambda` is `scale` here."""
        message = definition.selu_param
        return cls(definition, getattr(message, "lambda"), message.alpha)

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the two halves of the formula."""
        return 2 * super().workspace(bottoms, tops)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Returns the formula, as a sum of two halves."""
        x = bottoms[0]
        return [self.scale * (np.maximum(x, 0) + self.alpha * np.expm1(np.minimum(x, 0)))]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `expm1`, which keeps its digits near 0; its argument is bounded so that gradients stay finite."""
        tf = import_tensorflow()
        x = bottoms[0]
        return [self.scale * tf.where(x > 0.0, x, self.alpha * tf.math.expm1(tf.minimum(x, 0.0)))]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Selu."""
        return [graph.node("Selu", bottoms, alpha=self.alpha, gamma=self.scale)]


@register("SeLU")
class SynopsysSELU(SELU):
    """SELU under the name that Synopsys' fork registers."""


@register("SeLu")
class OtherSELU(SELU):
    """SELU under the name that other forks register."""


@register("CReLU")
@dataclasses.dataclass(frozen=True, eq=False)
class CReLU(Layer):
    """ReLU of the bottom and ReLU of its negative, joined along `concat_axis` (1 by default), which doubles.

    ReLU has a `negative_slope` here too. Shang et al. 2016; crelu_layer.cpp, which several forks have from one source.
    """

    negative_slope: float = 0.0
    axis: int = 1

    may_be_in_place = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `crelu_param`."""
        return cls(definition, definition.crelu_param.negative_slope, definition.crelu_param.concat_axis)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's shape with `concat_axis` doubled."""
        shape = bottoms[0]
        axis = canonical_axis(self, self.axis, len(shape), "concat_axis")
        return [(*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns one cell; None if positions are joined."""
        return super().step(bottoms) if canonical_axis(self, self.axis, len(bottoms[0])) < 2 else None

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the two halves of the top, before they are joined."""
        return 2 * super().workspace(bottoms, tops)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        both = np.concatenate([bottoms[0], -bottoms[0]], axis=self.axis)
        return [np.maximum(both, 0) + self.negative_slope * np.minimum(both, 0)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula."""
        tf = import_tensorflow()
        x = bottoms[0]
        rank = x.shape.rank
        both = tf.concat([x, -x], axis=carried_axis(canonical_axis(self, self.axis, rank), rank))
        top = tf.nn.relu(both)
        return [top + self.negative_slope * tf.minimum(both, 0.0) if self.negative_slope else top]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Concat, and Relu or LeakyRelu."""
        x = bottoms[0]
        axis = canonical_axis(self, self.axis, x.rank, "concat_axis")
        both = graph.node("Concat", [x, graph.node("Neg", [x])], axis=axis)
        if self.negative_slope:
            return [graph.node("LeakyRelu", [both], alpha=self.negative_slope)]
        return [graph.node("Relu", [both])]


def _where_number(graph: OnnxGraph, x: Value, top: Value) -> Value:
    """Returns `top`, but NaN where x is NaN, which is equal to nothing."""
    return top if x.finite else graph.node("Where", [graph.node("Equal", [x, x]), top, x])
