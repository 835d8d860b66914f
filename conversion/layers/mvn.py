"""MVN: mean and variance normalization of each plane, or of each item, by its own statistics."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import Layer, Step, register
from conversion.layers.layout import from_caffe, import_tensorflow
from conversion.layers.onnx_graph import OnnxGraph, Value


@register("MVN")
@dataclasses.dataclass(frozen=True, eq=False)
class MVN(Layer):
    """(x - mean) / (sqrt(variance) + eps), or x - mean without `normalize_variance` (mvn_layer.cpp).

    The statistics are those of each plane (H, W), or of each item (C, H, W) with `across_channels`; the variance is
    the mean square of x - mean, and `eps` is added to its root, not to itself; to itself with `add_eps_before_sqrt`
    (synopsys-caffe, mvn_layer.cpp).

    Shape: [N, C, H, W] kept; a bottom of fewer axes gets trailing axes of size 1, as in Caffe.
    """

    normalize_variance: bool = True
    across_channels: bool = False
    eps: float = 1e-9
    eps_before: bool = False

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads `mvn_param`."""
        message = definition.mvn_param
        return cls(
            definition,
            message.normalize_variance,
            message.across_channels,
            message.eps,
            message.add_eps_before_sqrt,
        )

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        rank = len(bottoms[0])
        if rank > 4:
            raise self.invalid(f"a bottom of {rank} axes", why="MVN is defined for N, C, H, W and fewer")
        return [(*bottoms[0], *[1] * (4 - rank))]

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:  # noqa: ARG002
        """Returns None: the statistics read the whole plane."""
        return None

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Computes the formula."""
        x = bottoms[0].reshape(self.output_shapes([bottoms[0].shape])[0])
        axes = (1, 2, 3) if self.across_channels else (2, 3)
        centred = x - x.mean(axis=axes, keepdims=True)
        if not self.normalize_variance:
            return [centred]
        variance = (centred**2).mean(axis=axes, keepdims=True)
        return [centred / (np.sqrt(variance + self.eps) if self.eps_before else np.sqrt(variance) + self.eps)]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Computes the formula."""
        tf = import_tensorflow()
        x = bottoms[0]
        rank = x.shape.rank
        if rank < 4:
            x = from_caffe(x[(..., *[tf.newaxis] * (4 - rank))])
        axes = (1, 2, 3) if self.across_channels else (1, 2)
        centred = x - tf.reduce_mean(x, axis=axes, keepdims=True)
        if not self.normalize_variance:
            return [centred]
        variance = tf.reduce_mean(tf.square(centred), axis=axes, keepdims=True)
        return [centred / (tf.sqrt(variance + self.eps) if self.eps_before else tf.sqrt(variance) + self.eps)]

    def onnx(self, graph: OnnxGraph, bottoms: Sequence[Value], variables: Sequence[Value]) -> list[Value]:  # noqa: ARG002
        """Computes the formula."""
        x = bottoms[0]
        if x.rank < 4:
            x = graph.node("Unsqueeze", [x, graph.integers(range(x.rank, 4))])
        axes = [1, 2, 3] if self.across_channels else [2, 3]
        centred = graph.node("Sub", [x, graph.node("ReduceMean", [x], axes=axes)])
        if not self.normalize_variance:
            return [centred]
        variance = graph.node("ReduceMean", [graph.node("Mul", [centred, centred])], axes=axes)
        eps = graph.scalar(self.eps, x)
        if self.eps_before:
            deviation = graph.node("Sqrt", [graph.node("Add", [variance, eps])])
        else:
            deviation = graph.node("Add", [graph.node("Sqrt", [variance]), eps])
        return [graph.node("Div", [centred, deviation], finite=x.finite and self.eps > 0)]
