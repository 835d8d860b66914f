"""Network -> tf.Module: every layer's TensorFlow form wired together, each weight held once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from conversion.evaluation import check_inputs
from conversion.layers.base import Layer, Tensor
from conversion.layers.layout import from_caffe, tensorflow, to_caffe
from conversion.network import Network, Parameters, require_parameters, run


def to_tensorflow(network: Network) -> Any:
    """A `tf.Module` that computes the network.

    Calling it with `{blob: float32 tensor in Caffe's axis order}` for the net's inputs returns
    `{blob: float32 tensor in Caffe's axis order}` for every blob. It works eagerly and inside a `tf.function`; batch,
    height and width may differ from call to call, and follow Caffe's rounding. `variables` are the weights.

    Raises:
        WeightsError: The network has no weights.
        MissingExtraError: TensorFlow is not installed.
    """
    tf = tensorflow()
    require_parameters(network)
    # TensorFlow keeps classes and functions alive: they must not take Caffe's copy of the weights with them.
    bare = dataclasses.replace(network, parameters={})

    class NetworkModule(tf.Module):  # type: ignore[name-defined]
        """The network's weights and computation."""

        def __init__(self, parameters: Parameters) -> None:
            super().__init__(name="network")
            self.weights: dict[str, list[Any]] = {}
            held: dict[Any, list[Any]] = {}
            for layer in bare.layers:
                blobs = parameters.get(layer.name, ())
                key = (type(layer), _parameters_of(layer), tuple(map(id, blobs)))
                if key not in held:
                    held[key] = [tf.Variable(a, trainable=True, dtype=tf.float32) for a in layer.prepare(blobs)]
                self.weights[layer.name] = held[key]

        def carried(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
            """As the call, but rank-4 blobs are NHWC on both sides."""
            check_inputs(bare, inputs)

            def apply(layer: Layer, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
                with tf.name_scope(_scope(layer.name)):
                    return layer.tensorflow(bottoms, self.weights[layer.name])

            def view(value: Tensor, like: Tensor) -> Tensor:
                return from_caffe(tf.reshape(to_caffe(value), tf.shape(to_caffe(like))))

            return run(bare.layers, lambda layer: [inputs[top] for top in layer.tops], apply, view)

        def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
            given = {blob: from_caffe(tf.convert_to_tensor(value, tf.float32)) for blob, value in inputs.items()}
            return {blob: to_caffe(value) for blob, value in self.carried(given).items()}

    return NetworkModule(network.parameters)


def _parameters_of(layer: Layer) -> bytes:
    """What distinguishes two layers of one type that share weights: their definition but for names."""
    bare = type(layer.definition)()
    bare.CopyFrom(layer.definition)
    for field in ("name", "bottom", "top"):
        bare.ClearField(field)
    return bare.SerializeToString(deterministic=True)


def _scope(name: str) -> str:
    """A layer's name as TensorFlow allows it in a scope."""
    safe = "".join(c if c.isascii() and (c.isalnum() or c in "_.-/") else "_" for c in name)
    return safe if safe[:1].isalnum() else f"layer_{safe}"
