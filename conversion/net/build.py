"""Definitions -> networks: parses, wires and checks the layers."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence

from conversion.arrays import Shape
from conversion.caffe.caffe_pb2 import LayerParameter, NetParameter
from conversion.caffe.checks import check_names, check_parameters
from conversion.caffe.dialects import check_dialect, read_in_dialect
from conversion.caffe.strip_training import Size, by_phase, stage_notes, stages_of, strip
from conversion.caffe.upgrade import upgrade
from conversion.errors import NetworkError, UnsupportedError
from conversion.layers.base import Layer, layer_class
from conversion.layers.windows import SAME
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.names import nearest
from conversion.net.meeting import Made, with_meeting_offset
from conversion.net.network import Network, Parameters, run
from conversion.net.shape_limits import ShapeLimits

# The fields of densecast_param that a type of layer may have.
_EXTENSIONS = {
    "Pooling": frozenset({"pooling_dilation", "pooling_stride"}),
    "Crop": frozenset({"crop_to_meet"}),
    "Upsample": frozenset({"size_of_last_bottom"}),
}


def build(
    definition: NetParameter,
    parameters: Parameters | None = None,
    *,
    crop: Size | None = None,
    dialect: str | None = None,
    where: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """Returns the network of a definition message in any of Caffe's forms.

    The layers are those of phase TEST, without those that only training needs (see `strip_training.strip`).

    Args:
        definition: The message.
        parameters: As in `Network`.
        crop: See `strip_training.strip`.
        dialect: See `dialects`.
        where: The file, for errors.
        limits: Upper limits on the definition.

    Raises:
        UnsupportedError: It lists every unsupported layer and parameter.
        NetworkError: Names, shapes or parameters contradict each other or Caffe's rules.
        LimitError: It exceeds a limit; nothing is allocated before that is checked.
    """
    check_dialect(dialect)
    check_names(definition, limits, where=where)
    definition = upgrade(definition, where=where)
    limits.check("layers", len(definition.layer), f"{len(definition.layer):,} layers", where=where)
    included, excluded = by_phase(definition)
    messages, notes = strip(included, excluded, crop=crop, where=where)
    layers: list[Layer] = []
    problems: list[str] = []
    for message in messages:
        bare = LayerParameter()
        bare.CopyFrom(message)
        # The rules have been applied; a saved net would apply them again, without the state that they were written for.
        for field in ("blobs", "include", "exclude"):
            bare.ClearField(field)
        extension = _EXTENSIONS.get(bare.type, frozenset())
        if any(field.name not in extension for field, _ in bare.densecast_param.ListFields()):
            problems.append(f"layer {bare.name!r}: densecast_param on type {bare.type!r}")
            continue
        try:
            read_in_dialect(bare, dialect)
            layers.append(layer_class(bare).parse(bare))
        except UnsupportedError as error:
            problems.append(f"{error.where}: {error.what}")
    if problems:
        raise UnsupportedError(
            f"{len(problems)} unsupported: " + "; ".join(problems),
            where=where,
            why="without such a layer the net would compute something else",
            remedy="the documentation lists the supported layers; layers that only training uses can be removed",
        )
    layers = _with_own_names(layers, where)
    _check_wiring(layers, excluded)
    for layer in layers:
        check_parameters(layer.definition, limits, where=layer.where)
    guard = ShapeLimits(layers, limits, where)
    settled: list[Layer] = []
    makers: dict[str, Made] = {}

    def apply(layer: Layer, bottoms: Sequence[Shape]) -> list[Shape]:
        settled.append(_settled(layer, bottoms, makers))
        for top in layer.tops:
            makers.setdefault(top, Made(settled[-1], bottoms))
        return guard.tops(settled[-1], bottoms)

    shapes = run(layers, lambda layer: apply(layer, []), apply)
    return Network(
        definition.name,
        tuple(settled),
        dict(parameters or {}),
        shapes,
        (*notes, *stage_notes(definition, excluded), *_same_notes(layers)),
    )


def _settled(layer: Layer, bottoms: Sequence[Shape], makers: Mapping[str, Made]) -> Layer:
    """Returns the layer in Caffe's own terms; see `Layer.settled`."""
    if layer.definition.densecast_param.crop_to_meet:
        stated = with_meeting_offset(layer, makers)
        layer = layer_class(stated).parse(stated)
    while (message := layer.settled(bottoms)) is not None:
        layer = layer_class(message).parse(message)
    return layer


