"""Network -> onnx.ModelProto: the ONNX forms of all layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from conversion.arrays import Array, Shape
from conversion.errors import NetworkError
from conversion.layers.base import Layer
from conversion.layers.onnx_graph import Dim, OnnxGraph, Value
from conversion.layers.onnx_sizes import reshaped, size_of
from conversion.net.network import Network, require_parameters, run, weight_key
from conversion.net.reference import check_inputs

if TYPE_CHECKING:
    import onnx

# (name of the layer, index among what `prepare` returns, array) -> how the graph refers to the file that holds it, or
# None: the graph holds it.
Store = Callable[[str, int, Array], "onnx.TensorProto | None"]


def to_onnx(
    network: Network,
    *,
    outputs: Sequence[str] | None = None,
    shapes: Mapping[str, Sequence[Dim]] | None = None,
    narrow: bool = False,
    finite: bool = False,
) -> onnx.ModelProto:
    """Returns a self-contained ONNX model that computes the network, all tensors in Caffe's axis order.

    Args:
        network: The network, with weights.
        outputs: Blobs that are outputs, float32, under the names of `output_name`; None for all that layers compute.
        shapes: The shapes of the inputs, each axis a number, or a name if it is free; None for `free_shapes`.
        narrow: Whether layers compute in float16 where `Layer.narrow` allows it.
        finite: Whether inputs never hold NaN or infinity. Caffe's maximum skips NaN, which takes an operation of its
            own before each pooling that might meet one.

    Raises:
        WeightsError: The network has no weights.
        NetworkError: There is no such blob, or a layer refuses these shapes.
        UnsupportedError: A layer has no ONNX form.
        MissingExtraError: onnx is not installed.
    """
    require_parameters(network)
    shapes = free_shapes(network) if shapes is None else shapes
    check_inputs(network, shapes)
    network.shapes_at({blob: _stated(shapes[blob], network.shapes[blob]) for blob in network.inputs})
    graph = OnnxGraph(reserved={*network.shapes, *(output_name(network, blob) for blob in network.shapes)})
    weights = add_weights(network, graph)
    inputs = {blob: graph.input(blob, "float32", shapes[blob], finite=finite) for blob in network.inputs}
    blobs = apply_network(network, graph, weights=weights, inputs=inputs, narrow=narrow)
    computed = [blob for blob, value in blobs.items() if value is not inputs.get(blob)]
    for blob in computed if outputs is None else outputs:
        if blob not in computed:
            raise NetworkError(f"no blob {blob!r} that a layer computes", where=f"network {network.name!r}")
        graph.output(output_name(network, blob), graph.cast(blobs[blob], "float32"))
    return graph.model(network.name)


def output_name(network: Network, blob: str) -> str:
    """Returns the name of the output that holds a blob: its own, but for an input that a layer changes in place."""
    name = blob
    while name in network.inputs or (name != blob and name in network.shapes):
        name += "_after"
    return name


def free_shapes(network: Network) -> dict[str, tuple[Dim, ...]]:
    """Returns the shapes of the inputs with every axis free that may differ: batch, height and width of a map.

    Channels are known, and so is every axis but the batch of an input that is not a map.
    """
    names = ("batch", "channels", "height", "width")
    several = len(network.inputs) > 1

    def free(blob: str, shape: Shape) -> tuple[Dim, ...]:
        axes = (0, 2, 3) if len(shape) == 4 else (0,)
        return tuple(
            (f"{blob}_{names[axis]}" if several else names[axis]) if axis in axes else length
            for axis, length in enumerate(shape)
        )

    return {blob: free(blob, shape) for blob, shape in network.inputs.items()}


def _stated(shape: Sequence[Dim], defined: Shape) -> Shape:
    """Returns the shape with the definition's length for every axis that is free."""
    return tuple(
        length if isinstance(length, int) else (defined[axis] if axis < len(defined) else 1)
        for axis, length in enumerate(shape)
    )


def add_weights(network: Network, graph: OnnxGraph, store: Store | None = None) -> dict[str, list[Value]]:
    """Adds the learned blobs of every layer to a graph, those that layers share once.

    Args:
        network: The network, with weights.
        graph: The graph.
        store: Says where a blob lies, if it lies outside the graph.

    Returns:
        For each layer the result of `Layer.prepare`.
    """
    weights: dict[str, list[Value]] = {}
    shared: dict[object, list[Value]] = {}
    for layer in network.layers:
        blobs = network.parameters.get(layer.name, ())
        key = weight_key(layer, blobs)
        if key not in shared:
            with graph.scope(layer.name):
                shared[key] = [
                    graph.variable(array, store(layer.name, index, array) if store else None)
                    for index, array in enumerate(layer.prepare(blobs))
                ]
        weights[layer.name] = shared[key]
    return weights


def apply_network(
    network: Network,
    graph: OnnxGraph,
    *,
    weights: Mapping[str, Sequence[Value]],
    inputs: Mapping[str, Value],
    narrow: bool = False,
    own_form: Callable[[Layer, Value], Value | None] | None = None,
    first: dict[str, Value] | None = None,
) -> dict[str, Value]:
    """Adds a network to a graph and returns every blob, in the type that its layer computes in.

    Args:
        network: The network; its own parameters are ignored.
        graph: The graph, with every blob's name reserved if the blobs are to be outputs.
        weights: From `add_weights`.
        inputs: The net's inputs, float32, by blob.
        narrow: Whether layers compute in float16 where `Layer.narrow` allows it.
        own_form: Returns the top of a layer for its bottom where the layer's ONNX form is not to be used; else None.
        first: Gets the first value of every blob that a layer writes: before later layers change it in place.
    """
    check_inputs(network, inputs)

    def apply(layer: Layer, bottoms: Sequence[Value]) -> Sequence[Value]:
        with graph.scope(layer.name):
            own = weights[layer.name]
            if narrow:
                dtype = "float16" if layer.narrows([b.dtype == "float16" for b in bottoms]) else "float32"
                bottoms, own = [graph.cast(b, dtype) for b in bottoms], [graph.cast(w, dtype) for w in own]
            formed = [own_form(layer, bottom) for bottom in bottoms] if own_form is not None else []
            tops = [top for top in formed if top is not None] or layer.onnx(graph, bottoms, own)
        if first is not None:
            for top, value in zip(layer.tops, tops, strict=True):
                first.setdefault(top, value)
        return tops

    def view(value: Value, like: Value) -> Value:
        return reshaped(graph, value, [size_of(graph, like, axis) for axis in range(like.rank)])

    return run(network.layers, lambda layer: [inputs[top] for top in layer.tops], apply, view)
