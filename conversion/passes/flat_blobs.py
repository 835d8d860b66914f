"""Flat blobs that keep their positions: what becomes of a layer when [N, C*H*W] is carried as [N, C, H, W].

A classifier flattens its last map: Flatten and Reshape say so, InnerProduct does it by itself. A pass of the cast that
keeps the positions instead gives two axes to every blob from there on, and each layer after it must do the same thing
on the map as it did on the vector: count its axes otherwise, or, where it cannot, be refused by name.
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
from conversion.layers.flatten import Flatten, Reshape
from conversion.layers.normalization import BatchNorm
from conversion.layers.reduction import ArgMax
from conversion.net.network import Network, to_definition

Extent = tuple[int, int]  # height and width, at the training size, of the map behind a flat blob
Change = Callable[[Layer, LayerParameter, Extent | None], Extent | None]

ONE: Extent = (1, 1)
# Each value by itself, and no learned values: a vector and a map are the same to them.
# fmt: off
_POINTWISE = frozenset({
    "AbsVal", "BNLL", "Clip", "Dropout", "ELU", "Eltwise", "Exp", "Log", "Power", "ReLU", "Sigmoid", "Silence", "Split",
    "Swish", "TanH", "Threshold",
})
# fmt: on
# Along one axis, which they name: (parameter, field, the field's old name).
_ALONG = {
    "ArgMax": ("argmax_param", "axis", ""),
    "Concat": ("concat_param", "axis", "concat_dim"),
    "Slice": ("slice_param", "axis", "slice_dim"),
    "Softmax": ("softmax_param", "axis", ""),
}


def rewrite(network: Network, change: Change) -> NetParameter:
    """The definition with some layers changed so that flat blobs keep their positions, and the others following.

    Args:
        network: The net before the pass.
        change: (layer, its message, the extent of its first bottom or None) -> the extent of its tops, if it changed
            the message so that they keep positions which they lost before; otherwise None. A layer that it leaves
            alone and that reads such a blob is adapted.

    Raises:
        CastError: A layer has no form on a map.
    """
    definition = to_definition(network)
    flat: dict[str, Extent] = {}
    for layer, message in zip(network.layers, definition.layer, strict=True):
        found = [flat.get(bottom) for bottom in layer.bottoms]
        extent = change(layer, message, found[0] if found else None)
        if extent is None and any(found):
            extent = _adapt(network, layer, message, found)
        for top in layer.tops:
            flat.pop(top, None)
            if extent is not None:
                flat[top] = extent
    return definition


def joins_all(layer: Layer, bottom: Shape) -> bool:
    """Whether a layer is a Flatten or Reshape of a map [N, C, H, W] to vectors [N, C*H*W]."""
    if not isinstance(layer, (Flatten, Reshape)) or len(bottom) != 4:
        return False
    top = layer.output_shapes([bottom])[0]
    return len(top) == 2 and top[0] == bottom[0]


def to_split(message: LayerParameter) -> None:
    """Makes a Flatten or Reshape a Split of one copy: it shares its bottom's memory as they do, and moves nothing."""
    message.type = "Split"
    for field in ("flatten_param", "reshape_param"):
        message.ClearField(field)


def _adapt(network: Network, layer: Layer, message: LayerParameter, found: Sequence[Extent | None]) -> Extent | None:
    """Changes the message of a layer that reads flat blobs; the extent of its tops if they are flat as well."""
    shapes = [network.shapes[bottom] for bottom in layer.bottoms]
    if None in found or len(set(found)) > 1:
        sizes = ", ".join(f"{b} {s}" for b, s in zip(layer.bottoms, shapes, strict=True))
        raise CastError(
            f"reads blobs whose positions do not correspond: {sizes}",
            where=layer.where,
            why="what the whole image gave once is given at every position of a map, and these are not as many "
            "(a squeeze-and-excitation block, say, has no dense form)",
        )
    extent = found[0] or ONE
    kind = layer.caffe_type
    if kind in _POINTWISE:
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
    if isinstance(layer, BatchNorm) and layer.use_global_stats:
        return _one_position(layer, extent)
    if isinstance(layer, PReLU):
        return extent if layer.channel_shared else _one_position(layer, extent)
    if isinstance(layer, (Flatten, Reshape)):
        return _reshaped(layer, message, shapes[0], extent)
    raise CastError(
        f"reads the flat blob {layer.bottoms[0]!r}",
        where=layer.where,
        why=f"{kind} has no form on a map [N, C, H, W] that does the same at every position",
    )


def _along(network: Network, layer: Layer, message: LayerParameter, extent: Extent) -> Extent | None:
    """A layer along one axis: it is counted from the start, since blobs gain axes at their end."""
    parameter, field, old = _ALONG[layer.caffe_type]
    value = getattr(message, parameter)
    if isinstance(layer, ArgMax) and layer.axis is None:
        # Over all values of an item, which are those of one position now.
        if layer.out_max_val or layer.tops[0] not in network.outputs:
            raise CastError("no axis", where=layer.where, why="it sees a whole item", remedy="give it `axis: 1`")
        value.axis = 1
        _one_position(layer, extent)
        return None
    if not (old and value.HasField(old)):
        axis = getattr(value, field)
        setattr(value, field, axis + 2 if axis < 0 else axis)
        if getattr(value, field) == 0:
            return extent
    return extent if layer.caffe_type == "Concat" else _one_position(layer, extent)


def _operand(layer: OperandLayer, message: LayerParameter, extent: Extent) -> Extent:
    """Scale and Bias: one value a channel, or one for all, or value by value with a second blob."""
    if len(layer.bottoms) == 2:
        return extent
    value = message.scale_param if layer.caffe_type == "Scale" else message.bias_param
    axis = layer.axis % 2
    value.axis = axis
    if layer.num_axes == 0:
        return extent
    if axis != 1:
        raise CastError(f"axis {layer.axis}", where=layer.where, why="each item of a batch has values of its own")
    value.num_axes = 1
    return _one_position(layer, extent)


def _reshaped(layer: Layer, message: LayerParameter, shape: Shape, extent: Extent) -> Extent | None:
    """A Reshape or Flatten of vectors: fine where they stay vectors, or become maps of one position."""
    top = layer.output_shapes([shape])[0]
    to_split(message)
    if top == shape:
        return extent
    if top == (*shape, 1, 1) and extent == ONE:
        return None
    raise CastError(f"makes {top} of {shape}", where=layer.where, why="the positions of a map are not its to arrange")


def _one_position(layer: Layer, extent: Extent) -> Extent:
    """The extent, which must be a single position: the layer tells a map's channels apart, not its positions."""
    if extent != ONE:
        raise CastError(
            f"reads {layer.bottoms[0]!r}, a flattened map of {extent[0]}x{extent[1]} positions",
            where=layer.where,
            why="it treats each position in its own way, and a map has as many as the image asks for",
        )
    return extent
