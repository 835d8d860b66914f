"""A network as an immutable value: its layers in order, its inputs, its learned parameters; and how to run one."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from conversion.arrays import Array, Shape
from conversion.caffe.caffe_pb2 import NetParameter
from conversion.errors import NetworkError, WeightsError
from conversion.layers.base import Layer
from conversion.layers.io import Input
from conversion.names import nearest

Parameters = Mapping[str, tuple[Array, ...]]
Value = TypeVar("Value")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Network:
    """A Caffe network in phase TEST.

    Attributes:
        name: The net's own name; may be empty.
        layers: All layers in execution order, `Input` layers first among what they feed.
        parameters: The learned blobs (float32, Caffe's order and shapes) by layer name; empty without weights. Layers
            that share parameters have the same array objects.
        shapes: The shape of every blob, in Caffe's axis order, at the size that the definition states.
        notes: Notes for the user on what reading changed or ignored, such as unused weights.
        windows: Nominal windows, (height, width), that do not follow from the shapes; see `geometry.training_windows`.
    """

    name: str
    layers: tuple[Layer, ...]
    parameters: Parameters
    shapes: Mapping[str, Shape]
    notes: tuple[str, ...] = ()
    windows: Mapping[str, tuple[int | None, int | None]] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        """Returns the name and the counts, in one short line."""
        values = sum(
            blob.size for blob in {id(blob): blob for blobs in self.parameters.values() for blob in blobs}.values()
        )
        inputs = ", ".join(f"{name!r} {list(shape)}" for name, shape in itertools.islice(self.inputs.items(), 3))
        weights = f"{values:,} learned values" if values else "no weights"
        return f"<Network {self.name!r}: {len(self.layers)} layers, {weights}, inputs {inputs}>"

    @property
    def inputs(self) -> dict[str, Shape]:
        """The input blobs and their shapes, in order."""
        return {top: self.shapes[top] for layer in self.layers if isinstance(layer, Input) for top in layer.tops}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The blobs that no later layer consumes, in order: Caffe's outputs of the net."""
        available: dict[str, None] = {}
        for layer in self.layers:
            for bottom in layer.bottoms:
                available.pop(bottom, None)
            available.update(dict.fromkeys(layer.tops))
        return tuple(available)

    def shapes_at(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """Returns the shape of every blob for these input shapes; raises NetworkError if a layer refuses them."""
        return dict(self.trace(inputs)[1])

    def trace(self, inputs: Mapping[str, Shape]) -> tuple[list[tuple[list[Shape], list[Shape]]], dict[str, Shape]]:
        """Returns for each layer the shapes of its bottoms and tops, in order, and the shapes of all blobs."""
        steps: list[tuple[list[Shape], list[Shape]]] = []

        def apply(layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
            tops = layer.output_shapes(bottoms)
            steps.append((list(bottoms), tops))
            return tops

        def given(layer: Layer) -> list[Shape]:
            tops = [inputs[top] for top in layer.tops]
            steps.append(([], tops))
            return tops

        return steps, run(self.layers, given, apply)

    def layer(self, name: str) -> Layer:
        """Returns the layer of that name; raises NetworkError, which suggests similar names."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        near = nearest(name, (layer.name for layer in self.layers), 3)
        raise NetworkError(
            f"no layer {name!r}", where=f"network {self.name!r}", remedy=f"nearest: {', '.join(near)}" if near else ""
        )

    def multiply_adds(self, inputs: Mapping[str, Shape]) -> int:
        """Returns the multiply-adds of one forward pass over inputs of these shapes."""
        steps, _ = self.trace(inputs)
        return sum(layer.multiply_adds(b, t) for layer, (b, t) in zip(self.layers, steps, strict=True))

    def parameter_count(self) -> int:
        """Returns the number of learned values by the definition's shapes; shared ones count in every layer."""
        return sum(math.prod(shape) for _, shapes in learned(self) for shape in shapes)


def run(
    layers: Iterable[Layer],
    given: Callable[[Layer], Sequence[Value]],
    apply: Callable[[Layer, Sequence[Value]], Sequence[Value]],
    view: Callable[[Value, Value], Value] | None = None,
) -> dict[str, Value]:
    """Runs layers in order over values of any kind (shapes, arrays, tensors), by Caffe's rules for blobs.

    Reshape, Flatten and Split share their bottom's memory: a later layer that writes one of those blobs in place
    changes them all, as it does in Caffe.

    Args:
        layers: In execution order.
        given: Returns the values of an Input layer's tops.
        apply: Returns the values of any other layer's tops.
        view: Called as view(value, like); returns the value in the shape of `like`, for blobs that share memory. None
            if the values are shapes.

    Returns:
        The last value of every blob, by name.
    """
    values: dict[str, Value] = {}
    sharing: dict[str, set[str]] = {}
    for layer in layers:
        tops = given(layer) if isinstance(layer, Input) else apply(layer, [values[b] for b in layer.bottoms])
        bottoms = dict.fromkeys(layer.bottoms)
        for top, value in zip(layer.tops, tops, strict=True):
            if layer.shares_memory and top not in bottoms:
                first = next(iter(bottoms))
                group = sharing.setdefault(first, {first})
                group.add(top)
                sharing[top] = group
            elif view is not None and top in bottoms:
                for other in sharing.get(top, set()) - {top}:
                    values[other] = view(value, values[other])
            values[top] = value
    return values


def learned(network: Network) -> list[tuple[Layer, list[Shape]]]:
    """Returns the layers with learned blobs, in order, each with the shapes of its blobs."""
    steps, _ = network.trace(network.inputs)
    with_shapes = [
        (layer, layer.blob_shapes(bottoms)) for layer, (bottoms, _) in zip(network.layers, steps, strict=True)
    ]
    return [(layer, shapes) for layer, shapes in with_shapes if shapes]


def weight_key(layer: Layer, blobs: Sequence[Array]) -> tuple[type[Layer], bytes, tuple[int, ...]]:
    """Returns what two layers have in common whose prepared blobs are the same: type, parameters, and the blobs."""
    bare = type(layer.definition)()
    bare.CopyFrom(layer.definition)
    for field in ("name", "bottom", "top"):
        bare.ClearField(field)
    return type(layer), bare.SerializeToString(deterministic=True), tuple(map(id, blobs))


def require_parameters(network: Network) -> None:
    """Raises WeightsError if a layer with learned blobs has none."""
    missing = [layer.name for layer, _ in learned(network) if layer.name not in network.parameters]
    if missing:
        raise WeightsError(
            f"no weights for layers {', '.join(missing)}",
            where=f"network {network.name!r}",
            remedy="load the network with its .caffemodel: load_network(prototxt, weights)",
        )


def to_definition(network: Network) -> NetParameter:
    """Returns the network's definition as a message, without weights."""
    message = NetParameter(name=network.name)
    message.layer.extend(layer.definition for layer in network.layers)
    return message
