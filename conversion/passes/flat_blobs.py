"""Adapts layers to flat blobs that keep their positions: [N, C*H*W] becomes [N, C, H, W].

A classifier flattens its last map, by Flatten, Reshape or inside InnerProduct. A pass of the cast that keeps the
positions adds two axes to every later blob. Each later layer must then do on the map what it did on the vector: its
axes are counted differently, or, if that is not enough, the cast is refused with the layer's name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import LayerParameter, NetParameter
from conversion.errors import CastError
from conversion.layers.activation import PReLU
from conversion.layers.arithmetic import OperandLayer
from conversion.layers.base import Layer
from conversion.layers.convolution import InnerProduct
from conversion.layers.flatten import Flatten, Reshape, Squeeze
from conversion.layers.item_norms import BN, L2Norm, Normalize
from conversion.layers.normalization import BatchNorm
from conversion.layers.rearrange import ShuffleChannel
from conversion.layers.reduction import ArgMax
from conversion.net.network import Network, to_definition

Extent = tuple[int, int]  # height and width, at the training size, of the map that a flat blob was
Change = Callable[[Layer, LayerParameter, Extent | None], Extent | None]

ONE: Extent = (1, 1)
# They map each value independently and learn nothing: vectors and maps are the same to them.
# fmt: off
_POINTWISE = frozenset({
    "AbsVal", "BNLL", "Clip", "Dropout", "ELU", "Eltwise", "Exp", "HardSigmoid", "HardSwish", "Log", "Mish", "Power",
    "ReLU", "ReLU6", "SELU", "SeLU", "SeLu", "Sigmoid", "Silence", "Split", "Swish", "TanH", "Threshold",
})
# fmt: on
# They work along one named axis: (parameter, field, the field's old name).
_ALONG = {
    "ArgMax": ("argmax_param", "axis", ""),
    "CReLU": ("crelu_param", "concat_axis", ""),
    "Concat": ("concat_param", "axis", "concat_dim"),
    "Slice": ("slice_param", "axis", "slice_dim"),
    "Softmax": ("softmax_param", "axis", ""),
}


def rewrite(network: Network, change: Change) -> NetParameter:
    """Returns the definition with some layers changed to keep positions of flat blobs, and later layers adapted.

    Args:
        network: The net before the pass.
        change: Called with a layer, its message, and the extent of its first bottom or None. Returns the extent of its
            tops if it changed the message so that they keep their positions; otherwise None. Layers that it does not
            change and that read such a blob are adapted.

    Raises:
        CastError: A layer has no form on a map.
    """
    definition = to_definition(network)
    flat: dict[str, Extent] = {}
    for layer, message in zip(network.layers, definition.layer, strict=True):
        extents = [flat.get(bottom) for bottom in layer.bottoms]
        extent = change(layer, message, extents[0] if extents else None)
        if extent is None and any(extents):
            extent = _adapt(network, layer, message, extents)
        for top in layer.tops:
            flat.pop(top, None)
            if extent is not None:
                flat[top] = extent
    return definition


def joins_all(layer: Layer, bottom: Shape) -> bool:
    """Returns whether a layer is a Flatten, Reshape or Squeeze of a map [N, C, H, W] to vectors [N, C*H*W]."""
    if not isinstance(layer, (Flatten, Reshape, Squeeze)) or len(bottom) != 4:
        return False
    top = layer.output_shapes([bottom])[0]
    return len(top) == 2 and top[0] == bottom[0]


def to_split(message: LayerParameter) -> None:
    """Turns a Flatten, Reshape or Squeeze into a Split of one copy, which shares its bottom's memory as they do."""
    message.type = "Split"
    for field in ("flatten_param", "reshape_param", "squeeze_param"):
        message.ClearField(field)


