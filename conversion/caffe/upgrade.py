"""Old definitions -> the current form, as Caffe's own upgrade does it (upgrade_proto.cpp).

Three generations exist: V0 (2013, `layers { layer { type: "conv" } }`), V1 (2014, `layers { type: CONVOLUTION }`) and
the current one (2015, `layer { type: "Convolution" }`); and two ways to state inputs: `input:` fields, or Input layers.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

from google.protobuf.message import Message

from conversion.caffe.caffe_pb2 import LayerParameter, NetParameter, V0LayerParameter, V1LayerParameter
from conversion.caffe.dialects import (
    crop_where_maps_meet,
    has_ceil_mode,
    has_pixelshuffler,
    to_pixel_shuffle,
    to_round_mode,
)
from conversion.errors import NetworkError, UnsupportedError

_V1_TYPES = {
    "NONE": "",
    "ABSVAL": "AbsVal",
    "ACCURACY": "Accuracy",
    "ARGMAX": "ArgMax",
    "BNLL": "BNLL",
    "CONCAT": "Concat",
    "CONTRASTIVE_LOSS": "ContrastiveLoss",
    "CONVOLUTION": "Convolution",
    "CROP": "Crop",
    "DATA": "Data",
    "DECONVOLUTION": "Deconvolution",
    "DROPOUT": "Dropout",
    "DUMMY_DATA": "DummyData",
    "ELTWISE": "Eltwise",
    "EUCLIDEAN_LOSS": "EuclideanLoss",
    "EXP": "Exp",
    "FLATTEN": "Flatten",
    "HDF5_DATA": "HDF5Data",
    "HDF5_OUTPUT": "HDF5Output",
    "HINGE_LOSS": "HingeLoss",
    "IM2COL": "Im2col",
    "IMAGE_DATA": "ImageData",
    "INFOGAIN_LOSS": "InfogainLoss",
    "INNER_PRODUCT": "InnerProduct",
    "LRN": "LRN",
    "MEMORY_DATA": "MemoryData",
    "MULTINOMIAL_LOGISTIC_LOSS": "MultinomialLogisticLoss",
    "MVN": "MVN",
    "POOLING": "Pooling",
    "POWER": "Power",
    "RELU": "ReLU",
    "SIGMOID": "Sigmoid",
    "SIGMOID_CROSS_ENTROPY_LOSS": "SigmoidCrossEntropyLoss",
    "SILENCE": "Silence",
    "SLICE": "Slice",
    "SOFTMAX": "Softmax",
    "SOFTMAX_LOSS": "SoftmaxWithLoss",
    "SPLIT": "Split",
    "TANH": "TanH",
    "THRESHOLD": "Threshold",
    "WINDOW_DATA": "WindowData",
    # Of forks: SegNet and DeepLab.
    "BN": "BN",
    "UPSAMPLE": "Upsample",
    "INTERP": "Interp",
    "PADDING": "Padding",
}

_V0_TYPES = {
    "accuracy": "ACCURACY",
    "bnll": "BNLL",
    "concat": "CONCAT",
    "conv": "CONVOLUTION",
    "data": "DATA",
    "dropout": "DROPOUT",
    "euclidean_loss": "EUCLIDEAN_LOSS",
    "flatten": "FLATTEN",
    "hdf5_data": "HDF5_DATA",
    "hdf5_output": "HDF5_OUTPUT",
    "hinge_loss": "HINGE_LOSS",
    "im2col": "IM2COL",
    "images": "IMAGE_DATA",
    "infogain_loss": "INFOGAIN_LOSS",
    "innerproduct": "INNER_PRODUCT",
    "lrn": "LRN",
    "multinomial_logistic_loss": "MULTINOMIAL_LOGISTIC_LOSS",
    "pool": "POOLING",
    "relu": "RELU",
    "sigmoid": "SIGMOID",
    "softmax": "SOFTMAX",
    "softmax_loss": "SOFTMAX_LOSS",
    "split": "SPLIT",
    "tanh": "TANH",
    "window_data": "WINDOW_DATA",
}

# Where a V0 layer's flat fields went: (V0 field, type) -> (parameter message, field).
_V0_FIELDS: dict[tuple[str, str], tuple[str, str]] = {
    **{
        (field, kind): (parameter, target)
        for kind, parameter in (("conv", "convolution_param"), ("innerproduct", "inner_product_param"))
        for field, target in (
            ("num_output", "num_output"),
            ("biasterm", "bias_term"),
            ("weight_filler", "weight_filler"),
            ("bias_filler", "bias_filler"),
        )
    },
    ("pad", "conv"): ("convolution_param", "pad"),
    ("kernelsize", "conv"): ("convolution_param", "kernel_size"),
    ("group", "conv"): ("convolution_param", "group"),
    ("stride", "conv"): ("convolution_param", "stride"),
    ("pad", "pool"): ("pooling_param", "pad"),
    ("kernelsize", "pool"): ("pooling_param", "kernel_size"),
    ("stride", "pool"): ("pooling_param", "stride"),
    ("pool", "pool"): ("pooling_param", "pool"),
    ("dropout_ratio", "dropout"): ("dropout_param", "dropout_ratio"),
    ("local_size", "lrn"): ("lrn_param", "local_size"),
    ("alpha", "lrn"): ("lrn_param", "alpha"),
    ("beta", "lrn"): ("lrn_param", "beta"),
    ("k", "lrn"): ("lrn_param", "k"),
    ("concat_dim", "concat"): ("concat_param", "concat_dim"),
    **{
        (field, kind): (parameter, target)
        for kind, parameter in (
            ("data", "data_param"),
            ("hdf5_data", "hdf5_data_param"),
            ("images", "image_data_param"),
            ("window_data", "window_data_param"),
            ("infogain_loss", "infogain_loss_param"),
        )
        for field, target in (("source", "source"), ("batchsize", "batch_size"), ("rand_skip", "rand_skip"))
    },
    ("new_height", "images"): ("image_data_param", "new_height"),
    ("new_width", "images"): ("image_data_param", "new_width"),
    ("shuffle_images", "images"): ("image_data_param", "shuffle"),
    ("det_fg_threshold", "window_data"): ("window_data_param", "fg_threshold"),
    ("det_bg_threshold", "window_data"): ("window_data_param", "bg_threshold"),
    ("det_fg_fraction", "window_data"): ("window_data_param", "fg_fraction"),
    ("det_context_pad", "window_data"): ("window_data_param", "context_pad"),
    ("det_crop_mode", "window_data"): ("window_data_param", "crop_mode"),
    ("hdf5_output_param", "hdf5_output"): ("hdf5_output_param", ""),
}
_V0_TRANSFORM = {"scale": "scale", "meanfile": "mean_file", "cropsize": "crop_size", "mirror": "mirror"}
# Parallel lists with one entry per learned blob became one ParamSpec per blob.
_V1_SPECS = {"param": "name", "blob_share_mode": "share_mode", "blobs_lr": "lr_mult", "weight_decay": "decay_mult"}
_DATA_PARAMETERS = ("data_param", "image_data_param", "window_data_param")


def upgrade(net: NetParameter, *, where: str = "") -> NetParameter:
    """Returns the net in the current form; the same object if it is current already.

    Args:
        net: In any of the three forms.
        where: The file, for errors.

    Raises:
        NetworkError: `layer` and `layers` are mixed, or Caffe refuses how inputs are stated.
        UnsupportedError: A V0 field or type that has no successor.
    """
    try:
        return _upgrade(net, where)
    except UnicodeDecodeError as error:  # protobuf accepts any bytes as a string, but refuses to assign them
        raise NetworkError(f"a string that is not UTF-8: {error.object[:40]!r}", where=where) from error


def _upgrade(net: NetParameter, where: str) -> NetParameter:
    _refuse_mixed(net, where)
    current = not net.layers and not net.input
    if current and not any(
        _is_old_batch_norm(layer) or has_ceil_mode(layer) or has_pixelshuffler(layer) for layer in net.layer
    ):
        return net
    out = NetParameter()
    out.CopyFrom(net)
    if out.layers:
        layers = list(out.layers)
        out.ClearField("layers")
        if any(layer.HasField("layer") for layer in layers):
            layers = _fold_padding(layers, where)
            layers = [_from_v0(layer) if layer.HasField("layer") else layer for layer in layers]
        for old in layers:
            _from_v1(old, out.layer.add())
    if out.input:
        _inputs_to_layers(out, where)
    for layer in out.layer:
        if _is_old_batch_norm(layer):
            # Old files name three frozen params, which Caffe now makes itself (UpgradeNetBatchNorm).
            layer.ClearField("param")
        if has_ceil_mode(layer):
            to_round_mode(layer, where)
        if has_pixelshuffler(layer):
            to_pixel_shuffle(layer, where)
    return out


def _refuse_mixed(net: NetParameter, where: str) -> None:
    if net.layer and net.layers:
        raise NetworkError("both `layer` and `layers`", where=where, why="a net has one form or the other (Caffe)")


def _is_old_batch_norm(layer: LayerParameter) -> bool:
    return layer.type == "BatchNorm" and len(layer.param) == 3


def _inputs_to_layers(net: NetParameter, where: str) -> None:
    """Turns `input:` with `input_shape` or `input_dim` into one Input layer named "input" (UpgradeNetInput).

    Without a shape Caffe drops it: an Input layer has it then, or Caffe finds no such blob.
    """
    names = list(net.input)
    shapes = [list(shape.dim) for shape in net.input_shape]
    dims = list(net.input_dim)
    if shapes and dims:
        raise NetworkError("both input_shape and input_dim", where=where, why="Caffe accepts one or the other")
    if dims:
        if len(dims) != 4 * len(names):
            raise NetworkError(f"{len(dims)} input_dim for {len(names)} inputs", where=where, why="each input has four")
        shapes = [dims[i : i + 4] for i in range(0, len(dims), 4)]
    if shapes and len(shapes) != len(names):
        raise NetworkError(f"{len(shapes)} input_shape for {len(names)} inputs", where=where)
    layers = list(net.layer)
    made = {top for layer in layers for top in layer.top}
    missing = [name for name in names if name not in made]
    if not shapes and missing:
        raise NetworkError(
            f"input {', '.join(map(str, missing))} without a shape",
            where=where,
            why="no layer makes it either",
            remedy="add `input_shape { dim: 1 dim: 3 dim: 227 dim: 227 }` with the training size",
        )
    for field in ("layer", "input", "input_shape", "input_dim") if shapes else ("input",):
        net.ClearField(field)
    if not shapes:
        return
    first = net.layer.add(name="input", type="Input", top=names)
    for shape in shapes:
        first.input_param.shape.add(dim=shape)
    net.layer.extend(layers)


def _fold_padding(layers: Iterable[V1LayerParameter], where: str) -> list[V1LayerParameter]:
    """Turns V0 `padding` layers into the pad of the convolution or pooling that reads them (UpgradeV0PaddingLayers)."""
    kept: list[V1LayerParameter] = []
    producers: dict[str, V1LayerParameter] = {}
    for layer in layers:
        for index, bottom in enumerate(layer.bottom):
            source = producers.get(bottom)
            if source is None or source.layer.type != "padding":
                continue
            if layer.layer.type not in ("conv", "pool") or len(layer.bottom) != 1 or len(source.bottom) != 1:
                raise NetworkError(
                    f"padding layer {source.layer.name!r} feeds {layer.layer.name!r}",
                    where=where,
                    why="padding can be folded into one convolution or pooling only",
                )
            layer.layer.pad = source.layer.pad
            layer.bottom[index] = source.bottom[0]
        for top in layer.top:
            producers[top] = layer
        if layer.layer.type != "padding":
            kept.append(layer)
    return kept


def _from_v0(old: V1LayerParameter) -> V1LayerParameter:
    """Turns one V0 layer into V1 (UpgradeV0LayerParameter)."""
    flat: V0LayerParameter = old.layer
    new = V1LayerParameter(name=flat.name, bottom=old.bottom, top=old.top)
    for field in ("blobs", "blobs_lr", "weight_decay"):
        getattr(new, field).extend(getattr(flat, field))
    if flat.type not in _V0_TYPES:
        raise UnsupportedError(f"V0 layer type {flat.type!r}", where=f"layer {flat.name!r}")
    new.type = cast("V1LayerParameter.LayerType", V1LayerParameter.LayerType.Value(_V0_TYPES[flat.type]))
    for descriptor, value in flat.ListFields():
        field = descriptor.name
        if field in ("name", "type", "blobs", "blobs_lr", "weight_decay"):
            continue
        if field in _V0_TRANSFORM and flat.type in ("data", "images", "window_data"):
            setattr(new.transform_param, _V0_TRANSFORM[field], value)
        elif (field, flat.type) in _V0_FIELDS:
            parameter, target = _V0_FIELDS[field, flat.type]
            message = getattr(new, parameter)
            _assign(message if target else new, target or parameter, value)
        else:
            raise UnsupportedError(f"V0 field {field} on type {flat.type!r}", where=f"layer {flat.name!r}")
    return new


def _assign(message: Message, field: str, value: object) -> None:
    """Sets a field of any kind to a value of any kind; appends a single value to a repeated field."""
    target = getattr(message, field)
    if hasattr(target, "extend"):
        target.extend(value if hasattr(value, "extend") else [value])
    elif hasattr(target, "CopyFrom"):
        target.CopyFrom(value)
    else:
        setattr(message, field, value)


def _from_v1(old: V1LayerParameter, new: LayerParameter) -> None:
    """Turns one V1 layer into the current form (UpgradeV1LayerParameter)."""
    for descriptor, value in old.ListFields():
        if descriptor.name == "type":
            new.type = _V1_TYPES[V1LayerParameter.LayerType.Name(value)]
            if new.type == "Crop":  # Caffe's V1 has none: it is that of one fork
                crop_where_maps_meet(new)
        elif descriptor.name not in _V1_SPECS:
            _assign(new, descriptor.name, value)
    for index in range(max(len(getattr(old, field)) for field in _V1_SPECS)):
        spec = new.param.add()
        for field, successor in _V1_SPECS.items():
            values = getattr(old, field)
            if index < len(values):
                setattr(spec, successor, values[index])
    for parameter in _DATA_PARAMETERS:
        if new.HasField(parameter):
            _move_transform(getattr(new, parameter), new)


def _move_transform(data: Message, layer: LayerParameter) -> None:
    """Moves the transformation that old data layers kept among their own fields (UpgradeNetDataTransformation)."""
    for field in ("scale", "mean_file", "crop_size", "mirror"):
        if data.HasField(field):
            setattr(layer.transform_param, field, getattr(data, field))
            data.ClearField(field)
