"""The cast: a classifier becomes fully convolutional. An ordered list of passes over a Network.

Each pass takes a Network and returns another; what it expects and what it gives is in its docstring. After every one
of them the net computes, at the definition's own size, what the classifier computes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from conversion.arrays import Array, Shape
from conversion.building import build
from conversion.caffe_pb2 import LayerParameter, NetParameter, PoolingParameter
from conversion.errors import CastError, NetworkError
from conversion.flattened import ONE, Extent, joins_all, rewrite, to_split
from conversion.geometry import spans
from conversion.layers.base import Layer
from conversion.layers.convolution import Convolution, InnerProduct
from conversion.layers.pooling import Pooling
from conversion.layers.reduction import Reduction
from conversion.layers.reshaping import Reshape
from conversion.layers.shaping import Flatten
from conversion.limits import UNLIMITED
from conversion.network import Network, Parameters, to_definition

CAST_SUFFIX = "-conv"  # as in Caffe's own notebook on net surgery


def cast(network: Network) -> Network:
    """The fully convolutional form of a classifier: every head becomes convolutions and poolings that slide.

    At the definition's own input size, which must be the one that the classifier was trained at, the result equals the
    classifier; on a larger input it gives a map. Layers and blobs that become convolutions gain the suffix `-conv`.
    Works with and without weights.

    Raises:
        CastError: A layer cannot be made convolutional; the message names it and says why.
    """
    for one in PASSES:
        network = one(network)
    _check_that_it_slides(network)
    return network


def slide_whole_windows(network: Network) -> Network:
    """A window that covers the whole training map slides by one cell, whatever its stride was.

    Given: Pooling, global or with a kernel that reaches over all of its bottom and leaves one cell (NiN, GoogLeNet,
    SqueezeNet, ResNet, MobileNet); or a Convolution whose kernel is its bottom's size.
    Result: a kernel of the training map's size, stride 1, no pad. The mean over a window that Caffe counts padding in
    is that of the map times a constant, which a Power layer `<name>-scale` in place multiplies. Nothing else changes.
    """
    definition = to_definition(network)
    scales: dict[str, LayerParameter] = {}
    for layer, message in zip(network.layers, definition.layer, strict=True):
        if isinstance(layer, Pooling):
            factor = _slide_pooling(layer, message, network.shapes[layer.bottoms[0]])
            if factor != 1.0:
                scales[layer.name] = _power(layer.name, layer.tops[0], factor)
        elif isinstance(layer, Convolution):
            _slide_convolution(layer, message, network.shapes[layer.bottoms[0]])
    return _rebuilt(network, definition, scales)


def reductions_to_poolings(network: Network) -> Network:
    """Reduction over all positions -> average pooling of the training map's size with stride 1.

    Given: a Reduction, SUM or MEAN, from axis 2 on of a blob [N, C, H, W].
    Result: Pooling AVE, kernel (H, W), and where the Reduction is no plain mean a Power layer `<name>-scale` in place
    with the factor: the top is [N, C, 1, 1], and later layers follow.

    Raises:
        CastError: It sums magnitudes or squares, or a later layer has no form on a map.
    """
    scales: dict[str, LayerParameter] = {}

    def change(layer: Layer, message: LayerParameter, extent: Extent | None) -> Extent | None:
        shape = network.shapes[layer.bottoms[0]] if layer.bottoms else ()
        if not isinstance(layer, Reduction) or extent or len(shape) != 4 or layer.axis % 4 != 2:
            return None
        if layer.operation not in ("SUM", "MEAN"):
            raise CastError(
                f"operation {layer.operation}", where=layer.where, why="only SUM and MEAN over positions are poolings"
            )
        factor = layer.coeff * (math.prod(shape[2:]) if layer.operation == "SUM" else 1)
        message.type = "Pooling"
        message.ClearField("reduction_param")
        message.pooling_param.pool = PoolingParameter.AVE
        _set_kernel(message.pooling_param, shape)
        if factor != 1.0:
            scales[layer.name] = _power(layer.name, layer.tops[0], factor)
        return ONE

    return _rebuilt(network, rewrite(network, change), scales)


def bypass_flatten(network: Network) -> Network:
    """Lets InnerProducts read what a Flatten before them reads: an InnerProduct flattens by itself.

    Given: a Flatten of all axes but the first, read by InnerProducts only.
    Result: no such Flatten; its readers read its bottom. Nothing else changes.
    """
    definition = to_definition(network)
    readers: dict[str, list[Layer]] = {}
    for layer in network.layers:
        for bottom in layer.bottoms:
            readers.setdefault(bottom, []).append(layer)
    replaced: dict[str, str] = {}
    for layer in network.layers:
        if not isinstance(layer, Flatten) or layer.tops == layer.bottoms:
            continue
        rank = len(network.shapes[layer.bottoms[0]])
        whole = layer.axis % rank == 1 and layer.end_axis % rank == rank - 1
        reading = readers.get(layer.tops[0], [])
        if whole and reading and all(isinstance(reader, InnerProduct) for reader in reading):
            replaced[layer.tops[0]] = layer.bottoms[0]
    kept = [m for m in definition.layer if not (m.type == Flatten.caffe_type and m.top[0] in replaced)]
    if not replaced:
        return network
    del definition.layer[:]
    for message in kept:
        message.bottom[:] = [replaced.get(bottom, bottom) for bottom in message.bottom]
        definition.layer.append(message)
    return _rebuilt(network, definition)


def keep_positions(network: Network) -> Network:
    """Flatten and Reshape that end a map are left undone, and the layers after them work on the map.

    Given: a Flatten or Reshape from [N, C, H, W] to [N, C*H*W], read by anything that does the same at every position:
    activations, Concat of maps of one size, Softmax, Scale, ... and in the end perhaps InnerProducts; or a Reshape to
    the very shape that its bottom has.
    Result: a Split of one copy in its place, which keeps the names and shares memory as it did. Axes that later layers
    count from the end are counted from the start, since blobs gain two axes.

    Raises:
        CastError: A layer after it treats positions differently from each other.
    """

    def change(layer: Layer, message: LayerParameter, extent: Extent | None) -> Extent | None:
        shape = network.shapes[layer.bottoms[0]] if layer.bottoms else ()
        if extent is None and joins_all(layer, shape):
            to_split(message)
            return (shape[2], shape[3])
        if (
            extent is None
            and isinstance(layer, Reshape)
            and len(shape) == 4
            and layer.output_shapes([shape])[0] == shape
        ):
            to_split(message)  # its numbers are those of the training size
        return None

    return _rebuilt(network, rewrite(network, change))


def inner_products_to_convolutions(network: Network) -> Network:
    """InnerProduct -> Convolution with the same weights.

    Given: InnerProducts along axis 1, on blobs [N, C, H, W], or [N, K] where an InnerProduct made them.
    Result: Convolutions with filters [num_output, C, H, W] ([num_output, K, 1, 1] after another InnerProduct), named
    with the suffix; the (N, K) matrix and the (N, C, H, W) filter bank are the same memory. Axes that later layers
    count from the end are counted from the start, since blobs gain two axes.

    Raises:
        CastError: An InnerProduct reads no map, a later layer has no form on a map, or a name is taken.
    """
    if not any(isinstance(layer, InnerProduct) for layer in network.layers):
        return network
    _refuse_taken_names(network)
    parameters = dict(network.parameters)
    renamed: dict[str, str] = {}
    reshaped: dict[tuple[int, bool, tuple[int, int]], Array] = {}  # shared matrices stay shared

    def change(layer: Layer, message: LayerParameter, extent: Extent | None) -> Extent | None:
        if not isinstance(layer, InnerProduct):
            return None
        kernel = _kernel(network, layer, extent)
        _to_convolution(layer, message, kernel)
        renamed.update({top: top + CAST_SUFFIX for top in layer.tops})
        if layer.name in parameters:
            weights, *bias = parameters.pop(layer.name)
            key = (id(weights), layer.transpose, kernel)
            if key not in reshaped:
                matrix = np.ascontiguousarray(weights.T) if layer.transpose else weights
                reshaped[key] = matrix.reshape(layer.num_output, -1, *kernel)
            parameters[message.name] = (reshaped[key], *bias)
        return ONE

    definition = rewrite(network, change)
    for message in definition.layer:
        for blobs in (message.bottom, message.top):
            blobs[:] = [renamed.get(blob, blob) for blob in blobs]
    return _rebuilt(network, definition, parameters=parameters)


# Poolings first, while shapes are the classifier's. An InnerProduct must see the [N, C, H, W] blob to know its kernel:
# what flattens goes before it, by the bypass where nothing but InnerProducts reads it, so that no copy is left.
PASSES: tuple[Callable[[Network], Network], ...] = (
    slide_whole_windows,
    reductions_to_poolings,
    bypass_flatten,
    keep_positions,
    inner_products_to_convolutions,
)


def _check_that_it_slides(network: Network) -> None:
    """Raises CastError where a larger image gives maps that do not fit each other: heads on maps of other strides."""
    images = [blob for blob, shape in network.inputs.items() if len(shape) == 4]
    if len(images) != 1:
        return
    steps = [pair for pair in spans(network).values() if pair is not None]
    larger = dict(network.inputs)
    shape = larger[images[0]]
    # Two strides of the coarsest map more: what corresponds at the training size and slides alike still corresponds.
    y, x = (2 * math.lcm(*(math.ceil(pair[axis].stride) for pair in steps)) for axis in (0, 1))
    larger[images[0]] = (*shape[:2], shape[2] + y, shape[3] + x)
    try:
        network.shapes_at(larger)
    except NetworkError as error:
        raise CastError(
            f"on an image of {shape[2] + y}x{shape[3] + x}: {error.what}",
            where=error.where,
            why="the net computes one size only; its maps slide by different strides, or a layer states a size",
        ) from error


def _rebuilt(
    network: Network,
    definition: NetParameter,
    inserted: Mapping[str, LayerParameter] | None = None,
    parameters: Parameters | None = None,
) -> Network:
    """The network of a changed definition, with layers inserted after those named; itself if nothing changed."""
    if inserted:
        layers = [m for message in definition.layer for m in _with_successor(message, inserted)]
        del definition.layer[:]
        definition.layer.extend(layers)
    if parameters is None and definition == to_definition(network):
        return network
    kept = network.parameters if parameters is None else parameters
    return dataclasses.replace(build(definition, kept, limits=UNLIMITED), notes=network.notes, windows=network.windows)


def blob_names(network: Network) -> dict[str, str]:
    """The blobs with positions by name; what the cast renamed by the classifier's own name as well."""
    maps = [blob for blob, shape in network.shapes.items() if len(shape) == 4]
    own = {
        blob.removesuffix(CAST_SUFFIX): blob for blob in maps if blob.removesuffix(CAST_SUFFIX) not in network.shapes
    }
    return {**own, **{blob: blob for blob in maps}}


