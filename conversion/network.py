"""A network as an immutable value: its layers in order, its inputs, its learned parameters; and running one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from conversion import reading
from conversion.caffe_pb2 import BlobProto, LayerParameter, NetParameter, ParamSpec
from conversion.errors import NetworkError, UnsupportedError, WeightsError
from conversion.guarding import ShapeGuard, check_names, check_parameters, check_values
from conversion.layers.base import Array, Layer, Shape, layer_class
from conversion.layers.shaping import Input
from conversion.limits import DEFAULT_LIMITS, Limits, nearest
from conversion.stored import StoredBlob, StoredWeights
from conversion.training import Size, by_phase, strip
from conversion.upgrade import stored_blobs, upgrade

Parameters = Mapping[str, tuple[Array, ...]]
HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"


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
        windows: Nominal windows, (height, width), that the shapes no longer show; see `geometry.training_windows`.
    """

    name: str
    layers: tuple[Layer, ...]
    parameters: Parameters
    shapes: Mapping[str, Shape]
    notes: tuple[str, ...] = ()
    windows: Mapping[str, tuple[int | None, int | None]] = dataclasses.field(default_factory=dict)

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

        return steps, run(self.layers, given, apply)

    def layer(self, name: str) -> Layer:
        """The layer of that name; raises NetworkError that suggests the nearest."""
        for layer in self.layers:
            if layer.name == name:
                return layer
        near = nearest(name, (layer.name for layer in self.layers), 3)
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
    view: Callable[[Any, Any], Any] | None = None,
) -> dict[str, Any]:
    """Runs layers in order over values of any kind (shapes, arrays, tensors): the one place with Caffe's blob rules.

    Reshape, Flatten and Split share their bottom's memory: a later layer that writes one of those blobs in place
    changes them all, as it does in Caffe.

    Args:
        layers: In execution order.
        given: The values of an Input layer's tops.
        apply: The values of any other layer's tops.
        view: (value, like) -> value with the shape of `like`; used for blobs that share memory. None where the values
            are shapes.

    Returns:
        The last value of every blob, by name.
    """
    values: dict[str, Any] = {}
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


