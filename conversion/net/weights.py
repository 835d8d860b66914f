"""Puts learned blobs into networks: matched by layer name, checked, and shared as in Caffe."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from conversion.arrays import Array, Shape
from conversion.caffe.caffe_pb2 import ParamSpec
from conversion.caffe.checks import check_values
from conversion.caffe.reading import blob_array
from conversion.caffe.weights_view import StoredBlob, StoredWeights
from conversion.errors import WeightsError
from conversion.layers.base import Layer
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.net.network import Network, learned


def with_weights(
    network: Network,
    weights: StoredWeights | Mapping[str, Sequence[Array]],
    *,
    where: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """Returns the network with learned blobs, which are matched by layer name as in Caffe.

    Args:
        network: With or without weights.
        weights: The blobs of a weights file, or arrays by layer.
        where: The file, for errors.
        limits: Upper limits on the blobs.

    Raises:
        WeightsError: A layer has no weights (and no bilinear filler), or blobs of another number or shape, or values
            that are not finite; or two layers of the file have one name.
        NetworkError: Layers share parameters that they need in different shapes.
        LimitError: A blob has too many axes or values.
    """
    source = _by_name(weights, where)
    parameters: dict[str, tuple[Array, ...]] = {}
    shared: dict[str, Array] = {}
    notes: list[str] = []
    for layer, expected in learned(network):
        stored = source.pop(layer.name, ())
        names = [spec.name for spec in layer.definition.param] + [""] * len(expected)
        if not stored and all(name in shared for name in names[: len(expected)]):
            parameters[layer.name] = tuple(
                _share(layer, index, shared[name], shape)
                for index, (name, shape) in enumerate(zip(names, expected, strict=False))
            )
            continue
        place = f"{where}: {layer.where}"
        filled = () if stored else _bilinear(layer, expected)
        if filled:
            parameters[layer.name] = filled
            notes.append(f"{layer.where} has no stored weights: filled as its bilinear filler says, as Caffe does")
            continue
        if len(stored) != len(expected):
            raise WeightsError(
                f"{len(stored)} of {len(expected)} weight blobs",
                where=place,
                why="Caffe refuses a wrong number, or fills missing blobs at random without a message",
                remedy="use the weights that were trained with this definition: they are matched by layer name",
            )
        arrays = []
        for index, (blob, shape) in enumerate(zip(stored, expected, strict=True)):
            name = names[index]
            if name and name in shared:
                arrays.append(_share(layer, index, shared[name], shape))
                continue
            values = blob_array(blob, where=place, limits=limits) if isinstance(blob, StoredBlob) else blob
            array = _fit(values, shape, place)
            check_values(array, limits, where=place)
            arrays.append(array)
            if name:
                shared[name] = array
        parameters[layer.name] = tuple(arrays)
    layers = {layer.name for layer in network.layers}
    notes += [
        f"weights of layer {name[: limits.name_length]!r} are not used"
        for name, stored in source.items()
        if stored or name not in layers
    ]
    return dataclasses.replace(network, parameters=parameters, notes=(*network.notes, *notes))


def _bilinear(layer: Layer, shapes: Sequence[Shape]) -> tuple[Array, ...]:
    """Returns the blobs of a layer that Caffe fills with bilinear interpolation (BilinearFiller in filler.hpp); or ().

    Every filter is (1 - |x / f - c|) * (1 - |y / f - c|), with f = ceil(k / 2) and c = (k - 1) / (2 f).
    Biases are a constant, 0 by default. Other fillers are random, or leave the layer without effect.
    """
    value = layer.definition.convolution_param
    constant = value.bias_filler.type == "constant"
    if value.weight_filler.type != "bilinear" or not (constant or len(shapes) == 1):
        return ()
    weights, *biases = shapes
    if len(weights) != 4 or weights[2] != weights[3]:
        raise layer.invalid(f"a bilinear filler for filters of {weights[2:]}", why="Caffe fills square ones only")
    size = weights[3]
    factor = math.ceil(size / 2)
    centre = (size - 1) / (2 * factor)
    ramp = 1 - np.abs(np.arange(size) / factor - centre)
    filters = np.broadcast_to(np.outer(ramp, ramp).astype(np.float32), weights)
    return (filters, *(np.full(shape, value.bias_filler.value, np.float32) for shape in biases))


def _by_name(
    weights: StoredWeights | Mapping[str, Sequence[Array]], where: str
) -> dict[str, Sequence[StoredBlob | Array]]:
    """Returns the blobs of each layer; raises WeightsError if two layers have one name."""
    blobs_by_name: dict[str, Sequence[StoredBlob | Array]] = {}
    for name, blobs in weights.items():
        if name in blobs_by_name:
            raise WeightsError(
                f"two layers named {name[:80]!r} have weights", where=where, why="weights are matched by layer name"
            )
        blobs_by_name[name] = blobs
    return blobs_by_name


def with_shared_blobs(network: Network, stored: Mapping[str, Mapping[int, Array]]) -> dict[str, Sequence[Array]]:
    """Returns the blobs of every layer of an HDF5 file, with those that layers share by name taken from the first.

    A layer that still lacks a blob gets only the blobs before it.
    """
    owned: dict[str, Array] = {}
    result: dict[str, Sequence[Array]] = {name: list(blobs.values()) for name, blobs in stored.items()}
    for layer, expected in learned(network):
        blobs = stored.get(layer.name, {})
        names = [spec.name for spec in layer.definition.param] + [""] * len(expected)
        arrays: list[Array] = []
        for index in range(max(len(expected), *(i + 1 for i in blobs), 0)):
            name = names[index] if index < len(expected) else ""
            array = blobs[index] if index in blobs else owned.get(name)
            if array is None:
                break
            if name:
                owned.setdefault(name, array)
            arrays.append(array)
        if arrays:
            result[layer.name] = arrays
        else:
            result.pop(layer.name, None)
    return result


def named_blobs(network: Network, layer: Layer) -> list[tuple[str, Array]]:
    """Returns a layer's learned blobs, each with the name that it is shared by; "" where it has none."""
    specs = layer.definition.param
    return [
        (specs[index].name if index < len(specs) else "", blob)
        for index, blob in enumerate(network.parameters.get(layer.name, ()))
    ]


