"""Parameters of a network: making them, and saving a network as Caffe files that Caffe loads."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from google.protobuf import text_format

from conversion.layers.base import Array, Layer, Shape
from conversion.network import Network, learned, require_parameters, to_definition
from conversion.reading import PathLike, blob_message


def save(network: Network, prototxt: PathLike, weights: PathLike | None = None) -> None:
    """Writes a network as a definition (text) and, if asked, its weights (binary), both in Caffe's current form.

    Raises:
        WeightsError: Weights are asked for and the network has none.
        OSError: A file cannot be written.
    """
    definition = to_definition(network)
    Path(prototxt).write_text(text_format.MessageToString(definition), encoding="utf-8")
    if weights is None:
        return
    require_parameters(network)
    for message in definition.layer:
        message.blobs.extend(blob_message(blob) for blob in network.parameters.get(message.name, ()))
    Path(weights).write_bytes(definition.SerializeToString())


def initialise(network: Network, make: Callable[[Layer, int, Shape], Array]) -> Network:
    """The network with new parameters: `make(layer, index, shape)` gives each learned blob, in order."""
    parameters = {
        layer.name: tuple(make(layer, i, shape).astype(np.float32) for i, shape in enumerate(shapes))
        for layer, shapes in learned(network)
    }
    return dataclasses.replace(network, parameters=parameters)


def random_parameters(network: Network, seed: int = 0) -> Network:
    """The network with seeded random weights that keep activations in range (He et al. 2015, "msra" in Caffe).

    Matrices and filters are normal with variance 2 / fan-in, biases normal with standard deviation 0.05: for trying
    speed and size where no trained weights are at hand. The same seed gives the same weights on every machine.
    """
    rng = np.random.default_rng(seed)

    def make(_layer: Layer, index: int, shape: Shape) -> Array:
        if index == 0 and len(shape) > 1:
            return rng.standard_normal(shape, dtype=np.float32) * np.float32(math.sqrt(2 / math.prod(shape[1:])))
        return rng.standard_normal(shape) * 0.05

    return initialise(network, make)
