"""What Caffe refuses is refused with a typed error that names the layer and the reason."""

from __future__ import annotations

import numpy as np
import pytest
from google.protobuf import text_format

from conversion.caffe.caffe_pb2 import NetParameter
from conversion.errors import DensecastError, NetworkError, UnsupportedError
from conversion.layers import registered
from conversion.net.build import build
from conversion.net.network import Network

# Inputs by name: what the layers under test may name as bottoms.
INPUTS = {
    "x": (2, 6, 7, 9),
    "small": (2, 6, 3, 3),
    "like": (2, 6, 5, 4),
    "matrix": (4, 12),
    "pair": (2, 6),
    "vector": (6,),
    "volume": (2, 6, 5, 5, 5),
}


def network(layer: str) -> Network:
    inputs = "".join(
        f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{'
        f" {' '.join(f'dim: {dim}' for dim in shape)} }} }} }}\n"
        for name, shape in INPUTS.items()
    )
    return build(text_format.Parse(inputs + f'layer {{ name: "subject" {layer} }}', NetParameter()))


def layer(kind: str, parameters: str = "", bottom: str = "x", top: str = "y") -> str:
    names = "".join(f'bottom: "{b}" ' for b in bottom.split()) + "".join(f'top: "{t}" ' for t in top.split())
    return f'type: "{kind}" {names} {parameters}'


def convolution(parameters: str, **names: str) -> str:
    return layer("Convolution", f"convolution_param {{ {parameters} }}", **names)


def deconvolution(parameters: str, **names: str) -> str:
    return layer("Deconvolution", f"convolution_param {{ {parameters} }}", **names)


def pooling(parameters: str, **names: str) -> str:
    return layer("Pooling", f"pooling_param {{ {parameters} }}", **names)


def bare(kind: str, field: str, parameters: str, **names: str) -> str:
    return layer(kind, f"{field} {{ {parameters} }}", **names)


REFUSED: list[tuple[str, type[DensecastError], str]] = [
    # Convolution and what it shares with Deconvolution
    (convolution("kernel_size: 3"), NetworkError, "num_output"),
    (convolution("num_output: 4"), NetworkError, "kernel_size is missing"),
    (convolution("num_output: 4 kernel_size: 0"), NetworkError, "kernel_size 0"),
    (convolution("num_output: 4 kernel_h: 3"), NetworkError, "kernel_h or kernel_w"),
    (convolution("num_output: 4 kernel_size: 3 kernel_h: 3 kernel_w: 3"), NetworkError, "both kernel_size"),
    (convolution("num_output: 4 kernel_size: 3 stride: 2 stride_h: 2 stride_w: 2"), NetworkError, "both stride"),
    (convolution("num_output: 4 kernel_size: 3 pad: 1 pad_h: 1"), NetworkError, "both pad"),
    (convolution("num_output: 4 kernel_size: 3 stride: 0"), NetworkError, "stride 0"),
    (convolution("num_output: 4 kernel_size: [3, 3, 3]"), NetworkError, "3 values for 2 spatial axes"),
    (convolution("num_output: 4 kernel_h: 3 kernel_w: 3", bottom="volume"), NetworkError, "they exist for two"),
    (convolution("num_output: 4 kernel_size: 3 group: 3"), NetworkError, "multiple of group 3"),
    (convolution("num_output: 8 kernel_size: 3 group: 4"), NetworkError, "6 input channels"),
    (convolution("num_output: 4 kernel_size: 3 group: 0"), NetworkError, "group 0"),
    (convolution("num_output: 4 kernel_size: 8"), NetworkError, "smaller than the window"),
    (convolution("num_output: 4 kernel_size: 3 axis: 4"), NetworkError, "axis 4"),
    (convolution("num_output: 4 kernel_size: 3", bottom="x small", top="y z"), NetworkError, "different shapes"),
    (convolution("num_output: 4 kernel_size: 3", bottom="x small"), NetworkError, "2 bottoms but 1 tops"),
    (convolution("num_output: 4 kernel_size: 3 pad: 1 pad_l: 1"), NetworkError, "pad_b and pad are given"),
    (convolution("num_output: 4 kernel_size: 3 pad_type: 2"), NetworkError, "pad_type 2"),
    (pooling("kernel_size: 3 pad_t: 3"), NetworkError, "pad (3, 0) is not smaller than the kernel (3, 3)"),
    (
        pooling("kernel_size: 3 global_pooling: false pad_type: 1 pad_r: 1"),
        NetworkError,
        "pad_b and pad_type are given",
    ),
    (layer("ConvolutionDepthwise", "convolution_param { num_output: 6 }"), NetworkError, "kernel_size is missing"),
    (
        layer("DepthwiseConvolution", "convolution_param { num_output: 6 kernel_size: 3 group: 3 }"),
        NetworkError,
        "group 3 on 6 channels",
    ),
    (
        layer("DeconvolutionDepthwise", "convolution_param { num_output: 6 kernel_size: 2 group: 2 }"),
        NetworkError,
        "group 2 on 6 channels",
    ),
    (deconvolution("kernel_size: 3"), NetworkError, "num_output"),
    (deconvolution("num_output: 4"), NetworkError, "kernel_size is missing"),
    (deconvolution("num_output: 4 kernel_size: 3 group: 3"), NetworkError, "multiple of group 3"),
    (deconvolution("num_output: 8 kernel_size: 3 group: 4"), NetworkError, "6 input channels"),
    (deconvolution("num_output: 4 kernel_size: 2 pad: 4"), NetworkError, "pad (4, 4) removes"),
    (deconvolution("num_output: 4 kernel_size: 3", bottom="volume"), UnsupportedError, "5 axes"),
    (deconvolution("num_output: 4 kernel_size: 3", bottom="matrix"), UnsupportedError, "two spatial axes"),
    # InnerProduct
    (layer("InnerProduct"), NetworkError, "num_output"),
    (bare("InnerProduct", "inner_product_param", "num_output: 4 axis: 4"), NetworkError, "axis 4"),
    (bare("InnerProduct", "inner_product_param", "num_output: 4 axis: -5"), NetworkError, "axis -5"),
    # Pooling and SPP
    (pooling("pool: STOCHASTIC kernel_size: 3"), UnsupportedError, "STOCHASTIC"),
    (pooling("pool: MAX"), NetworkError, "kernel_size is missing"),
    (pooling("kernel_h: 3"), NetworkError, "kernel_w is missing"),
    (pooling("kernel_size: 3 kernel_h: 3 kernel_w: 3"), NetworkError, "both kernel_size"),
    (pooling("kernel_size: 0"), NetworkError, "no cells"),
    (pooling("kernel_size: 3 pad_h: 1"), NetworkError, "pad_w is missing"),
    (pooling("kernel_size: 3 stride_w: 2"), NetworkError, "stride_h is missing"),
    (pooling("kernel_size: 3 stride: 2 stride_h: 2 stride_w: 2"), NetworkError, "both stride"),
    (pooling("kernel_size: 3 stride: 0"), NetworkError, "stride 0"),
    (pooling("kernel_size: 3 pad: 3"), NetworkError, "pad (3, 3)"),
    (pooling("global_pooling: true kernel_size: 3"), NetworkError, "global_pooling with a kernel"),
    (pooling("global_pooling: true stride: 2"), NetworkError, "global_pooling with a pad or a stride"),
    (pooling("kernel_size: 3", bottom="matrix"), NetworkError, "2 axes"),
    (pooling("kernel_size: 9"), NetworkError, "smaller than the window"),
    (pooling("pool: AVE kernel_size: 3", top="y mask"), NetworkError, "only MAX has a mask"),
    (pooling("kernel_size: 3", top="y mask more"), NetworkError, "3 top blobs"),
    (bare("SPP", "spp_param", "pyramid_height: 2 pool: STOCHASTIC"), UnsupportedError, "STOCHASTIC"),
    (layer("SPP"), NetworkError, "pyramid_height"),
    (bare("SPP", "spp_param", "pyramid_height: 3", bottom="small"), NetworkError, "too small for 4x4 bins"),
    (bare("SPP", "spp_param", "pyramid_height: 2", bottom="matrix"), NetworkError, "2 axes"),
    # Normalization
    (bare("LRN", "lrn_param", "local_size: 4"), NetworkError, "local_size 4 is even"),
    (layer("LRN", bottom="matrix"), NetworkError, "2 axes"),
    (layer("MVN", bottom="volume"), NetworkError, "5 axes"),
    (bare("Softmax", "softmax_param", "axis: 4"), NetworkError, "axis 4"),
    # Elementary functions
    (layer("AbsVal", top="x"), NetworkError, "in-place"),
    (layer("PReLU", bottom="vector"), NetworkError, "1 axes"),
    (bare("Exp", "exp_param", "base: 0"), NetworkError, "base 0"),
    (bare("Exp", "exp_param", "base: -2"), NetworkError, "base -2"),
    (bare("Exp", "exp_param", "base: inf"), NetworkError, "base inf"),
    (bare("Exp", "exp_param", "base: nan"), NetworkError, "base nan"),
    (bare("Log", "log_param", "base: 0"), NetworkError, "base 0"),
    (bare("Log", "log_param", "base: -0.5"), NetworkError, "base -0.5"),
    (bare("Log", "log_param", "base: 1"), NetworkError, "base 1"),
    (bare("Clip", "clip_param", "min: 0"), NetworkError, "max of clip_param missing"),
    (layer("Clip"), NetworkError, "min and max"),
    (layer("ELU", bottom="x like"), NetworkError, "2 bottom blobs"),
    # Arithmetic
    (layer("Eltwise", bottom="x like"), NetworkError, "different shapes"),
    (layer("Eltwise"), NetworkError, "1 bottom blobs"),
    (bare("Eltwise", "eltwise_param", "coeff: 1", bottom="x x"), NetworkError, "1 coeff for 2 bottoms"),
    (bare("Eltwise", "eltwise_param", "operation: PROD coeff: [1, 2]", bottom="x x"), NetworkError, "PROD"),
    (bare("Scale", "scale_param", "num_axes: -2"), NetworkError, "num_axes -2"),
    (bare("Scale", "scale_param", "axis: 2 num_axes: 3"), NetworkError, "reach past"),
    (bare("Scale", "scale_param", "axis: 4"), NetworkError, "axis 4"),
    (layer("Scale", bottom="x matrix"), NetworkError, "does not match"),
    (layer("Scale", bottom="x like vector"), NetworkError, "3 bottom blobs"),
    (bare("Bias", "bias_param", "num_axes: -2"), NetworkError, "num_axes -2"),
    (bare("Bias", "bias_param", "axis: 3 num_axes: 2"), NetworkError, "reach past"),
    (bare("Bias", "bias_param", "axis: -5"), NetworkError, "axis -5"),
    (bare("Bias", "bias_param", "axis: 0", bottom="x vector"), NetworkError, "does not match axes 0 to 0"),
    (bare("Bias", "bias_param", "axis: 3", bottom="x matrix"), NetworkError, "does not match"),
    # Joining, cutting, regrouping
    (layer("Concat", bottom="x like"), NetworkError, "differ outside axis 1"),
    (layer("Concat", bottom="x matrix"), NetworkError, "differ outside axis 1"),
    (bare("Concat", "concat_param", "axis: 4", bottom="x x"), NetworkError, "axis 4"),
    (bare("Concat", "concat_param", "axis: 1 concat_dim: 1", bottom="x x"), NetworkError, "both axis and concat_dim"),
    (bare("Flatten", "flatten_param", "axis: 2 end_axis: 1"), NetworkError, "before axis 2"),
    (bare("Flatten", "flatten_param", "end_axis: 4"), NetworkError, "end_axis 4"),
    (layer("Slice", top="a b c d"), NetworkError, "evenly divide"),
    (bare("Slice", "slice_param", "axis: 1 slice_dim: 1", top="a b"), NetworkError, "both axis and slice_dim"),
    (bare("Slice", "slice_param", "slice_point: 1", top="a b c"), NetworkError, "1 slice_point for 3 tops"),
    (bare("Slice", "slice_param", "slice_point: [3, 3]", top="a b c"), NetworkError, "do not rise"),
    (bare("Slice", "slice_param", "slice_point: 0", top="a b"), NetworkError, "above 0"),
    (bare("Slice", "slice_param", "slice_point: 6", top="a b"), NetworkError, "outside the 6"),
    (bare("Slice", "slice_param", "axis: 4", top="a b"), NetworkError, "axis 4"),
    (bare("Slice", "slice_param", "slice_dim: 4", top="a b"), NetworkError, "axis 4"),
    (bare("Reshape", "reshape_param", "shape { dim: 0 dim: -1 dim: -1 }"), NetworkError, "several -1"),
    (bare("Reshape", "reshape_param", "shape { dim: -2 }"), NetworkError, "dim -2"),
    (bare("Reshape", "reshape_param", "shape { dim: 5 dim: -1 }"), NetworkError, "not divisible"),
    (bare("Reshape", "reshape_param", "shape { dim: 5 dim: 6 }"), NetworkError, "has 756 values"),
    (layer("Reshape"), NetworkError, "new shape () has 1"),
    (bare("Reshape", "reshape_param", "shape { dim: 1 } axis: 5"), NetworkError, "axis 5"),
    (bare("Reshape", "reshape_param", "shape { dim: 1 } axis: -6"), NetworkError, "axis -6"),
    (bare("Reshape", "reshape_param", "shape { dim: 1 } num_axes: -2"), NetworkError, "num_axes -2"),
    (bare("Reshape", "reshape_param", "shape { dim: 1 } axis: 3 num_axes: 2"), NetworkError, "reach past"),
    (bare("Reshape", "reshape_param", "shape { dim: 1 dim: 0 } axis: -1"), NetworkError, "0 past"),
    (bare("Reshape", "reshape_param", "shape { dim: 0 dim: -1 }", top="x"), NetworkError, "in-place"),
    (layer("Crop"), NetworkError, "1 bottom blobs"),
    (bare("Crop", "crop_param", "axis: 4", bottom="x like"), NetworkError, "axis 4"),
    (bare("Crop", "crop_param", "offset: [1, 1, 1]", bottom="x like"), NetworkError, "3 offset for the 2 axes"),
    (bare("Crop", "crop_param", "offset: 3", bottom="x like"), NetworkError, "reach past the 7 of axis 2"),
    (layer("Crop", bottom="x matrix"), NetworkError, "second bottom of 2 axes"),
    (layer("Tile"), NetworkError, "tiles is missing"),
    (bare("Tile", "tile_param", "tiles: 0"), NetworkError, "tiles 0"),
    (bare("Tile", "tile_param", "tiles: -1"), NetworkError, "tiles -1"),
    (bare("Tile", "tile_param", "tiles: 2 axis: 4"), NetworkError, "axis 4"),
    # Looking for and summing up values
    (bare("ArgMax", "argmax_param", "top_k: 0"), NetworkError, "top_k 0"),
    (bare("ArgMax", "argmax_param", "top_k: 379"), NetworkError, "the 378 values of an item"),
    (bare("ArgMax", "argmax_param", "top_k: 7 axis: 1"), NetworkError, "the 6 values of axis 1"),
    (bare("ArgMax", "argmax_param", "axis: 4"), NetworkError, "axis 4"),
    (bare("Reduction", "reduction_param", "axis: 4"), NetworkError, "axis 4"),
    # Edges of a net
    (bare("Embed", "embed_param", "input_dim: 3"), NetworkError, "num_output"),
    (bare("Embed", "embed_param", "num_output: 3"), NetworkError, "input_dim"),
    ('type: "Parameter" top: "y" parameter_param { shape { dim: 0 } }', NetworkError, "below 1"),
    ('type: "Parameter" parameter_param { shape { dim: 3 } }', NetworkError, "0 top blobs"),
    (layer("Parameter", "parameter_param { shape { dim: 3 } }"), NetworkError, "1 bottom blobs"),
    (layer("Silence"), NetworkError, "1 top blobs"),
    ('type: "Silence"', NetworkError, "0 bottom blobs"),
    # Layers of forks
    (bare("Permute", "permute_param", "order: [0, 2, 0]"), NetworkError, "an axis twice"),
    (bare("Permute", "permute_param", "order: 4"), NetworkError, "order 4 is outside"),
    (layer("Permute", top="x"), NetworkError, "in-place"),
    (bare("ShuffleChannel", "shuffle_channel_param", "group: 0"), NetworkError, "group 0"),
    (bare("ShuffleChannel", "shuffle_channel_param", "group: 4"), NetworkError, "not divisible by group 4"),
    (layer("ShuffleChannel", bottom="vector"), NetworkError, "1 axes"),
    (layer("PixelShuffle"), NetworkError, "upscale_factor is missing"),
    (bare("PixelShuffle", "pixelshuffle_param", "upscale_factor: 0"), NetworkError, "upscale_factor 0"),
    (bare("PixelShuffle", "pixel_shuffle_param", "upscale_factor: 2"), NetworkError, "not divisible by 2 x 2"),
    (bare("PixelShuffle", "pixelshuffle_param", "upscale_factor: 1", bottom="matrix"), NetworkError, "2 axes"),
    (
        layer("PixelShuffle", "pixelshuffle_param { upscale_factor: 2 } pixel_shuffle_param { upscale_factor: 2 }"),
        NetworkError,
        "both pixelshuffle_param and pixel_shuffle_param",
    ),
    (bare("Reshape", "reshape_param", "pixelshuffler: 0"), NetworkError, "pixelshuffler 0"),
    (layer("Reorg"), NetworkError, "stride is missing"),
    (bare("Reorg", "reorg_param", "stride: 0"), NetworkError, "stride 0"),
    (bare("Reorg", "reorg_param", "stride: 2"), NetworkError, "6 channels are not divisible"),
    (bare("Reorg", "reorg_param", "stride: 1", bottom="matrix"), NetworkError, "2 axes"),
    (bare("CReLU", "crelu_param", "concat_axis: 4"), NetworkError, "concat_axis 4"),
    (layer("CReLU", top="x"), NetworkError, "in-place"),
    (bare("BN", "bn_param", "bn_mode: LEARN eps: 0.1"), NetworkError, "bn_mode and eps"),
    (bare("BN", "bn_param", "eps: 0.1", bottom="volume"), NetworkError, "5 axes"),
    (layer("BN"), UnsupportedError, "--dialect"),
    (layer("Normalize"), UnsupportedError, "--dialect"),
    (bare("Normalize", "norm_param", "eps: 1", bottom="vector"), NetworkError, "1 axes"),
    (layer("L2Norm"), NetworkError, "forks differ"),
    (bare("L2Norm", "norm_param", "channel_shared: true", bottom="matrix"), NetworkError, "has no scale"),
    (layer("Axpy", bottom="x x"), NetworkError, "2 bottom blobs"),
    (layer("Axpy", bottom="x x like"), NetworkError, "different shapes"),
    (layer("Axpy", bottom="x x x"), NetworkError, "one value for each channel"),
    (bare("Interp", "interp_param", "zoom_factor: 0"), NetworkError, "zoom_factor 0"),
    (bare("Interp", "interp_param", "height: 0 width: 4"), NetworkError, "a size of 0x4"),
    (bare("Interp", "interp_param", "zoom_factor: 2 pad_beg: 1"), NetworkError, "0 or negative"),
    (bare("Interp", "interp_param", "zoom_factor: 2 pad_end: -7"), NetworkError, "cut all"),
    (bare("Interp", "interp_param", "height: 4"), NetworkError, "no size"),
    (bare("Interp", "interp_param", "zoom_factor: 2", bottom="matrix"), NetworkError, "2 axes"),
    (layer("Upsample"), NetworkError, "scale is missing"),
    (bare("Upsample", "upsample_param", "scale: 0"), NetworkError, "a scale of 0"),
    (bare("Upsample", "upsample_param", "scale_h: 2 scale_w: 2"), NetworkError, "scale_h without a mask"),
    (bare("Upsample", "upsample_param", "scale: 1", bottom="x x"), NetworkError, "a scale of 1"),
    (bare("Upsample", "upsample_param", "scale: 2 scale_h: 2 scale_w: 2", bottom="x x"), NetworkError, "both scale"),
    (bare("Upsample", "upsample_param", "upsample_h: 2", bottom="x x"), NetworkError, "upsample_w is missing"),
    (bare("Upsample", "upsample_param", "upsample_h: 1 upsample_w: 4", bottom="x x"), NetworkError, "a top of 1"),
    (bare("Upsample", "upsample_param", "scale: 3 pad_out_h: true", bottom="x x"), NetworkError, "other than 2"),
    (layer("Upsample", bottom="x like"), NetworkError, "a mask of"),
    (layer("Upsample", bottom="x x x"), NetworkError, "3 bottom blobs"),
    (layer("Upsample", "densecast_param { size_of_last_bottom: true }", "x x matrix"), NetworkError, "2 axes"),
    (bare("UpsampleDarknet", "upsample_darknet_param", "stride: 0"), NetworkError, "stride 0"),
    (bare("UpsampleDarknet", "upsample_darknet_param", "stride: 2", bottom="matrix"), NetworkError, "2 axes"),
    (bare("ResizeBilinear", "resize_bilinear_param", 'data_format: "NCHWD"'), UnsupportedError, "NCHWD"),
    (
        bare("ResizeBilinear", "resize_bilinear_param", "align_corners: true pytorch_half_pixel: true"),
        NetworkError,
        "both align_corners and pytorch_half_pixel",
    ),
    (bare("ResizeBilinear", "resize_bilinear_param", "output_width: 0"), NetworkError, "an output of"),
    (bare("ResizeBilinear", "resize_bilinear_param", "scale_width: 0.1"), NetworkError, "are none"),
    (layer("ResizeNearestNeighbor", bottom="matrix"), NetworkError, "2 axes"),
    (
        bare("ResizeNearestNeighbor", "resize_nearest_neighbor_param", "pytorch_half_pixel: true"),
        NetworkError,
        "only bilinear",
    ),
    (bare("Squeeze", "squeeze_param", "axis: 1"), NetworkError, "axis 1 of"),
    (bare("Squeeze", "squeeze_param", "axis: 4"), NetworkError, "axis 4 is outside"),
    (bare("Padding", "padding_param", "pad_beg: 1 pad_end: -1"), NetworkError, "pads or cuts"),
    (bare("Padding", "padding_param", "pad_beg: 1 pad_t: 1"), NetworkError, "one or the other"),
    (bare("Padding", "padding_param", "pad_beg: -4 pad_end: -3"), NetworkError, "cut all"),
    (bare("Padding", "padding_param", "pad_beg: 1", bottom="matrix"), NetworkError, "2 axes"),
    (bare("Pad", "pad_param", "paddings: [1, 1]"), NetworkError, "2 paddings for 4 axes"),
    (layer("SpaceToBatchND"), NetworkError, "block_shape"),
    (bare("SpaceToBatchND", "space_to_batch_nd_param", "block_shape: 2 paddings: 1"), NetworkError, "1 paddings"),
    (bare("SpaceToBatchND", "space_to_batch_nd_param", "block_shape: 4 paddings: [0, 0]"), NetworkError, "by 4"),
    (
        bare("BatchToSpaceND", "batch_to_space_nd_param", "block_shape: 4 crops: [0, 0]"),
        NetworkError,
        "2 items are not divisible",
    ),
    (
        bare("BatchToSpaceND", "batch_to_space_nd_param", "block_shape: 2 crops: [6, 6]"),
        NetworkError,
        "cut all",
    ),
    (
        bare("BatchToSpaceND", "batch_to_space_nd_param", "block_shape: [1, 1] crops: [0, 0, 0, 0]", bottom="matrix"),
        NetworkError,
        "2 axes of a block",
    ),
]


@pytest.mark.parametrize(("text", "error", "word"), REFUSED, ids=[text[:100] for text, _, _ in REFUSED])
def test_refused(text: str, error: type[DensecastError], word: str) -> None:
    with pytest.raises(DensecastError) as caught:
        network(text)
    assert type(caught.value) is error
    assert word in str(caught.value)
    assert "subject" in str(caught.value)


# What looks as odd but is legal: the shape of the first top.
ACCEPTED = [
    (convolution("num_output: 4 kernel_size: 3 pad_h: 1"), (2, 4, 7, 7)),
    (convolution("num_output: 4 kernel_size: 3 axis: -3"), (2, 4, 5, 7)),
    (deconvolution("num_output: 4 kernel_size: 1 stride: 3"), (2, 4, 19, 25)),
    (pooling("kernel_size: 8 stride: 2", bottom="x"), (2, 6, 1, 2)),
    (pooling("kernel_size: 3", top="y mask"), (2, 6, 5, 7)),
    (bare("SPP", "spp_param", "pyramid_height: 1"), (2, 6, 1, 1)),
    (layer("MVN", bottom="matrix"), (4, 12, 1, 1)),
    (bare("Scale", "scale_param", "num_axes: 0"), (2, 6, 7, 9)),
    (bare("Bias", "bias_param", "axis: 0 num_axes: -1"), (2, 6, 7, 9)),
    (bare("Concat", "concat_param", "axis: -4", bottom="x x"), (4, 6, 7, 9)),
    (bare("Slice", "slice_param", "slice_point: [1, 5]", top="a b c"), (2, 1, 7, 9)),
    (bare("Reshape", "reshape_param", "shape { dim: 1 dim: 1 } axis: -1"), (2, 6, 7, 9, 1, 1)),
    (bare("Reshape", "reshape_param", "shape { dim: 0 dim: 0 dim: -1 }"), (2, 6, 63)),
    (bare("Crop", "crop_param", "offset: 2", bottom="x like"), (2, 6, 5, 4)),
    (bare("ArgMax", "argmax_param", "top_k: 378 out_max_val: true"), (2, 2, 378, 1)),
    (layer("ArgMax", bottom="vector"), (6, 1, 1)),
    (layer("Reduction"), ()),
    (layer("Eltwise", bottom="x pair"), (2, 6, 7, 9)),
    (bare("Eltwise", "eltwise_param", "axis: 1", bottom="x vector"), (2, 6, 7, 9)),
    (bare("Permute", "permute_param", "order: [0, 3]"), (2, 9, 6, 7)),
    (layer("L2Norm", bottom="matrix"), (4, 12)),
    (bare("Interp", "interp_param", "height: 4 width: 5 zoom_factor: 2"), (2, 6, 13, 17)),
    (bare("Interp", "interp_param", "height: 4 zoom_factor: 2 shrink_factor: 3"), (2, 6, 5, 5)),
    (layer("Interp", bottom="x like"), (2, 6, 5, 4)),
    (layer("Upsample", bottom="x x"), (2, 6, 14, 18)),
    (bare("Reshape", "reshape_param", "pixelshuffler: 1 shape { dim: 0 dim: -1 }"), (2, 378)),
    (layer("ResizeBilinear"), (2, 6, 7, 9)),
    (layer("Squeeze"), (2, 6, 7, 9)),
    ('type: "Parameter" top: "y"', ()),
]


@pytest.mark.parametrize(("text", "shape"), ACCEPTED, ids=[text[:100] for text, _ in ACCEPTED])
def test_accepted(text: str, shape: tuple[int, ...]) -> None:
    subject = network(text)
    assert subject.shapes[subject.layers[-1].tops[0]] == shape


def test_an_embedded_value_outside_the_table_is_refused() -> None:
    embed = network(bare("Embed", "embed_param", "num_output: 2 input_dim: 3", bottom="vector")).layers[-1]
    blobs = [np.ones((3, 2)), np.zeros(2)]
    with pytest.raises(NetworkError, match="outside 0 to 2"):
        embed.reference([np.array([0.0, 3.0])], blobs)
    with pytest.raises(NetworkError, match="outside 0 to 2"):
        embed.reference([np.array([np.nan])], blobs)


def test_every_layer_states_its_caffe_type() -> None:
    assert all(cls.caffe_type == kind for kind, cls in registered().items())
    tested = {text.split('"')[1] for text, _, _ in REFUSED}
    # These have nothing to refuse, or are part of the network itself.
    nothing = {
        "BNLL",
        "BatchNorm",
        "Dropout",
        "HardSigmoid",
        "HardSwish",
        "Input",
        "Mish",
        "Power",
        "ReLU",
        "ReLU6",
        "SELU",
        "SeLU",
        "SeLUDropout",
        "SeLu",
        "Sigmoid",
        "Split",
        "Swish",
        "TanH",
        "Threshold",
    }
    assert set(registered()) == tested | nothing