def _fit(array: Array, shape: Shape, where: str) -> Array:
    """Returns the array in the expected shape, without leading 1s of legacy blobs of four axes (Blob::ShapeEquals)."""
    squeezed = array.shape
    if len(squeezed) == 4 and len(shape) == 1 and squeezed == (1, *shape, 1, 1):
        squeezed = shape  # cuDNN's and NVCaffe's BatchNorm keep their channels on axis 1
    while len(squeezed) > len(shape) and squeezed[0] == 1:
        squeezed = squeezed[1:]
    if squeezed != shape and not (array.size == 1 and array.ndim == 0 and int(np.prod(shape)) == 1):
        raise WeightsError(
            f"weights of shape {array.shape}, the definition requires {shape}",
            where=where,
            remedy="use the definition that the weights were trained with",
        )
    return array.reshape(shape)


def _share(layer: Layer, index: int, owned: Array, shape: Shape) -> Array:
    """Returns another layer's blob in the shape of this layer (Net::AppendParam); the same object if it fits."""
    if owned.shape == shape:
        return owned
    spec = layer.definition.param[index]
    if spec.share_mode == ParamSpec.PERMISSIVE and owned.size == math.prod(shape):
        return owned.reshape(shape)
    raise layer.invalid(
        f"shares parameter {spec.name!r} of shape {owned.shape}, and needs {shape}",
        why="layers that share a parameter must have one shape, or with `share_mode: PERMISSIVE` one number of values",
    )
