"""Net surgery: reads, sets and moves parameters, designs filters, and saves files that Caffe loads.

Networks are immutable: every function returns a new one. The examples are those of Caffe's notebook "Net Surgery":

>>> import numpy as np
>>> from conversion import cast, evaluate
>>> from conversion.net.build import build
>>> from conversion.caffe.reading import parse_definition

Designer filters. A net of one convolution over grey images gets a Gaussian, and Sobel's operator for both directions:

>>> edges = build(parse_definition(b'''
... name: "edges"
... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 1, 9, 9] } } }
... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
...         convolution_param { num_output: 3 kernel_size: 5 } }''', where="edges"))
>>> filters = np.stack([gaussian(5, sigma=1.0), sobel(5, axis=0), sobel(5, axis=1)])[:, None]
>>> edges = with_parameters(edges, {"conv": (filters, np.zeros(3))})
>>> image = np.zeros((1, 1, 9, 9))
>>> image[..., 5:, :] = 1.0
>>> blurred, horizontal, vertical = evaluate(edges, {"data": image})["conv"][0]
>>> [round(float(value), 2) for value in blurred[:, 0]]
[0.0, 0.05, 0.3, 0.7, 0.95]
>>> [float(value) for value in horizontal[:, 0]], float(abs(vertical).max())
([0.0, 0.0, 4.0, 4.0, 0.0], 0.0)

Transplants. The matrix of an inner product is the filter bank of a convolution; `cast` does it for a whole classifier,
`transplant` for single layers:

>>> text = '''
... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 2, 6, 6] } } }
... layer { name: "fc6" type: "InnerProduct" bottom: "data" top: "fc6" inner_product_param { num_output: 4 } }'''
>>> classifier = random_parameters(build(parse_definition(text.encode(), where="classifier")))
>>> dense = cast(build(parse_definition(text.encode(), where="dense")))
>>> dense = transplant(classifier, dense, {"fc6": "fc6-conv"})
>>> parameters(classifier, "fc6")[0].shape, parameters(dense, "fc6-conv")[0].shape
((4, 72), (4, 2, 6, 6))
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from google.protobuf import text_format
from numpy.typing import ArrayLike

from conversion.arrays import Array, Shape
from conversion.caffe.reading import PathLike, blob_message
from conversion.errors import ConversionError, WeightsError
from conversion.files import write_atomically
from conversion.layers.base import Layer
from conversion.net.network import Network, learned, require_parameters, to_definition
from conversion.net.weights import named_blobs


def save(network: Network, prototxt: PathLike, weights: PathLike | None = None) -> None:
    """Writes a network as a definition (text) and, if asked, its weights, both in Caffe's current form.

    Args:
        network: What to write.
        prototxt: Where the definition goes.
        weights: Where the weights go: as HDF5 if the name ends in `.h5` or `.hdf5`, otherwise in binary form.

    Raises:
        ConversionError: Caffe cannot express the network: it has dilated poolings (see `dilate`).
        WeightsError: Weights are asked for and the network has none, or HDF5 cannot hold them (see `hdf5.write`).
        OSError: A file cannot be written.
    """
    definition = to_definition(network)
    dilated = [message.name for message in definition.layer if message.HasField("densecast_param")]
    if dilated:
        raise ConversionError(
            f"dilated poolings: {', '.join(dilated)}",
            where=str(prototxt),
            why="Caffe's Pooling has no dilation: it would refuse the file, or compute something else",
            remedy="save the network as it was before dilate: without --output-stride on the command line",
        )
    if weights is not None:
        require_parameters(network)
    if weights is not None and Path(weights).suffix in (".h5", ".hdf5"):
        from conversion.caffe import hdf5

        hdf5.write(weights, {layer.name: named_blobs(network, layer) for layer in network.layers})
        weights = None
    write_atomically(Path(prototxt), text_format.MessageToString(definition).encode())
    if weights is None:
        return
    for message in definition.layer:
        message.blobs.extend(blob_message(blob) for blob in network.parameters.get(message.name, ()))
    write_atomically(Path(weights), definition.SerializeToString())


def write_definition(network: Network, prototxt: PathLike) -> None:
    """Writes the definition as text, for `load_network` and for readers, whether Caffe can read it or not.

    Raises:
        OSError: The file cannot be written.
    """
    definition = to_definition(network)
    dilated = any(message.HasField("densecast_param") for message in definition.layer)
    comment = (
        "# Caffe has no field densecast_param: it cannot express the dilated poolings of this net.\n" if dilated else ""
    )
    write_atomically(Path(prototxt), (comment + text_format.MessageToString(definition)).encode())


def parameters(network: Network, layer: str) -> tuple[Array, ...]:
    """Returns the learned blobs of a layer, in Caffe's order and shapes; read-only.

    Raises:
        NetworkError: There is no such layer; the message suggests the nearest.
        WeightsError: It has none.
    """
    where = network.layer(layer).where
    if layer not in network.parameters:
        raise WeightsError("no parameters", where=where, why="the layer learns nothing, or the network has no weights")
    return tuple(_read_only(blob) for blob in network.parameters[layer])


def with_parameters(network: Network, changes: Mapping[str, Sequence[ArrayLike | None]]) -> Network:
    """Returns the network with other parameters.

    Args:
        network: With or without weights.
        changes: The new learned blobs of each layer to change, in Caffe's order; None leaves a blob as it is. Layers
            that share a blob by name change with it, since it is one blob in Caffe.

    Raises:
        NetworkError: There is no such layer.
        WeightsError: A blob has another shape than the layer requires, their number is wrong, or a blob is to be left
            as it is but does not exist.
    """
    expected = {layer.name: shapes for layer, shapes in learned(network)}
    result = dict(network.parameters)
    for name, given in changes.items():
        layer = network.layer(name)
        shapes = expected.get(name, [])
        if len(given) != len(shapes):
            raise WeightsError(f"{len(given)} blobs for a layer that has {len(shapes)}", where=layer.where)
        old: Sequence[Array | None] = result.get(name, (None,) * len(shapes))
        blobs = []
        for index, (value, before, shape) in enumerate(zip(given, old, shapes, strict=True)):
            if value is None and before is None:
                raise WeightsError(f"blob {index} is to be left as it is but does not exist", where=layer.where)
            array = before if value is None else np.array(value, np.float32)
            if array is None or array.shape != shape:
                given_shape = None if array is None else array.shape
                raise WeightsError(
                    f"blob {index} of shape {given_shape}, the layer requires {shape}", where=layer.where
                )
            blobs.append(array)
        result[name] = tuple(blobs)
        _spread(network, result, layer, given)
    return dataclasses.replace(network, parameters=result)


def transplant(source: Network, target: Network, layers: Mapping[str, str] | None = None) -> Network:
    """Returns the target with parameters of the source.

    Args:
        source: With weights.
        target: With or without.
        layers: The target layer for each source layer. A blob of another shape but as many values is then copied value
            by value, as `flat` does in Caffe's notebook. By default, all layers of the target that the source has
            under the same name; their shapes must agree.

    Raises:
        NetworkError: A layer that is named does not exist.
        WeightsError: A layer has no parameters, or another number of blobs or values than its counterpart.
    """
    expected = {layer.name: shapes for layer, shapes in learned(target)}
    pairs = {name: name for name in expected if name in source.parameters} if layers is None else layers
    changes: dict[str, Sequence[Array]] = {}
    for from_layer, to_layer in pairs.items():
        blobs, shapes = parameters(source, from_layer), expected.get(target.layer(to_layer).name, [])
        fits = len(blobs) == len(shapes) and all(
            blob.shape == shape or (layers is not None and blob.size == math.prod(shape))
            for blob, shape in zip(blobs, shapes, strict=True)
        )
        if not fits:
            raise WeightsError(
                f"{from_layer!r} has blobs of shape {[blob.shape for blob in blobs]}, {to_layer!r} takes {shapes}",
                where=target.layer(to_layer).where,
                why="a transplant copies values one by one",
                remedy="" if layers is not None else "name the layers, to copy values between different shapes",
            )
        changes[to_layer] = [blob.reshape(shape) for blob, shape in zip(blobs, shapes, strict=True)]
    return with_parameters(target, changes)


def gaussian(size: int, sigma: float) -> Array:
    """Returns a Gaussian filter [size, size]: exp(-(x^2 + y^2) / (2 sigma^2)) around the centre, with the sum 1."""
    offsets = np.arange(size) - (size - 1) / 2
    bell = np.exp(-(offsets**2) / (2 * sigma**2))
    plane: Array = np.outer(bell, bell) / bell.sum() ** 2
    return plane.astype(np.float32)


def sobel(size: int = 3, axis: int = 0) -> Array:
    """Returns Sobel's operator in the middle of a filter [size, size]: the change along an axis, 0 for y, 1 for x.

    Raises:
        ConversionError: The size is even or below 3.
    """
    if size < 3 or size % 2 == 0:
        raise ConversionError(f"a Sobel filter of size {size}", why="the size must be odd and at least 3")
    plane = np.zeros((size, size), np.float32)
    middle = slice(size // 2 - 1, size // 2 + 2)
    operator = np.outer((-1, 0, 1), (1, 2, 1))
    plane[middle, middle] = operator if axis == 0 else operator.T
    return plane


def initialise(network: Network, make: Callable[[Layer, int, Shape], Array]) -> Network:
    """Returns the network with new parameters: `make(layer, index, shape)` returns each learned blob, in order."""
    parameters = {
        layer.name: tuple(make(layer, i, shape).astype(np.float32) for i, shape in enumerate(shapes))
        for layer, shapes in learned(network)
    }
    return dataclasses.replace(network, parameters=parameters)


def random_parameters(network: Network, seed: int = 0) -> Network:
    """Returns the network with seeded random weights that keep activations in range (He et al. 2015, "msra" in Caffe).

    Matrices and filters are normal with variance 2 / fan-in, biases normal with standard deviation 0.05, factors and
    variances near 1. Use it to measure speed and size without trained weights. The same seed gives the same weights on
    every machine.
    """
    rng = np.random.default_rng(seed)

    def make(_layer: Layer, index: int, shape: Shape) -> Array:
        if index == 0 and len(shape) > 1:
            return rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
        return rng.standard_normal(shape) * 0.05

    drawn = initialise(network, make)
    parameters = {
        layer.name: tuple(blob.astype(np.float32) for blob in layer.plausible(drawn.parameters[layer.name]))
        for layer in network.layers
        if layer.name in drawn.parameters
    }
    return dataclasses.replace(drawn, parameters=parameters)


def _spread(
    network: Network, result: dict[str, tuple[Array, ...]], changed: Layer, given: Sequence[ArrayLike | None]
) -> None:
    """Copies the changed blobs to the layers that share them by name."""
    shared = {
        spec.name: result[changed.name][index]
        for index, spec in enumerate(changed.definition.param)
        if spec.name and index < len(given) and given[index] is not None
    }
    if not shared:
        return
    for layer, shapes in learned(network):
        names = [spec.name for spec in layer.definition.param]
        if layer is changed or layer.name not in result or shared.keys().isdisjoint(names):
            continue
        names += [""] * len(shapes)
        result[layer.name] = tuple(
            shared[name].reshape(shape) if name in shared else blob
            for name, shape, blob in zip(names, shapes, result[layer.name], strict=False)
        )


def _read_only(blob: Array) -> Array:
    view = blob.view()
    view.flags.writeable = False
    return view
