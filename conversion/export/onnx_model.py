"""The ONNX graph of a model: images in, probabilities and features out, around the ONNX forms of its layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conversion.arrays import Array, Shape
from conversion.errors import ConversionError
from conversion.export.onnx_net import apply_network
from conversion.export.preprocessing import Preprocessing
from conversion.export.weights_store import Weights, WeightsIndex, read_index, read_weights
from conversion.layers.onnx_graph import Dim, OnnxGraph, Value
from conversion.layers.onnx_value import import_onnx
from conversion.net.network import Network

if TYPE_CHECKING:
    import onnx

GRAPH_FILE = "model.onnx"
IMAGES = "images"
PROBABILITIES = "probabilities"
BLOB = "blob/"
"""Prefix of the outputs of a graph that has every blob as an output."""
_INLINE = 1024  # bytes of an array that the graph holds itself: biases, statistics
_FLOAT, _EXTERNAL = 1, 1  # TensorProto's numbers for float32 and for data outside of the graph

AddWeights = Callable[[OnnxGraph], Mapping[str, Sequence[Value]]]
"""Adds the weights of every layer to a graph; returns them as `Layer.prepare` does."""


@dataclasses.dataclass(frozen=True)
class ImageGraph:
    """What an ONNX graph of a model computes.

    Attributes:
        network: Its own weights are ignored.
        preprocessing: Becomes part of the graph, unless the input is raw.
        outputs: The blob of each output, by name. Blobs of four axes have the axis order of the input.
        raw_input: Whether the input is float32 [N, C, H, W], preprocessed already, under its blob's name; otherwise it
            is `images`, uint8 RGB [N, H, W, 3].
        size: Number, height and width of the images: numbers, or names where they are free.
        fp16: Whether layers compute in float16 where `Layer.narrow` allows it; inputs and outputs never do.
    """

    network: Network
    preprocessing: Preprocessing
    outputs: Mapping[str, str]
    raw_input: bool = False
    size: tuple[Dim, Dim, Dim] = ("batch", "height", "width")
    fp16: bool = False

    @property
    def input_name(self) -> str:
        """The name of the input."""
        (blob,) = self.network.inputs
        return blob if self.raw_input else IMAGES

    def image_input(self, images: Array) -> Array:
        """Returns what the input takes for images, uint8 RGB [N, H, W, 3]."""
        return self.preprocessing.reference(images).astype("float32") if self.raw_input else images

    def build(
        self, add_weights: AddWeights, properties: Mapping[str, str] | None = None, *, blobs: Sequence[str] = ()
    ) -> onnx.ModelProto:
        """Returns the graph as a model.

        Args:
            add_weights: Adds the weights.
            properties: Written to `metadata_props`.
            blobs: If there are any, they are the outputs instead, each under `BLOB` and its name, in Caffe's order of
                axes.

        Raises:
            UnsupportedError: A layer has no ONNX form.
            NetworkError: A layer refuses the size.
            ConversionError: An output has the name of the input.
        """
        network, names = self.network, {BLOB + blob: blob for blob in blobs} or self.outputs
        if self.input_name in names:
            raise ConversionError(
                f"feature {self.input_name!r} has the name of the input",
                where=f"network {network.name!r}",
                remedy="leave it out: name the features with --features, or features in Python",
            )
        ((data, (_, channels, height, width)),) = network.inputs.items()
        stated = [
            d if isinstance(d, int) else default for d, default in zip(self.size, (1, height, width), strict=True)
        ]
        network.shapes_at({data: (stated[0], channels, *stated[1:])})
        graph = OnnxGraph(reserved=(*network.shapes, *names, self.input_name))
        added = add_weights(graph)
        weights = {layer.name: added.get(layer.name, ()) for layer in network.layers}
        number, rows, columns = self.size
        if self.raw_input:
            values = graph.input(self.input_name, "float32", (number, channels, rows, columns), finite=True)
        else:
            images = graph.input(IMAGES, "uint8", (number, rows, columns, 3), finite=True)
            with graph.scope("preprocessing"):
                values = self.preprocessing.onnx(graph, images)
        computed = apply_network(network, graph, weights=weights, inputs={data: values}, narrow=self.fp16)
        for name, blob in names.items():
            value = graph.cast(computed[blob], "float32")
            last = not blobs and not self.raw_input and value.rank == 4
            graph.output(name, graph.transposed(value, [0, 2, 3, 1]) if last else value)
        return graph.model(network.name, properties)


def model_outputs(output: str, features: Mapping[str, str]) -> dict[str, str]:
    """Returns the blob of each output: `probabilities`, and the features by name.

    Raises:
        ConversionError: A feature that is another blob is called `probabilities`.
    """
    if features.get(PROBABILITIES, output) != output:
        raise ConversionError(
            f"feature {PROBABILITIES!r} has the name of the map",
            remedy="leave it out: name the features with --features, or features in Python",
        )
    return {PROBABILITIES: output, **features}


def add_stored(model: Path) -> AddWeights:
    """Returns a function that adds the weights of a model directory, as places in their file."""
    index = read_index(model)
    weights = read_weights(model, index)
    return lambda graph: add_arrays(graph, weights, stored_tensor(index))


def stored_tensor(index: WeightsIndex) -> Callable[[str, int], onnx.TensorProto | None]:
    """Returns a function that says how a graph refers to an array of a layer, by its place there; see `add_arrays`."""

    def tensor(layer: str, place: int) -> onnx.TensorProto | None:
        stored = index.layers[layer][place]
        return None if stored.size <= _INLINE else external_tensor(stored.shape, index.file, stored.offset)

    return tensor


def external_tensor(shape: Shape, file: str, offset: int = 0) -> onnx.TensorProto:
    """Returns how a graph refers to float32 values in a file; its path is relative to the graph's folder."""
    proto: onnx.TensorProto = import_onnx().TensorProto(data_type=_FLOAT, dims=shape, data_location=_EXTERNAL)
    size = math.prod(shape) * 4
    for key, value in (("location", file), ("offset", offset), ("length", size)):
        proto.external_data.add(key=key, value=str(value))
    return proto


def add_arrays(
    graph: OnnxGraph, weights: Weights, tensor: Callable[[str, int], onnx.TensorProto | None] = lambda *_: None
) -> dict[str, list[Value]]:
    """Adds the weights of every layer to a graph; those that layers share are added once.

    Args:
        graph: The graph.
        weights: The arrays by layer.
        tensor: Returns how the graph refers to an array of a layer, by its place there; None if the graph holds it.
    """
    shared: dict[tuple[int, ...], list[Value]] = {}
    for name, arrays in weights.items():
        key = tuple(map(id, arrays))
        if key not in shared:
            with graph.scope(name):
                shared[key] = [graph.variable(array, tensor(name, place)) for place, array in enumerate(arrays)]
    return {name: shared[tuple(map(id, arrays))] for name, arrays in weights.items()}


def write_graph(graph: ImageGraph, model: Path, properties: Mapping[str, str]) -> None:
    """Writes the graph of a model directory, whose weights are stored there already."""
    proto = graph.build(add_stored(model), properties)
    (model / GRAPH_FILE).write_bytes(proto.SerializeToString(deterministic=True))
