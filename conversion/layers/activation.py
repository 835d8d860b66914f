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
        top = tf.nn.relu(x)
        if self.negative_slope:
            top += self.negative_slope * tf.minimum(x, 0.0)
        return [tf.where(tf.math.is_nan(top), tf.zeros_like(top), tf.minimum(top, 6.0)) if self.relu6 else top]


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
