"""Checks of definitions and weights beyond Caffe's own rules, made before anything is allocated."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import numpy as np
from google.protobuf.message import Message

from conversion.arrays import Array
from conversion.caffe.caffe_pb2 import LayerParameter, NetParameter, V1LayerParameter
from conversion.errors import NetworkError, WeightsError
from conversion.limits import Limits, limit_flag
from conversion.names import control_character

_CHUNK = 1 << 20


def check_names(definition: NetParameter, limits: Limits, *, where: str) -> None:
    """Raises NetworkError or LimitError on a blob without a name, or a name that is too long or shows as another.

    `/` and `..` are legal: no name ever becomes a path, and TensorFlow's scopes get other names.
    """
    if definition.name:
        _check_name("net", definition.name, limits, where)
    for name in definition.input:
        _check_name("blob", name, limits, where)
    layers: Iterator[LayerParameter | V1LayerParameter] = itertools.chain(definition.layer, definition.layers)
    for layer in layers:
        named = layer.layer if isinstance(layer, V1LayerParameter) and layer.HasField("layer") else layer
        if named.name:  # `build` names those that learn nothing, and refuses the others
            _check_name("layer", named.name, limits, where)
        kind: object = named.type  # protobuf returns bytes for text that is not UTF-8
        if isinstance(kind, bytes):
            raise NetworkError(f"layer type {kind[:40]!r} is not UTF-8", where=where)
        if isinstance(kind, str):  # in the form of 2014 the type is an enum
            limits.check("name_length", len(kind), f"layer type {kind[:40]!r}...", where=where)
        for blob in (*layer.bottom, *layer.top):
            _check_name("blob", blob, limits, where)


def _check_name(kind: str, name: str | bytes, limits: Limits, where: str) -> None:
    if isinstance(name, bytes):  # what protobuf gives for text that is not UTF-8
        raise NetworkError(f"{kind} name {name[:40]!r} is not UTF-8", where=where)
    if not name:
        raise NetworkError(f"a {kind} without a name", where=where, why="weights and blobs are matched by name")
    limits.check("name_length", len(name), f"{kind} name {name[:40]!r}... of {len(name):,} characters", where=where)
    if control_character(name):
        raise NetworkError(
            f"{kind} name {name[:80]!r} has the control character {control_character(name)!r}",
            where=where,
            why="a terminal would show another name, or overwrite what it shows",
        )


def check_parameters(layer: LayerParameter, limits: Limits, *, where: str) -> None:
    """Raises NetworkError if a parameter of a layer is NaN or infinite."""
    if limits.allow_nonfinite:
        return
    for field, value in _floats(layer):
        if not math.isfinite(value):
            raise NetworkError(
                f"{field} is {value}",
                where=where,
                why="the output of the layer would not be finite",
                remedy=f"correct the definition, or allow it: {limit_flag('allow_nonfinite')}",
            )


def _floats(message: Message) -> Iterator[tuple[str, float]]:
    """Yields every floating-point number in a message and in its submessages, with its field's name."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
            yield from ((field.name, one) for one in values)
        elif field.message_type is not None:
            for one in values:
                yield from _floats(one)


def check_values(array: Array, limits: Limits, *, where: str) -> None:
    """Raises WeightsError on NaN and infinite weights; checks chunk by chunk, to save memory."""
    if limits.allow_nonfinite:
        return
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        finite = np.isfinite(flat[start : start + _CHUNK])
        if not finite.all():
            index = start + int(np.argmin(finite))
            raise WeightsError(
                f"value {index:,} of the weights is {flat[index]}",
                where=where,
                why="one such value makes every cell that depends on it NaN or infinite",
                remedy=f"train or fetch the weights again; or allow it: {limit_flag('allow_nonfinite')}",
            )