def _refuse_taken_names(network: Network) -> None:
    """The names that the cast gives must be free."""
    taken = {layer.name for layer in network.layers} | set(network.shapes)
    for layer in network.layers:
        clash = [name + CAST_SUFFIX for name in (layer.name, *layer.tops) if name + CAST_SUFFIX in taken]
        if isinstance(layer, InnerProduct) and clash:
            raise CastError(
                f"the name {clash[0]!r} is taken",
                where=layer.where,
                why="the layer and its blob get that name when they become convolutional",
                remedy="rename the layer or blob that has it, in the definition and in the weights",
            )


def _with_successor(message: LayerParameter, inserted: Mapping[str, LayerParameter]) -> Iterable[LayerParameter]:
    yield message
    if message.name in inserted:
        yield inserted[message.name]


def _power(name: str, blob: str, scale: float) -> LayerParameter:
    """A layer that multiplies a blob in place."""
    message = LayerParameter(name=f"{name}-scale", type="Power", bottom=[blob], top=[blob])
    message.power_param.scale = scale
    return message


def _slide_pooling(layer: Pooling, message: LayerParameter, shape: Shape) -> float:
    """Changes a pooling of the whole map; gives the factor that its mean lacks then (1 for most)."""
    size = shape[2:]
    kernel = size if layer.global_pooling else layer.kernel
    ends = [k - p for k, p in zip(kernel, layer.pad, strict=True)]  # cell 0 reads [-pad, end)
    if layer.output_shapes([shape])[0][2:] != ONE or any(end < n for end, n in zip(ends, size, strict=True)):
        return 1.0
    if (layer.global_pooling, kernel, layer.stride, layer.pad) == (False, size, (1, 1), (0, 0)):
        return 1.0
    value = message.pooling_param
    for field in ("global_pooling", "kernel_size", "kernel_h", "kernel_w", "stride", "stride_h", "stride_w"):
        value.ClearField(field)
    for field in ("pad", "pad_h", "pad_w"):
        value.ClearField(field)
    _set_kernel(value, shape)
    if layer.method != "AVE":
        return 1.0
    # Caffe divides by the window clipped to size + pad, padding before the map included.
    counted = math.prod(min(end, n + p) + p for end, n, p in zip(ends, size, layer.pad, strict=True))
    return math.prod(size) / counted


