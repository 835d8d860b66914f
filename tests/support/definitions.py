"""Small networks as text, and weights as messages, for tests that need no golden case."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf import text_format

from conversion.caffe.caffe_pb2 import BlobProto, NetParameter
from conversion.caffe.reading import parse_weights
from conversion.caffe.weights_view import StoredBlob, StoredWeights
from conversion.net.build import build
from conversion.net.network import Network
from conversion.surgery import random_parameters


def definition(text: str) -> NetParameter:
    return text_format.Parse(text, NetParameter())


def network(text: str, seed: int | None = None) -> Network:
    """The network; with random weights where a seed is given."""
    bare = build(definition(text))
    return bare if seed is None else random_parameters(bare, seed)


def read_weights(path: Path) -> NetParameter:
    """A .caffemodel as a message."""
    return parse_weights(path.read_bytes(), where=str(path))


def stored_blobs(weights: NetParameter) -> Iterator[tuple[str, Sequence[BlobProto]]]:
    """(layer name, learned blobs) for each layer that has any, in any of the three forms."""
    for layer in weights.layer:
        if layer.blobs:
            yield layer.name, layer.blobs
    for old in weights.layers:
        source = old.layer if old.HasField("layer") else old
        if source.blobs:
            yield source.name, source.blobs


def message_weights(weights: NetParameter) -> StoredWeights:
    """The blobs of a message, for `with_weights`."""
    return StoredWeights([(name, [StoredBlob(blob, None) for blob in blobs]) for name, blobs in stored_blobs(weights)])


def data(*shape: int, name: str = "data") -> str:
    dims = " ".join(f"dim: {dim}" for dim in shape)
    return f'layer {{ name: "{name}" type: "Input" top: "{name}" input_param {{ shape {{ {dims} }} }} }}\n'


def layer(kind: str, name: str, bottom: str = "", top: str | None = None, **parameters: str) -> str:
    """One layer; blobs are separated by spaces, `top` is the name by default, parameters are field = text."""
    blobs = "".join(f'bottom: "{blob}" ' for blob in bottom.split())
    blobs += "".join(f'top: "{blob}" ' for blob in (name if top is None else top).split())
    fields = " ".join(f"{field} {{ {text} }}" for field, text in parameters.items())
    return f'layer {{ name: "{name}" type: "{kind}" {blobs} {fields} }}\n'


def convolution(name: str, bottom: str, text: str, top: str | None = None, **parameters: str) -> str:
    return layer("Convolution", name, bottom, top, convolution_param=text, **parameters)


def pooling(name: str, bottom: str, text: str) -> str:
    return layer("Pooling", name, bottom, pooling_param=text)


def inner_product(name: str, bottom: str, text: str, **parameters: str) -> str:
    return layer("InnerProduct", name, bottom, inner_product_param=text, **parameters)


# A classifier with everything that a cast has to deal with, and quick to evaluate.
CLASSIFIER = (
    'name: "classifier"\n'
    + data(1, 3, 17, 17)
    + convolution("conv1", "data", "num_output: 6 kernel_size: 3 stride: 2 pad: 1")
    + layer("ReLU", "relu1", "conv1", "conv1")
    + pooling("pool1", "conv1", "kernel_size: 3 stride: 2")
    + inner_product("fc2", "pool1", "num_output: 8")
    + layer("ReLU", "relu2", "fc2", "fc2")
    + layer("Dropout", "drop2", "fc2", "fc2")
    + inner_product("fc3", "fc2", "num_output: 5")
    + layer("Softmax", "prob", "fc3")
)