def _same_notes(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Returns a note on the layers whose padding depended on the size of their bottom."""
    of_size = [
        layer.name
        for layer in layers
        if SAME in (layer.definition.convolution_param.pad_type, layer.definition.pooling_param.pad_type)
    ]
    if not of_size:
        return ()
    named = ", ".join(of_size[:4]) + (f" and {len(of_size) - 4} more" if len(of_size) > 4 else "")
    return (
        f"pad_type 1 of {named}: padded as at the definition's own size on every image, so that cells stay in step",
    )


def _with_own_names(layers: Sequence[Layer], where: str) -> list[Layer]:
    """Returns the layers with a name of its own for each: Caffe matches weights by name, and needs no other.

    Raises:
        NetworkError: A layer that learns has no name, or shares it.
    """
    count = collections.Counter(layer.name for layer in layers)
    for layer in layers:
        if type(layer).blob_shapes is not Layer.blob_shapes and (not layer.name or count[layer.name] > 1):
            raise NetworkError(
                f"two layers named {layer.name!r}" if layer.name else "a layer without a name",
                where=where,
                why="weights are matched by layer name",
            )
    named: list[Layer] = []
    kept: set[str] = set()
    numbers: dict[str, Iterator[int]] = {}
    for layer in layers:
        if layer.name and layer.name not in kept:
            kept.add(layer.name)
            named.append(layer)
            continue
        stem = layer.name or layer.caffe_type.lower()
        number = numbers.setdefault(stem, itertools.count(1))
        message = LayerParameter()
        message.CopyFrom(layer.definition)
        message.name = next(name for n in number if (name := f"{stem}_{n}") not in count)
        named.append(dataclasses.replace(layer, definition=message))
    return named


def _check_wiring(layers: Sequence[Layer], excluded: Sequence[LayerParameter]) -> None:
    """Checks Caffe's rules on names: AppendBottom and AppendTop in net.cpp, and the copies of insert_splits.cpp."""
    available: dict[str, int] = {}  # for each blob, how many layers read its current version
    for layer in layers:
        bottoms = layer.bottoms
        for kind, blobs, (least, most) in (
            ("bottom", bottoms, layer.bottom_count),
            ("top", layer.tops, layer.top_count),
        ):
            if len(blobs) < least or (most is not None and len(blobs) > most):
                limit = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
                raise layer.invalid(f"{len(blobs)} {kind} blobs, Caffe requires {limit}")
        for bottom in bottoms:
            if bottom not in available:
                raise layer.invalid(
                    f"unknown bottom blob {bottom!r}",
                    why="no earlier layer produces it",
                    remedy=_origin(bottom, excluded, available),
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
                    why="a layer may write in place only a blob that no other layer has read"
                    if in_place
                    else "each blob has one producer, except for layers in place",
                )
            available[top] = 0


def _origin(blob: str, excluded: Sequence[LayerParameter], available: Iterable[str]) -> str:
    """Returns where a blob that no layer produces may come from: a layer that rules leave out, or a misspelt name."""
    for message in excluded:
        if blob in message.top:
            stages = stages_of(message)
            maker = f"layer {message.name!r} ({message.type}) produces it, but its rules leave it out"
            if not stages:
                return maker
            flags = " ".join(f"--stage {stage}" for stage in stages)
            return f"{maker}: it is for stage {', '.join(stages)}; give {flags}, or stages={stages} in Python"
    near = nearest(blob, available)
    return f"did you mean {near[0]!r}?" if near else ""
