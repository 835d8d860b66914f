"""Network -> tf.Module: every layer's TensorFlow form wired together, each weight held once."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from conversion.arrays import Tensor
from conversion.layers.base import Layer, Narrow
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.net.network import Network, Parameters, require_parameters, run
from conversion.net.reference import check_inputs


def to_tensorflow(network: Network) -> Any:
    """A `tf.Module` that computes the network.

    Calling it with `{blob: float32 tensor in Caffe's axis order}` for the net's inputs returns
    `{blob: float32 tensor in Caffe's axis order}` for every blob. It works eagerly and inside a `tf.function`; batch,
    height and width may differ from call to call, and follow Caffe's rounding. `variables` are the weights.

    Raises:
        WeightsError: The network has no weights.
        MissingExtraError: TensorFlow is not installed.
    """
    tf = import_tensorflow()
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
            return apply_network(bare, self.weights, inputs)

        def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
            given = {blob: from_caffe(tf.convert_to_tensor(value, tf.float32)) for blob, value in inputs.items()}
            return {blob: to_caffe(value) for blob, value in self.carried(given).items()}

    return NetworkModule(network.parameters)


def apply_network(
    network: Network, weights: Mapping[str, Sequence[Any]], inputs: Mapping[str, Tensor], narrow: Any = None
) -> dict[str, Tensor]:
    """Every blob of a network as TensorFlow ops; rank-4 blobs are NHWC on both sides.

    Args:
        network: What is computed; its own parameters are not looked at.
        weights: By layer, what `Layer.prepare` gave, as tensors or variables.
        inputs: The net's inputs, float32, by blob.
        narrow: A floating type of 16 bits that layers compute in where `Layer.narrow` lets them; None: float32 it is.

    Returns:
        By blob, in the type that its layer computes in.
    """
    tf = import_tensorflow()
    check_inputs(network, inputs)

    def apply(layer: Layer, bottoms: Sequence[Tensor]) -> Sequence[Tensor]:
        with tf.name_scope(_scope(layer.name)):
            held = weights[layer.name]
            if narrow is not None:
                own = narrow if _narrows(layer, bottoms, narrow) else tf.float32
                bottoms, held = [tf.cast(b, own) for b in bottoms], [tf.cast(w, own) for w in held]
            return layer.tensorflow(bottoms, held)

    def view(value: Tensor, like: Tensor) -> Tensor:
        return from_caffe(tf.reshape(to_caffe(value), tf.shape(to_caffe(like))))

    return run(network.layers, lambda layer: [inputs[top] for top in layer.tops], apply, view)


def _narrows(layer: Layer, bottoms: Sequence[Tensor], narrow: Any) -> bool:
    follows = layer.narrow is Narrow.INFER and all(bottom.dtype == narrow for bottom in bottoms)
    return layer.narrow is Narrow.ALLOW or follows


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
