"""Learned blobs and networks: matched by layer name, checked, and shared as Caffe shares them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from conversion.arrays import Array, Shape
from conversion.caffe.caffe_pb2 import BlobProto, NetParameter, ParamSpec
from conversion.caffe.checks import check_values
from conversion.caffe.reading import blob_array
from conversion.caffe.upgrade import stored_blobs
from conversion.caffe.weights_view import StoredBlob, StoredWeights
from conversion.errors import WeightsError
from conversion.layers.base import Layer
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.net.network import Network, learned


def with_weights(
    network: Network,
    weights: NetParameter | StoredWeights | Mapping[str, Sequence[Array]],
    *,
    where: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """The network with the learned blobs of a parsed model (or arrays by layer), matched by layer name as Caffe does.

    Raises:
        WeightsError: A layer that needs weights has none or too few or too many, or their shape is another, or values
            are not finite; or two layers of the file have one name.
        NetworkError: Layers share parameters that they need in different shapes.
        LimitError: A blob has too many axes or values.
    """
    source: dict[str, Sequence[BlobProto | StoredBlob | Array]] = {}
    for name, stored in stored_blobs(weights, where=where) if isinstance(weights, NetParameter) else weights.items():
        if name in source:
            raise WeightsError(
                f"two layers named {name[:80]!r} have weights", where=where, why="weights are matched by layer name"
            )
        source[name] = stored
    parameters: dict[str, tuple[Array, ...]] = {}
    shared: dict[str, Array] = {}
    for layer, expected in learned(network):
        found = source.pop(layer.name, ())
        names = [p.name for p in layer.definition.param] + [""] * len(expected)
        if not found and all(name in shared for name in names[: len(expected)]):
            parameters[layer.name] = tuple(
                _share(layer, index, shared[name], shape)
                for index, (name, shape) in enumerate(zip(names, expected, strict=False))
            )
            continue
        if len(found) != len(expected):
            raise WeightsError(
                f"{len(found)} of {len(expected)} weight blobs",
                where=f"{where}: {layer.where}",
                why="Caffe refuses another number, or fills what is missing at random and says nothing",
                remedy="use the weights that were trained with this definition: they are matched by layer name",
            )
        blobs = []
        for index, (blob, shape) in enumerate(zip(found, expected, strict=True)):
            name = names[index]
            if name and name in shared:
                blobs.append(_share(layer, index, shared[name], shape))
                continue
            place = f"{where}: {layer.where}"
            values = blob if isinstance(blob, np.ndarray) else blob_array(blob, where=place, limits=limits)
            array = _fit(values, shape, layer, where)
            check_values(array, limits, where=place)
            blobs.append(array)
            if name:
                shared[name] = array
        parameters[layer.name] = tuple(blobs)
    known = {layer.name for layer in network.layers}
    notes = tuple(
        f"weights of layer {name[: limits.name_length]!r} are not used"
        for name, stored in source.items()
        if stored or name not in known
    )
    return dataclasses.replace(network, parameters=parameters, notes=network.notes + notes)


def with_shared_blobs(network: Network, stored: Mapping[str, Mapping[int, Array]]) -> dict[str, Sequence[Array]]:
    """The blobs of every layer, with what layers share by name taken from its owner; for `network.with_weights`.

    A layer that still lacks a blob has as many as come before it.
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
    """A layer's learned blobs, each with the name that it is shared by; "" where it has none."""
    specs = layer.definition.param
    return [
        (specs[index].name if index < len(specs) else "", blob)
        for index, blob in enumerate(network.parameters.get(layer.name, ()))
    ]


def _fit(array: Array, shape: Shape, layer: Layer, where: str) -> Array:
    """The array in the expected shape: leading 1s of legacy four-dimensional blobs do not count (Blob::ShapeEquals)."""
    squeezed = array.shape
    while len(squeezed) > len(shape) and squeezed[0] == 1:
        squeezed = squeezed[1:]
    if squeezed != shape and not (array.size == 1 and array.ndim == 0 and int(np.prod(shape)) == 1):
        raise WeightsError(
            f"weights of shape {array.shape}, the definition asks for {shape}",
            where=f"{where}: {layer.where}",
            remedy="use the definition that the weights were trained with",
        )
    return array.reshape(shape)


def _share(layer: Layer, index: int, owned: Array, shape: Shape) -> Array:
    """Another layer's blob, as this layer needs it (Net::AppendParam); the same object where the shape is the same."""
    if owned.shape == shape:
        return owned
    spec = layer.definition.param[index]
    if spec.share_mode == ParamSpec.PERMISSIVE and owned.size == math.prod(shape):
        return owned.reshape(shape)
    raise layer.invalid(
        f"shares parameter {spec.name!r}, which has the shape {owned.shape}, and needs {shape}",
        why="layers that share a parameter need one shape, or with `share_mode: PERMISSIVE` one number of values",
    )
