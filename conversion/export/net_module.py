"""Network -> tf.Module: the TensorFlow forms of all layers, with each weight in memory once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Protocol

from conversion.arrays import Tensor
from conversion.layers.base import Layer
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.net.network import Network, Parameters, require_parameters, run, weight_key
from conversion.net.reference import check_inputs


class NetworkModule(Protocol):
    """A `tf.Module` of a network; see `to_tensorflow`."""

    weights: dict[str, list[Tensor]]

    @property
    def variables(self) -> Sequence[Tensor]:
        """The weights, each once."""

    def carried(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Computes as the call does, but rank-4 blobs are NHWC on both sides."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns every blob; see `to_tensorflow`."""


def to_tensorflow(network: Network) -> NetworkModule:
    """Returns a `tf.Module` that computes the network.

    Calling it with `{blob: float32 tensor in Caffe's axis order}` for the net's inputs returns
    `{blob: float32 tensor in Caffe's axis order}` for every blob. It works eagerly and inside a `tf.function`; batch,
    height and width may differ from call to call, and follow Caffe's rounding. `variables` are the weights.

    Raises:
        WeightsError: The network has no weights.
        MissingExtraError: TensorFlow is not installed.
    """
    tf = import_tensorflow()
    require_parameters(network)
    # TensorFlow keeps classes and functions alive: they must not refer to the network's own copy of the weights.
    bare = dataclasses.replace(network, parameters={})

    class Module(tf.Module):  # type: ignore[name-defined]
        """The network's weights and computation."""

        def __init__(self, parameters: Parameters) -> None:
            super().__init__(name="network")
            self.weights: dict[str, list[Tensor]] = {}
            variables: dict[object, list[Tensor]] = {}
            for layer in bare.layers:
                blobs = parameters.get(layer.name, ())
                key = weight_key(layer, blobs)
                if key not in variables:
                    variables[key] = [tf.Variable(a, trainable=True, dtype=tf.float32) for a in layer.prepare(blobs)]
                self.weights[layer.name] = variables[key]

        def carried(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            """Computes as the call does, but rank-4 blobs are NHWC on both sides."""
            return apply_network(bare, self.weights, inputs)

        def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            given = {blob: from_caffe(tf.convert_to_tensor(value, tf.float32)) for blob, value in inputs.items()}
            return {blob: to_caffe(value) for blob, value in self.carried(given).items()}

    module: NetworkModule = Module(network.parameters)
    return module


def apply_network(
    network: Network,
    weights: Mapping[str, Sequence[Tensor]],
    inputs: Mapping[str, Tensor],
    narrow: object = None,
) -> dict[str, Tensor]:
    """Returns every blob of a network as TensorFlow ops; rank-4 blobs are NHWC on both sides.

    Args:
        network: The network; its own parameters are ignored.
        weights: For each layer the result of `Layer.prepare`, as tensors or variables.
        inputs: The net's inputs, float32, by blob.
        narrow: A floating-point type of 16 bits for the layers whose `Layer.narrow` allows it; None for float32 only.

    Returns:
        By blob, in the type that its layer computes in.
    """
    tf = import_tensorflow()
    check_inputs(network, inputs)

    def apply(layer: Layer, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        with tf.name_scope(_scope(layer.name)):
            own = weights[layer.name]
            if narrow is not None:
                dtype = narrow if layer.narrows([b.dtype == narrow for b in bottoms]) else tf.float32
                bottoms, own = [tf.cast(b, dtype) for b in bottoms], [tf.cast(w, dtype) for w in own]
            return layer.tensorflow(bottoms, own)

    def view(value: Tensor, like: Tensor) -> Tensor:
        return from_caffe(tf.reshape(to_caffe(value), tf.shape(to_caffe(like))))

    return run(network.layers, lambda layer: [inputs[top] for top in layer.tops], apply, view)


def _scope(name: str) -> str:
    """Returns a layer's name in the form that TensorFlow allows in a scope."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_.-/") else "_" for c in name)
    return safe if safe[:1].isalnum() else f"layer_{safe}"
