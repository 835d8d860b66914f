"""The parameters of layers of other packages, and the checks of such layers."""

from __future__ import annotations

from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.errors import ExtensionError, NetworkError

AnyMessage = TypeVar("AnyMessage", bound=Message)


def own_parameter(definition: LayerParameter, field: str, message: AnyMessage) -> AnyMessage:
    """Returns a message of a package's own with what a layer's definition says in a field of that package's own.

    The package knows the field's form, and densecast does not: it keeps the text between the braces, and protobuf reads
    it here into the package's message.

    Args:
        definition: The layer's message.
        field: The field's name, one of the class's `own_fields`.
        message: An empty message of the package's own schema; it is filled, and returned. A layer without the field
            leaves it empty.

    Raises:
        NetworkError: The text does not fit the message, or the field is given twice.
    """
    texts = [own.text for own in definition.own_field if own.name == field]
    where = f"layer {definition.name!r} ({definition.type})"
    if len(texts) > 1:
        raise NetworkError(f"{field} is given {len(texts)} times", where=where)
    try:
        text_format.Parse("".join(texts), message)
    except text_format.ParseError as error:
        raise NetworkError(f"{field} is not a {message.DESCRIPTOR.name}: {error}", where=where) from error
    return message


def check_class(found: object, base: type, where: str) -> None:
    """Raises ExtensionError unless an entry point names a layer: a subclass of Layer with all of its forms."""
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ExtensionError(f"{found!r} is not a layer", where=where, why="it must be a subclass of conversion.Layer")
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise ExtensionError(
            f"{found.__name__} lacks {', '.join(missing)}", where=where, why="a layer states its shapes and its forms"
        )
