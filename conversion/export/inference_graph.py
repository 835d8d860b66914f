"""The ONNX graph that an engine of ours runs: images in, the best classes of every cell and features out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from conversion.arrays import Array
from conversion.errors import ConversionError
from conversion.export.cellwise import OPSET_OF_PRODUCTS, cell_products, is_cellwise
from conversion.export.metadata import ModelMetadata
from conversion.export.onnx_model import IMAGES, PROBABILITIES, add_arrays, external_tensor, stored_tensor
from conversion.export.onnx_net import apply_network
from conversion.export.stored_network import check_readable, load_model_network
from conversion.export.weights_store import MOST_WEIGHT_BYTES, mapped_file, read_index, read_weights
from conversion.layers.base import Layer
from conversion.layers.minimal_filtering import transformed_filters
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.layers.onnx_value import import_onnx
from conversion.net.network import Network
from conversion.passes.cast_names import name_after_cast
from conversion.passes.prune import prune

CLASSES, SCORES = "classes", "scores"


class KeptBlob(NamedTuple):
    """A blob that a graph returns besides the map.

    Attributes:
        name: The name of the output.
        blob: The blob, by its own name or by the classifier's.
        before: Whether its value is wanted before layers change it in place.
    """

    name: str
    blob: str
    before: bool = False


@dataclasses.dataclass(frozen=True)
class InferenceGraph:
    """A graph with its weights.

    Attributes:
        proto: The ONNX model. Its weights are places in the files of the model directory, but for those that `arrays`
            yields.
        model: The model directory.
        derived: The names of the initializers that are computed from a layer's filters, by layer.
    """

    proto: bytes
    model: Path
    derived: Mapping[str, Sequence[str]]

    def whole(self) -> bytes:
        """Returns the ONNX model with all of its weights inside, up to protobuf's 2 GiB.

        Raises:
            ConversionError: They are larger.
        """
        onnx = import_onnx()
        proto = onnx.ModelProto.FromString(self.proto)
        computed = dict(self.arrays())
        places = read_index(self.model)
        file = mapped_file(self.model / places.file)
        size = 0
        for tensor in proto.graph.initializer:
            if tensor.data_location != tensor.EXTERNAL:
                continue
            place = {entry.key: entry.value for entry in tensor.external_data}
            start, length = int(place["offset"]), int(place["length"])
            array = computed.pop(tensor.name, None)
            size += length
            if size > MOST_WEIGHT_BYTES:
                raise ConversionError(
                    "the weights do not fit in one ONNX file",
                    where=str(self.model),
                    why="protobuf, its format, ends at 2 GiB",
                    remedy="use another engine, such as --engine onnxruntime",
                )
            tensor.raw_data = file[start : start + length].tobytes() if array is None else array.tobytes()
            del tensor.external_data[:]
            tensor.data_location = tensor.DEFAULT
        return bytes(proto.SerializeToString())

    def size_nodes(self) -> frozenset[str]:
        """Returns the names of the nodes that depend on nothing but sizes; not of the Shape nodes that they begin with.

        A runtime may compute them anywhere: their values are a few integers.
        """
        graph = import_onnx().ModelProto.FromString(self.proto).graph
        constant = {tensor.name for tensor in graph.initializer} | {""}
        sizes: set[str] = set()
        names: set[str] = set()
        for node in graph.node:
            inputs = set(node.input) - constant
            if node.op_type in ("Shape", "Size"):
                sizes.update(node.output)
            elif inputs and inputs <= sizes:
                sizes.update(node.output)
                names.add(node.name)
        return frozenset(names)

    def stored(self) -> Iterator[tuple[str, Array]]:
        """Yields the weights that are places in a file of the model directory, by the names of their initializers.

        They are read when they are used. For runtimes that open no file outside of the directory: its files may be
        links.
        """
        derived = {name for names in self.derived.values() for name in names}
        file = mapped_file(self.model / read_index(self.model).file)
        for tensor in import_onnx().ModelProto.FromString(self.proto).graph.initializer:
            if tensor.data_location == tensor.EXTERNAL and tensor.name not in derived:
                place = {entry.key: int(entry.value) for entry in tensor.external_data if entry.key != "location"}
                values = file[place["offset"] : place["offset"] + place["length"]].view("<f4")
                yield tensor.name, values.reshape(tuple(tensor.dims))

    @property
    def is_linked(self) -> bool:
        """Whether the file of the weights is a link to somewhere else."""
        folder, file = self.model.resolve(), read_index(self.model).file
        return (folder / file).resolve() != folder / file

    def arrays(self) -> Iterator[tuple[str, Array]]:
        """Yields the weights that are computed from those of the model, by the names of their initializers.

        They are computed one by one: all of them take more memory than the model.
        """
        weights = read_weights(self.model) if self.derived else {}
        for layer, names in self.derived.items():
            yield from zip(names, transformed_filters(weights[layer][0]), strict=True)


def inference_graph(
    model: str | Path,
    metadata: ModelMetadata,
    *,
    best: int | None = None,
    features: Sequence[KeptBlob] = (),
    narrow: bool = False,
    prepared: bool = False,
    filtered: bool = True,
) -> InferenceGraph:
    """Returns the graph of a model for inference.

    Its input is `images`, uint8 RGB [N, H, W, 3]. Its outputs are `classes` int64 [N, h, w, k] and `scores` float32,
    best first, of equal ones the lower class first; or `probabilities` float32 [N, h, w, C]; and the features, float32
    [N, h', w', channels].

    Args:
        model: The model directory.
        metadata: Its `densecast.json`.
        best: Number of classes that are returned of each cell; None for all probabilities.
        features: The blobs to return with the map.
        narrow: Whether layers compute in float16 where `Layer.narrow` allows it.
        prepared: Whether the input is what the network's input blob holds, float32 [N, H, W, C].
        filtered: Whether layers that were InnerProducts are run as products over cells (see `cellwise`). Only in
            float32.

    Raises:
        ModelError: The model has no weights that can be read without TensorFlow.
        UnsupportedError: A layer has no ONNX form.
        MissingExtraError: onnx is not installed.
    """
    check_readable(model, "ONNX Runtime")
    whole = load_model_network(model)
    names = {kept.blob: name_after_cast(kept.blob, whole.shapes) for kept in features}
    network = prune(whole, [metadata.output_blob, *names.values()])
    ((data, (_, channels, _, _)),) = network.inputs.items()
    outputs = [CLASSES, SCORES, PROBABILITIES, *(kept.name for kept in features)]
    graph = OnnxGraph(reserved=(*network.shapes, *outputs, IMAGES), opset=OPSET_OF_PRODUCTS)
    weights = _Weights(graph, Path(model), network, cellwise=filtered and not narrow)
    if prepared:
        given = graph.input(IMAGES, "float32", ("batch", "height", "width", channels), finite=True)
        values = graph.transposed(given, [0, 3, 1, 2])
    else:
        images = graph.input(IMAGES, "uint8", ("batch", "height", "width", 3), finite=True)
        with graph.scope("preprocessing"):
            values = metadata.preprocessing.onnx(graph, images)
    first: dict[str, Value] = {}
    last = apply_network(
        network, graph, weights=weights.plain, inputs={data: values}, narrow=narrow, own_form=weights.top, first=first
    )
    probabilities = _channels_last(graph, last[metadata.output_blob])
    if best is None:
        graph.output(PROBABILITIES, probabilities)
    else:
        scores, classes = graph.nodes("TopK", [probabilities, graph.integers([best])], 2, axis=-1)
        graph.output(CLASSES, dataclasses.replace(classes, dtype="int64"))
        graph.output(SCORES, scores)
    for kept in features:
        blob = names[kept.blob]
        graph.output(kept.name, _channels_last(graph, (first if kept.before else last)[blob]))
    return InferenceGraph(graph.model(network.name).SerializeToString(), Path(model), weights.derived)


def _channels_last(graph: OnnxGraph, value: Value) -> Value:
    value = graph.cast(value, "float32")
    return graph.transposed(value, [0, 2, 3, 1]) if value.rank == 4 else value


class _Weights:
    """The weights of a graph.

    Args:
        graph: The graph; they are added to it.
        model: The model directory.
        network: Its layers, as far as they are needed.
        cellwise: Whether layers that can be are run as products over cells.

    Attributes:
        plain: The weights of the other layers, as `Layer.prepare` returns them.
        derived: See `InferenceGraph`.
    """

    def __init__(self, graph: OnnxGraph, model: Path, network: Network, *, cellwise: bool) -> None:
        self._graph = graph
        index = read_index(model)
        arrays = read_weights(model, index)
        products = [
            layer.name
            for layer in network.layers
            if cellwise and layer.name in arrays and is_cellwise(layer, arrays[layer.name])
        ]
        others = {layer.name: arrays.get(layer.name, ()) for layer in network.layers if layer.name not in products}
        self.plain: Mapping[str, Sequence[Value]] = {
            **add_arrays(graph, others, stored_tensor(index)),
            **dict.fromkeys(products, ()),
        }
        self.derived: dict[str, Sequence[str]] = {}
        self._products: dict[str, tuple[list[Value], list[Value]]] = {}
        for name in products:
            filters, *biases = arrays[name]
            shape = filters.shape[2:]
            with graph.scope(name):
                if len(filters) == 1:
                    stored = index.layers[name][0]
                    matrices = [graph.declared(external_tensor(shape, index.file, stored.offset))]
                else:
                    rows = len(filters) * shape[0], shape[1]
                    matrices = [graph.declared(external_tensor(rows, "memory")) for _ in range(len(filters) + 1)]
                    self.derived[name] = [matrix.name for matrix in matrices]
                self._products[name] = matrices, [graph.constant(array) for array in biases]

    def top(self, layer: Layer, bottom: Value) -> Value | None:
        """Returns the top of a layer that is run as products over cells; None for any other."""
        if layer.name not in self._products:
            return None
        return cell_products(self._graph, bottom, *self._products[layer.name])
