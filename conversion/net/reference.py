"""The plain NumPy float64 reference, which every other form must reproduce."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from conversion.arrays import Array
from conversion.errors import NetworkError
from conversion.layers.base import Layer
from conversion.net.network import Network, require_parameters, walk


def evaluate(network: Network, inputs: Mapping[str, ArrayLike]) -> dict[str, Array]:
    """Runs the network in NumPy float64, layer by layer; the code is simple rather than fast.

    Args:
        network: With weights.
        inputs: One array per input blob, in Caffe's axis order (N, C, H, W), preprocessed as the net expects. Sizes may
            differ from the definition's if the layers allow it.

    Returns:
        The last value of every blob, by name, float64, inputs included.

    Raises:
        WeightsError: The network has no weights.
        NetworkError: An input is missing or unknown, or a layer refuses its bottom's shape.
    """
    last = dict(evaluate_each(network, inputs))
    return {top: last[top] for layer in network.layers for top in layer.tops}


def evaluate_each(network: Network, inputs: Mapping[str, ArrayLike]) -> Iterator[tuple[str, Array]]:
    """Runs the network as `evaluate` does, and keeps a blob only as long as a layer reads it.

    Args:
        network: See `evaluate`.
        inputs: See there.

    Yields:
        Each blob with its last value, as soon as no later layer changes it.

    Raises:
        WeightsError: See `evaluate`.
        NetworkError: See there.
    """
    require_parameters(network)
    check_inputs(network, inputs)

    def given(layer: Layer) -> list[Array]:
        return [np.asarray(inputs[top], dtype=np.float64) for top in layer.tops]

    def apply(layer: Layer, bottoms: Sequence[Array]) -> Sequence[Array]:
        shapes = [b.shape for b in bottoms]
        layer.output_shapes(shapes)  # raises NetworkError for shapes that Caffe refuses
        blobs = [b.astype(np.float64) for b in network.parameters.get(layer.name, ())]
        if blobs and [b.shape for b in blobs] != layer.blob_shapes(shapes):
            raise layer.invalid(
                f"weights of shape {[b.shape for b in blobs]} do not fit a bottom of {shapes[0]}",
                why="the layer is not convolutional: it accepts one input size",
                remedy="cast the network first, or use the size it was trained at",
            )
        return [_whole(top) for top in layer.reference(bottoms, blobs)]

    yield from walk(network.layers, given, apply, lambda value, like: value.reshape(like.shape))


def _whole(top: Array) -> Array:
    """Returns an array that keeps no larger one in memory: a copy of a slice."""
    return top.copy() if top.base is not None and top.base.size > top.size else top


def check_inputs(network: Network, inputs: Mapping[str, object]) -> None:
    """Raises NetworkError unless `inputs` names exactly the network's input blobs."""
    expected, given = set(network.inputs), set(inputs)
    if expected != given:
        raise NetworkError(
            f"inputs {sorted(given)}, the network takes {sorted(expected)}", where=f"network {network.name!r}"
        )
