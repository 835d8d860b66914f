"""Layers that map each value independently: ReLU, PReLU, Sigmoid, TanH, Dropout."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import ElementwiseLayer, Narrow, register
from conversion.layers.layout import carried_axis, import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value


@register("ReLU")
@dataclasses.dataclass(frozen=True, eq=False)
class ReLU(ElementwiseLayer):
    """max(x, 0) + negative_slope * min(x, 0); with `relu6` at most 6, and 0 for NaN.

    `relu6` is a fork's (synopsys-caffe, relu_layer.cpp).
    """

    negative_slope: float = 0.0
    relu6: bool = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `relu_param`."""
        return cls(definition, definition.relu_param.negative_slope, definition.relu_param.relu6)

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the values before the bound of `relu6`, and which are below it."""
        return (3 if self.relu6 else 1) * super().workspace(bottoms, tops)

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        x = bottoms[0]
        top = np.maximum(x, 0)
        if self.negative_slope:
            top = top + self.negative_slope * np.minimum(x, 0)
        return [np.where(np.isnan(top), 0, np.minimum(top, 6)) if self.relu6 else top]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.nn.relu`, or the formula if there is a slope (`leaky_relu` is correct only for slopes up to 1)."""
        tf = import_tensorflow()
        x = bottoms[0]
        if self.relu6:
            # NaN is not above 0, nor below it.
            negative = tf.where(-x > 0.0, self.negative_slope * x, 0.0) if self.negative_slope else 0.0
            return [tf.where(x > 0.0, tf.minimum(x, 6.0), negative)]
        return [tf.nn.relu(x) + self.negative_slope * tf.minimum(x, 0.0) if self.negative_slope else tf.nn.relu(x)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Relu, or LeakyRelu, which in ONNX takes any slope."""
        if self.relu6:
            return [self._onnx_capped(graph, bottoms[0])]
        if self.negative_slope:
            return [graph.node("LeakyRelu", bottoms, alpha=self.negative_slope)]
        return [graph.node("Relu", bottoms)]

    def _onnx_capped(self, graph: OnnxGraph, x: Value) -> Value:
        """Returns the top of `relu6`; NaN, which gives 0, is equal to nothing."""
        zero, six = graph.scalar(0.0, x), graph.scalar(6.0, x)
        if not x.finite:
            x = graph.node("Where", [graph.node("Equal", [x, x]), x, zero], finite=False)
        top = graph.node("LeakyRelu", [x], alpha=self.negative_slope) if self.negative_slope else x
        return graph.node("Clip", [top, *([None] if self.negative_slope else [zero]), six])


@register("PReLU")
@dataclasses.dataclass(frozen=True, eq=False)
class PReLU(ElementwiseLayer):
    """max(x, 0) + slope * min(x, 0), one learned slope per channel or one for all (He et al. 2015; prelu_layer.cpp)."""

    channel_shared: bool = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `prelu_param`."""
        return cls(definition, definition.prelu_param.channel_shared)

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the bottom's own shape, which must have a channel axis."""
        if len(bottoms[0]) < 2:
            raise self.invalid(f"a bottom of {len(bottoms[0])} axes", why="slopes belong to axis 1")
        return [bottoms[0]]

    def blob_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the slopes; a shared one has no axes."""
        return [() if self.channel_shared else (bottoms[0][1],)]

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:  # noqa: ARG002
        """Returns the two halves of the formula."""
        return 2 * math.prod(bottoms[0])

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:
        """Computes the formula."""
        x = bottoms[0]
        return [np.maximum(x, 0) + blobs[0].reshape(-1, *[1] * (x.ndim - 2)) * np.minimum(x, 0)]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:
        """Computes the formula."""
        tf = import_tensorflow()
        x = bottoms[0]
        shape = [1] * x.shape.rank
        shape[carried_axis(1, x.shape.rank)] = -1
        return [tf.nn.relu(x) + tf.reshape(variables[0], shape) * tf.minimum(x, 0.0)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:
        """Uses PRelu."""
        x = bottoms[0]
        return [graph.node("PRelu", [x, graph.reshaped(variables[0], [-1, *[1] * (x.rank - 2)])])]


@register("Sigmoid")
@dataclasses.dataclass(frozen=True, eq=False)
class Sigmoid(ElementwiseLayer):
    """1 / (1 + exp(-x)), values in [0, 1]."""

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes 0.5 tanh(0.5 x) + 0.5 (sigmoid_layer.cpp), which does not overflow."""
        return [0.5 * np.tanh(0.5 * bottoms[0]) + 0.5]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.sigmoid`."""
        return [import_tensorflow().sigmoid(bottoms[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Sigmoid."""
        return [graph.node("Sigmoid", bottoms)]


@register("TanH")
@dataclasses.dataclass(frozen=True, eq=False)
class TanH(ElementwiseLayer):
    """The hyperbolic tangent, values in [-1, 1]."""

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Uses `np.tanh`."""
        return [np.tanh(bottoms[0])]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Uses `tf.tanh`."""
        return [import_tensorflow().tanh(bottoms[0])]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Uses Tanh."""
        return [graph.node("Tanh", bottoms)]


@register("Dropout")
@dataclasses.dataclass(frozen=True, eq=False)
class Dropout(ElementwiseLayer):
    """The identity: Caffe scales during training, so that phase TEST has nothing to do."""

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Returns the bottom."""
        return [bottoms[0]]

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Returns the bottom."""
        return [bottoms[0]]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Returns the bottom."""
        return [bottoms[0]]


@register("SeLUDropout")
@dataclasses.dataclass(frozen=True, eq=False)
class SeLUDropout(Dropout):
    """The identity: it keeps mean and variance during training only (synopsys-caffe, selu_dropout_layer.cpp)."""

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:  # noqa: ARG002
        """Returns Caffe's Dropout, which is the identity too."""
        message = LayerParameter()
        message.CopyFrom(self.definition)
        message.ClearField("selu_dropout_param")
        message.type = "Dropout"
        return message