def _adapt(network: Network, layer: Layer, message: LayerParameter, extents: Sequence[Extent | None]) -> Extent | None:
    """Changes the message of a layer that reads flat blobs; returns the extent of its tops if they are flat as well."""
    shapes = [network.shapes[bottom] for bottom in layer.bottoms]
    if None in extents or len(set(extents)) > 1:
        sizes = ", ".join(f"{b} {s}" for b, s in zip(layer.bottoms, shapes, strict=True))
        raise CastError(
            f"reads blobs whose positions do not correspond: {sizes}",
            where=layer.where,
            why="a value of the whole image becomes a map, and this map has not as many positions as the other "
            "(a squeeze-and-excitation block, for example, has no dense form)",
        )
    extent = extents[0] or ONE
    kind = layer.caffe_type
    if kind in _POINTWISE or (isinstance(layer, PReLU) and layer.channel_shared):
        return extent
    if kind in _ALONG:
        return _along(network, layer, message, extent)
    if isinstance(layer, InnerProduct):
        if layer.axis % 2 != 1:
            raise CastError(f"axis {layer.axis}", where=layer.where, why="only axes 1.. can become a convolution")
        message.inner_product_param.ClearField("axis")
        return None
    if isinstance(layer, OperandLayer):
        return _operand(layer, message, extent)
    if _per_channel(layer, message):
        return _one_position(layer, extent)
    if isinstance(layer, (Flatten, Reshape, Squeeze)):
        return _reshaped(layer, message, shapes[0], extent)
    raise CastError(
        f"reads the flat blob {layer.bottoms[0]!r}",
        where=layer.where,
        why=f"{kind} has no form that does the same at every position of a map [N, C, H, W]",
    )


def _per_channel(layer: Layer, message: LayerParameter) -> bool:
    """Returns whether a layer does something per channel: on maps of one position it does it to vectors too.

    A norm of a vector becomes that of each position.
    """
    if isinstance(layer, (Normalize, L2Norm)):
        message.norm_param.across_spatial = False
    statistics = (isinstance(layer, BatchNorm) and layer.use_global_stats) or (
        isinstance(layer, BN) and not layer.learn
    )
    return statistics or isinstance(layer, (PReLU, ShuffleChannel, Normalize, L2Norm))


def _along(network: Network, layer: Layer, message: LayerParameter, extent: Extent) -> Extent | None:
    """Adapts a layer along one axis: it is counted from the start, since blobs gain axes at their end."""
    parameter, field, old = _ALONG[layer.caffe_type]
    value = getattr(message, parameter)
    if isinstance(layer, ArgMax) and layer.axis is None:
        # It works over all values of an item, now those of one position.
        if layer.out_max_val or layer.tops[0] not in network.outputs:
            raise CastError("no axis", where=layer.where, why="it reads a whole item", remedy="give it `axis: 1`")
        value.axis = 1
        _one_position(layer, extent)
        return None
    if not (old and value.HasField(old)):
        axis = getattr(value, field)
        setattr(value, field, axis + 2 if axis < 0 else axis)
        if getattr(value, field) == 0:
            return extent
    return extent if layer.caffe_type in ("Concat", "CReLU") else _one_position(layer, extent)


def _operand(layer: OperandLayer, message: LayerParameter, extent: Extent) -> Extent:
    """Adapts Scale and Bias: one value per channel, or one for all, or value by value with a second blob."""
    if len(layer.bottoms) == 2:
        return extent
    value = message.scale_param if layer.caffe_type == "Scale" else message.bias_param
    axis = layer.axis % 2
    value.axis = axis
    if layer.num_axes == 0:
        return extent
    if axis != 1:
        raise CastError(f"axis {layer.axis}", where=layer.where, why="each item of a batch would have other values")
    value.num_axes = 1
    return _one_position(layer, extent)


def _reshaped(layer: Layer, message: LayerParameter, shape: Shape, extent: Extent) -> Extent | None:
    """Adapts a Reshape, Flatten or Squeeze of vectors: they must stay vectors, or become maps of one position."""
    top = layer.output_shapes([shape])[0]
    to_split(message)
    if top == shape:
        return extent
    if top == (*shape, 1, 1) and extent == ONE:
        return None
    raise CastError(f"makes {top} of {shape}", where=layer.where, why="it would rearrange the positions of a map")


def _one_position(layer: Layer, extent: Extent) -> Extent:
    """Returns the extent, which must be a single position: the layer has values per channel, not per position."""
    if extent != ONE:
        raise CastError(
            f"reads {layer.bottoms[0]!r}, a flattened map of {extent[0]}x{extent[1]} positions",
            where=layer.where,
            why="it treats each position differently, and the number of positions depends on the image",
        )
    return extent