def _slide_convolution(layer: Convolution, message: LayerParameter, shape: Shape) -> None:
    if len(shape) != 4:
        return
    kernel, stride, pad, dilation = layer.windows(2)
    window = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    if window == shape[2:] and not any(pad) and max(stride) > 1:
        for field in ("stride", "stride_h", "stride_w"):
            message.convolution_param.ClearField(field)


def _set_kernel(value: PoolingParameter, shape: Shape) -> None:
    if shape[2] == shape[3]:
        value.kernel_size = shape[2]
    else:
        value.kernel_h, value.kernel_w = shape[2:]


def _kernel(network: Network, layer: InnerProduct, extent: Extent | None) -> tuple[int, int]:
    """Height and width of the filters that an InnerProduct becomes."""
    shape = network.shapes[layer.bottoms[0]]
    if layer.axis % len(shape) != 1:
        raise CastError(
            f"axis {layer.axis}", where=layer.where, why="only an InnerProduct over axes 1.. is a convolution"
        )
    if extent is not None:
        return extent
    if len(shape) != 4:
        raise CastError(
            f"a bottom of {len(shape)} axes",
            where=layer.where,
            why="a map needs N, C, H, W, and a layer before this one has joined the positions, or the input has none",
        )
    return (shape[2], shape[3])


def _to_convolution(layer: InnerProduct, message: LayerParameter, kernel: tuple[int, int]) -> None:
    old = layer.definition.inner_product_param
    message.ClearField("inner_product_param")
    message.type = "Convolution"
    message.name = layer.name + CAST_SUFFIX
    new = message.convolution_param
    new.num_output = layer.num_output
    if kernel[0] == kernel[1]:
        new.kernel_size.append(kernel[0])
    else:
        new.kernel_h, new.kernel_w = kernel
    for field in ("bias_term", "weight_filler", "bias_filler"):
        if old.HasField(field):
            value = getattr(old, field)
            if isinstance(value, bool):
                setattr(new, field, value)
            else:
                getattr(new, field).CopyFrom(value)