def load_network(
    prototxt: reading.PathLike,
    weights: reading.PathLike | None = None,
    *,
    crop: Size | None = None,
    stages: Sequence[str] = (),
    level: int | None = None,
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """Reads a definition and, if given, its trained weights.

    Args:
        prototxt: The definition (`deploy.prototxt`, or `train_val.prototxt`: see `training.strip`), in text form.
        weights: The trained weights, `.caffemodel` or `.caffemodel.h5`, told apart by their content; without them the
            network can be inspected, not evaluated.
        crop: The size of the images, as one number for both sides, (height, width) or (channels, height, width); by
            default what the definition says, which it cannot where the images come from a database.
        stages: The stages that `include` and `exclude` rules ask for, besides those that the definition states.
        level: The level that they ask for; by default the definition's.
        limits: What the files may ask for.

    Raises:
        ReadingError: A file cannot be read or is not what it should be.
        UnsupportedError: Layers or parameters that densecast does not support; the message lists all of them.
        NetworkError: The definition contradicts itself.
        WeightsError: A layer has no weights, or weights of another shape, or that are not finite.
        LimitError: A file asks for more than a limit allows.
    """
    definition = reading.read_definition(prototxt, limits=limits)
    definition.state.stage.extend(stages)
    if level is not None:
        definition.state.level = level
    network = build(definition, crop=crop, where=str(prototxt), limits=limits)
    if weights is None:
        return network
    data, where = reading.read_bytes(weights, "weights_bytes", limits), str(weights)
    if not data.startswith(HDF5_MAGIC):
        return with_weights(
            network, reading.stored_weights(data, where=where, limits=limits), where=where, limits=limits
        )
    from conversion import hdf5  # h5py takes a while to import, and few need it

    arrays = hdf5.complete(network, hdf5.parse(data, where=where, limits=limits))
    return with_weights(network, arrays, where=where, limits=limits)


def build(
    definition: NetParameter,
    parameters: Parameters | None = None,
    *,
    crop: Size | None = None,
    where: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """A Network from a definition message in any of Caffe's forms; `parameters` as in `Network`.

    The layers are those of phase TEST, without what only training needs (see `training.strip`, also on `crop`).

    Raises:
        UnsupportedError: It lists every unsupported layer and parameter.
        NetworkError: Names, shapes or parameters contradict each other or Caffe's rules.
        LimitError: It asks for more than a limit allows; found before anything is allocated.
    """
    check_names(definition, limits, where=where)
    definition = upgrade(definition, where=where)
    limits.check("layers", len(definition.layer), f"{len(definition.layer):,} layers", where=where)
    messages, notes = strip(*by_phase(definition), crop=crop, where=where)
    layers: list[Layer] = []
    problems: list[str] = []
    for message in messages:
        bare = LayerParameter()
        bare.CopyFrom(message)
        # The rules have been applied; kept, they would be applied again without the state that they were written for.
        for field in ("blobs", "include", "exclude"):
            bare.ClearField(field)
        if bare.HasField("densecast_param") and bare.type != "Pooling":
            problems.append(f"layer {bare.name!r}: densecast_param on type {bare.type!r}")
            continue
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
    for layer in layers:
        check_parameters(layer, limits)
    guard = ShapeGuard(limits, where)
    shapes = run(layers, lambda layer: guard.tops(layer, []), guard.tops)
    return Network(definition.name, tuple(layers), dict(parameters or {}), shapes, notes)


def with_weights(
    network: Network,
    weights: NetParameter | StoredWeights | Mapping[str, Sequence[Array]],
    *,
    where: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """The network with the learned blobs of a parsed model (or arrays by layer), matched by layer name as Caffe does.

    Raises:
        WeightsError: A layer that needs weights has none or too few or too many, or their shape is another, or values
            are not finite; or two layers of the file have one name.
        NetworkError: Layers share parameters that they need in different shapes.
        LimitError: A blob has too many axes or values.
    """
    source: dict[str, Sequence[BlobProto | StoredBlob | Array]] = {}
    for name, stored in stored_blobs(weights, where=where) if isinstance(weights, NetParameter) else weights.items():
        if name in source:
            raise WeightsError(
                f"two layers named {name[:80]!r} have weights", where=where, why="weights are matched by layer name"
            )
        source[name] = stored
    parameters: dict[str, tuple[Array, ...]] = {}
    shared: dict[str, Array] = {}
    for layer, expected in learned(network):
        found = source.pop(layer.name, ())
        names = [p.name for p in layer.definition.param] + [""] * len(expected)
        if not found and all(name in shared for name in names[: len(expected)]):
            parameters[layer.name] = tuple(
                _share(layer, index, shared[name], shape)
                for index, (name, shape) in enumerate(zip(names, expected, strict=False))
            )
            continue
        if len(found) != len(expected):
            raise WeightsError(
                f"{len(found)} of {len(expected)} weight blobs",
                where=f"{where}: {layer.where}",
                why="Caffe refuses another number, or fills what is missing at random and says nothing",
                remedy="use the weights that were trained with this definition: they are matched by layer name",
            )
        blobs = []
        for index, (blob, shape) in enumerate(zip(found, expected, strict=True)):
            name = names[index]
            if name and name in shared:
                blobs.append(_share(layer, index, shared[name], shape))
                continue
            place = f"{where}: {layer.where}"
            values = blob if isinstance(blob, np.ndarray) else reading.blob_array(blob, where=place, limits=limits)
            array = _fit(values, shape, layer, where)
            check_values(array, limits, where=place)
            blobs.append(array)
            if name:
                shared[name] = array
        parameters[layer.name] = tuple(blobs)
    known = {layer.name for layer in network.layers}
    notes = tuple(
        f"weights of layer {name[: limits.name_length]!r} are not used"
        for name, stored in source.items()
        if stored or name not in known
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
        bottoms = layer.bottoms
        if layer.name in names:
            raise NetworkError(f"two layers named {layer.name!r}", where=where, why="weights are matched by layer name")
        names.add(layer.name)
        for kind, found, (least, most) in (
            ("bottom", bottoms, layer.bottom_count),
            ("top", layer.tops, layer.top_count),
        ):
            if len(found) < least or (most is not None and len(found) > most):
                limit = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
                raise layer.invalid(f"{len(found)} {kind} blobs, Caffe asks for {limit}")
        for bottom in bottoms:
            if bottom not in available:
                near = nearest(bottom, available)
                raise layer.invalid(
                    f"unknown bottom blob {bottom!r}",
                    why="no layer before it produces it",
                    remedy=f"did you mean {near[0]!r}?" if near else "",
                )
            available[bottom] += 1
        for index, top in enumerate(layer.tops):
            in_place = index < len(bottoms) and bottoms[index] == top
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
