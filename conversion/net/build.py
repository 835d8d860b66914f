"""Definitions -> networks: parses, wires and checks the layers."""

from __future__ import annotations

from collections.abc import Sequence

from conversion.caffe.caffe_pb2 import LayerParameter, NetParameter
from conversion.caffe.checks import check_names, check_parameters
from conversion.caffe.strip_training import Size, by_phase, strip
from conversion.caffe.upgrade import upgrade
from conversion.errors import NetworkError, UnsupportedError
from conversion.layers.base import Layer, layer_class
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.names import nearest
from conversion.net.network import Network, Parameters, run
from conversion.net.shape_limits import ShapeLimits


def build(
    definition: NetParameter,
    parameters: Parameters | None = None,
    *,
    crop: Size | None = None,
    where: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> Network:
    """Returns the network of a definition message in any of Caffe's forms.

    The layers are those of phase TEST, without those that only training needs (see `strip_training.strip`).

    Args:
        definition: The message.
        parameters: As in `Network`.
        crop: See `strip_training.strip`.
        where: The file, for errors.
        limits: Upper limits on the definition.

    Raises:
        UnsupportedError: It lists every unsupported layer and parameter.
        NetworkError: Names, shapes or parameters contradict each other or Caffe's rules.
        LimitError: It exceeds a limit; nothing is allocated before that is checked.
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
        # The rules have been applied; a saved net would apply them again, without the state that they were written for.
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
            why="without such a layer the net would compute something else",
            remedy="the documentation lists the supported layers; layers that only training uses can be removed",
        )
    _check_wiring(layers, where)
    for layer in layers:
        check_parameters(layer.definition, limits, where=layer.where)
    guard = ShapeLimits(limits, where)
    shapes = run(layers, lambda layer: guard.tops(layer, []), guard.tops)
    return Network(definition.name, tuple(layers), dict(parameters or {}), shapes, notes)


def _check_wiring(layers: Sequence[Layer], where: str) -> None:
    """Checks Caffe's rules on names: AppendBottom and AppendTop in net.cpp, and the copies of insert_splits.cpp."""
    available: dict[str, int] = {}  # for each blob, how many layers read its current version
    names: set[str] = set()
    for layer in layers:
        bottoms = layer.bottoms
        if layer.name in names:
            raise NetworkError(f"two layers named {layer.name!r}", where=where, why="weights are matched by layer name")
        names.add(layer.name)
        for kind, blobs, (least, most) in (
            ("bottom", bottoms, layer.bottom_count),
            ("top", layer.tops, layer.top_count),
        ):
            if len(blobs) < least or (most is not None and len(blobs) > most):
                limit = f"{least}" if least == most else f"at least {least}" if most is None else f"{least} to {most}"
                raise layer.invalid(f"{len(blobs)} {kind} blobs, Caffe requires {limit}")
        for bottom in bottoms:
            if bottom not in available:
                near = nearest(bottom, available)
                raise layer.invalid(
                    f"unknown bottom blob {bottom!r}",
                    why="no earlier layer produces it",
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
                    why="a layer may write in place only a blob that no other layer has read"
                    if in_place
                    else "each blob has one producer, except for layers in place",
                )
            available[top] = 0
