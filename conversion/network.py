"""A network as an immutable value: its layers in order, its inputs, its learned parameters; and running one."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from conversion import reading
from conversion.caffe_pb2 import TEST, LayerParameter, NetParameter, NetStateRule, ParamSpec
from conversion.errors import NetworkError, UnsupportedError, WeightsError
from conversion.layers.base import Array, Layer, Shape, layer_class
from conversion.layers.shaping import Input
from conversion.upgrade import upgrade

Parameters = Mapping[str, tuple[Array, ...]]


@dataclasses.dataclass(frozen=True, eq=False)
class Network:
    """A Caffe network in phase TEST.

    Attributes:
        name: The net's own name; may be empty.
        layers: All layers in execution order, `Input` layers first among what they feed.
        parameters: The learned blobs (float32, Caffe's order and shapes) by layer name; empty without weights. Layers
            that share parameters hold the same array objects.
        shapes: The shape of every blob, in Caffe's axis order, at the size that the definition states.
        notes: What reading found worth telling: unused weights, say.
    """

    name: str
    layers: tuple[Layer, ...]
    parameters: Parameters
    shapes: Mapping[str, Shape]
    notes: tuple[str, ...] = ()

    @property
    def inputs(self) -> dict[str, Shape]:
        """The input blobs and their shapes, in order."""
        return {top: self.shapes[top] for layer in self.layers if isinstance(layer, Input) for top in layer.tops}

    @property
    def outputs(self) -> tuple[str, ...]:
        """The blobs that no later layer consumes, in order: what Caffe calls the net's outputs."""
        available: dict[str, None] = {}
        for layer in self.layers:
            for bottom in layer.bottoms:
                available.pop(bottom, None)
            available.update(dict.fromkeys(layer.tops))
        return tuple(available)

    def shapes_at(self, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
        """The shape of every blob for other input shapes; raises NetworkError where a layer refuses them."""
        return dict(self.trace(inputs)[1])

    def trace(self, inputs: Mapping[str, Shape]) -> tuple[list[tuple[list[Shape], list[Shape]]], dict[str, Shape]]:
        """For each layer the shapes of its bottoms and tops, in order, and the shapes of all blobs."""
        steps: list[tuple[list[Shape], list[Shape]]] = []

        def apply(layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
            tops = layer.output_shapes(bottoms)
            steps.append((list(bottoms), tops))
            return tops

        def given(layer: Layer) -> list[Shape]:
            tops = [inputs[top] for top in layer.tops]
            steps.append(([], tops))
            return tops

        return steps, run(self.layers, given, apply, lambda _, like: like)

    def layer(self, name: str) -> Layer:
        """The layer of that name; raises NetworkError that suggests the nearest."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        near = difflib.get_close_matches(name, [layer.name for layer in self.layers], 3)
        raise NetworkError(
            f"no layer {name!r}", where=f"network {self.name!r}", remedy=f"nearest: {', '.join(near)}" if near else ""
        )

    def multiply_adds(self, inputs: Mapping[str, Shape]) -> int:
        """Multiply-adds of one forward pass over inputs of these shapes."""
        steps, _ = self.trace(inputs)
        return sum(layer.multiply_adds(b, t) for layer, (b, t) in zip(self.layers, steps, strict=True))

    def parameter_count(self) -> int:
        """Learned values by the definition's shapes; shared ones are counted in every layer."""
        return sum(math.prod(shape) for _, shapes in learned(self) for shape in shapes)


def run(
    layers: Iterable[Layer],
    given: Callable[[Layer], Sequence[Any]],
    apply: Callable[[Layer, Sequence[Any]], Sequence[Any]],
    view: Callable[[Any, Any], Any],
) -> dict[str, Any]:
    """Runs layers in order over values of any kind (shapes, arrays, tensors): the one place with Caffe's blob rules.

    Reshape, Flatten and Split share their bottom's memory: a later layer that writes one of those blobs in place
    changes them all, as it does in Caffe.

    Args:
        layers: In execution order.
        given: The values of an Input layer's tops.
        apply: The values of any other layer's tops.
        view: (value, like) -> value with the shape of `like`; used for blobs that share memory.

    Returns:
        The last value of every blob, by name.
    """
    values: dict[str, Any] = {}
    sharing: dict[str, set[str]] = {}
    for layer in layers:
        tops = given(layer) if isinstance(layer, Input) else apply(layer, [values[b] for b in layer.bottoms])
        for top, value in zip(layer.tops, tops, strict=True):
            if layer.shares_memory and top not in layer.bottoms:
                group = sharing.setdefault(layer.bottoms[0], {layer.bottoms[0]})
                group.add(top)
                sharing[top] = group
            elif top in layer.bottoms:
                for other in sharing.get(top, set()) - {top}:
                    values[other] = view(value, values[other])
            values[top] = value
    return values


def load_network(prototxt: reading.PathLike, weights: reading.PathLike | None = None) -> Network:
    """Reads a definition and, if given, its trained weights.

    Args:
        prototxt: The definition (`deploy.prototxt`), in text form.
        weights: The trained weights (`.caffemodel`); without them the network can be inspected, not evaluated.

    Raises:
        ReadingError: A file cannot be read or is not what it should be.
        UnsupportedError: Layers or parameters that densecast does not support; the message lists all of them.
        NetworkError: The definition contradicts itself.
        WeightsError: A layer has no weights, or weights of another shape.
    """
    definition = reading.read_definition(prototxt)
    network = build(definition, where=str(prototxt))
    return network if weights is None else with_weights(network, reading.read_weights(weights), where=str(weights))


def build(definition: NetParameter, parameters: Parameters | None = None, *, where: str = "") -> Network:
    """A Network from a definition message in any of Caffe's forms; `parameters` as in `Network`.

    Raises:
        UnsupportedError: It lists every unsupported layer and parameter.
        NetworkError: Names, shapes or parameters contradict each other or Caffe's rules.
    """
    definition = upgrade(definition, where=where)
    messages = [m for m in definition.layer if _included(m, definition)]
    layers: list[Layer] = []
    problems: list[str] = []
    for message in messages:
        bare = LayerParameter()
        bare.CopyFrom(message)
        # The rules have been applied; kept, they would be applied again without the state that they were written for.
        for field in ("blobs", "include", "exclude"):
            bare.ClearField(field)
        try:
            layers.append(layer_class(bare).parse(bare))
        except UnsupportedError as error:
            problems.append(f"{error.where}: {error.what}")
    if problems:
        raise UnsupportedError(
            f"{len(problems)} unsupported: " + "; ".join(problems),
            where=where,
            why="leaving a layer out, or guessing at it, would change what the net computes",
            remedy="the README lists the supported layers; layers that only training uses can be removed",
        )
    _check_wiring(layers, where)
    shapes = run(
        layers,
        lambda layer: layer.output_shapes([]),
        lambda layer, bottoms: layer.output_shapes(bottoms),
        lambda _, like: like,
    )
    return Network(definition.name, tuple(layers), dict(parameters or {}), shapes)


def with_weights(network: Network, weights: NetParameter, *, where: str = "") -> Network:
    """The network with the learned blobs of a parsed model, matched by layer name as Caffe does.

    Raises:
        WeightsError: A layer that needs weights has none or too few or too many, or their shape is another.
        NetworkError: Layers share parameters that they need in different shapes.
    """
    weights = upgrade(weights, where=where, inputs=False)
    source = {message.name: message for message in weights.layer if message.blobs}
    parameters: dict[str, tuple[Array, ...]] = {}
    shared: dict[str, Array] = {}
    for layer, expected in learned(network):
        message = source.pop(layer.name, None)
        names = [p.name for p in layer.definition.param] + [""] * len(expected)
        if message is None and all(name in shared for name in names[: len(expected)]):
            parameters[layer.name] = tuple(
                _share(layer, index, shared[name], shape)
                for index, (name, shape) in enumerate(zip(names, expected, strict=False))
            )
            continue
        if message is None or len(message.blobs) != len(expected):
            found = 0 if message is None else len(message.blobs)
            raise WeightsError(
                f"{found} of {len(expected)} weight blobs",
                where=f"{where}: {layer.where}",
                why="Caffe refuses another number, or fills what is missing at random and says nothing",
                remedy="use the weights that were trained with this definition: they are matched by layer name",
            )
        blobs = []
        for index, (blob, shape) in enumerate(zip(message.blobs, expected, strict=False)):
            name = names[index]
            if name and name in shared:
                blobs.append(_share(layer, index, shared[name], shape))
                continue
            array = _fit(reading.blob_array(blob, where=f"{where}: {layer.where}"), shape, layer, where)
            blobs.append(array)
            if name:
                shared[name] = array
        parameters[layer.name] = tuple(blobs)
    known = {layer.name for layer in network.layers}
    notes = tuple(
        f"weights of layer {name!r} are not used" for name in source if name not in known or source[name].blobs
    )
    return dataclasses.replace(network, parameters=parameters, notes=network.notes + notes)


def learned(network: Network) -> list[tuple[Layer, list[Shape]]]:
    """The layers with learned blobs, and the shapes of those, in order."""
    steps, _ = network.trace(network.inputs)
    with_shapes = [
        (layer, layer.blob_shapes(bottoms)) for layer, (bottoms, _) in zip(network.layers, steps, strict=True)
    ]
    return [(layer, shapes) for layer, shapes in with_shapes if shapes]


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
    """The network's definition as a message, without weights."""
    message = NetParameter(name=network.name)
    message.layer.extend(layer.definition for layer in network.layers)
    return message


def _fit(array: Array, shape: Shape, layer: Layer, where: str) -> Array:
    """The array in the expected shape: leading 1s of legacy four-dimensional blobs do not count (Blob::ShapeEquals)."""
    squeezed = array.shape
    while len(squeezed) > len(shape) and squeezed[0] == 1:
        squeezed = squeezed[1:]
    if squeezed != shape and not (array.size == 1 and array.ndim == 0 and int(np.prod(shape)) == 1):
        raise WeightsError(
            f"weights of shape {array.shape}, the definition asks for {shape}",
            where=f"{where}: {layer.where}",
            remedy="use the definition that the weights were trained with",
        )
    return array.reshape(shape)


def _share(layer: Layer, index: int, owned: Array, shape: Shape) -> Array:
    """Another layer's blob, as this layer needs it (Net::AppendParam); the same object where the shape is the same."""
    if owned.shape == shape:
        return owned
    spec = layer.definition.param[index]
    if spec.share_mode == ParamSpec.PERMISSIVE and owned.size == math.prod(shape):
        return owned.reshape(shape)
    raise layer.invalid(
        f"shares parameter {spec.name!r}, which has the shape {owned.shape}, and needs {shape}",
        why="layers that share a parameter need one shape, or with `share_mode: PERMISSIVE` one number of values",
    )


def _check_wiring(layers: Sequence[Layer], where: str) -> None:
    """Caffe's rules on names: AppendBottom and AppendTop in net.cpp, and the copies that insert_splits.cpp makes."""
    available: dict[str, int] = {}  # blob -> how often its present version is consumed
    names: set[str] = set()
    for layer in layers:
        if layer.name in names:
            raise NetworkError(f"two layers named {layer.name!r}", where=where, why="weights are matched by layer name")
        names.add(layer.name)
        for kind, found, (least, most) in (
            ("bottom", layer.bottoms, layer.bottom_count),
            ("top", layer.tops, layer.top_count),
        ):
            if len(found) < least or (most is not None and len(found) > most):
                limit = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
                raise layer.invalid(f"{len(found)} {kind} blobs, Caffe asks for {limit}")
        for bottom in layer.bottoms:
            if bottom not in available:
                near = difflib.get_close_matches(bottom, available, 1)
                raise layer.invalid(
                    f"unknown bottom blob {bottom!r}",
                    why="no layer before it produces it",
                    remedy=f"did you mean {near[0]!r}?" if near else "",
                )
            available[bottom] += 1
        for index, top in enumerate(layer.tops):
            in_place = index < len(layer.bottoms) and layer.bottoms[index] == top
            if in_place and not layer.may_be_in_place:
                raise layer.invalid(
                    "the top is the bottom", why=f"{layer.caffe_type} does not allow in-place computation (Caffe)"
                )
            if top in available and (not in_place or available[top] > 1):
                raise layer.invalid(
                    f"top blob {top!r} is produced by multiple sources",
                    why="a layer may write in place only a blob that nothing else has read"
                    if in_place
                    else "each blob has one producer, but for layers in place",
                )
            available[top] = 0


def _included(message: LayerParameter, definition: NetParameter) -> bool:
    """Whether a layer is in the net in phase TEST, by its include and exclude rules (Net::FilterNet)."""
    if message.include and message.exclude:
        raise NetworkError(
            "both include and exclude rules", where=f"layer {message.name!r}", why="Caffe accepts one kind"
        )
    if message.include:
        return any(_meets(rule, definition) for rule in message.include)
    return not any(_meets(rule, definition) for rule in message.exclude)


def _meets(rule: NetStateRule, definition: NetParameter) -> bool:
    """Net::StateMeetsRule, for phase TEST and the definition's own level and stages."""
    state = definition.state
    return not (
        (rule.HasField("phase") and rule.phase != TEST)
        or (rule.HasField("min_level") and state.level < rule.min_level)
        or (rule.HasField("max_level") and state.level > rule.max_level)
        or any(stage not in state.stage for stage in rule.stage)
        or any(stage in state.stage for stage in rule.not_stage)
    )
