"""Depthwise layers under their own type names: a Convolution or Deconvolution with a group for each channel."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.layers.base import register
from conversion.layers.convolution import Convolution
from conversion.layers.deconvolution import Deconvolution


@register("ConvolutionDepthwise")
@dataclasses.dataclass(frozen=True, eq=False)
class ConvolutionDepthwise(Convolution):
    """A Convolution with a group for each channel, whatever `group` says (synopsys-caffe, base_conv_layer.cpp).

    `num_output` may be left out, as where the weights alone say it (training_toolbox_caffe, conv_dw_layer.cpp).
    """

    group_per_channel = True

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:
        """Returns the Convolution."""
        return _grouped(self, "Convolution", bottoms, free=True)


@register("DepthwiseConvolution")
@dataclasses.dataclass(frozen=True, eq=False)
class DepthwiseConvolution(Convolution):
    """A Convolution with a group for each channel; `group` may be left out.

    The forks' layer is a faster form of a Convolution whose `group` is the number of channels (MobileNet-YOLO,
    depthwise_conv_layer.cpp).
    """

    group_per_channel = True

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:
        """Returns the Convolution."""
        return _grouped(self, "Convolution", bottoms)


@register("DeconvolutionDepthwise")
@dataclasses.dataclass(frozen=True, eq=False)
class DeconvolutionDepthwise(Deconvolution):
    """A Deconvolution with a group for each channel; `group` may be left out."""

    group_per_channel = True

    def settled(self, bottoms: Sequence[Shape]) -> LayerParameter | None:
        """Returns the Deconvolution."""
        return _grouped(self, "Deconvolution", bottoms)


def _grouped(
    layer: Convolution | Deconvolution, caffe_type: str, bottoms: Sequence[Shape], *, free: bool = False
) -> LayerParameter:
    """Returns the layer in Caffe's own type.

    Raises:
        NetworkError: `group` is another number than that of channels, and is not `free`.
    """
    channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
    message = LayerParameter()
    message.CopyFrom(layer.definition)
    value = message.convolution_param
    if value.group not in (1, channels) and not free:
        raise layer.invalid(
            f"group {value.group} on {channels} channels",
            why="a depthwise layer has a group for each channel",
            remedy=f"if its weights are those of {value.group} groups, give it the type {caffe_type!r}",
        )
    value.group = channels
    value.num_output = value.num_output or channels
    message.type = caffe_type
    return message
