"""Fields of layers of other packages, in a definition's text: their text is kept for the packages to read.

Protobuf's parser stops at a field that the schema lacks. So `my_param { ... }` in a layer becomes an `own_field` with
the text between its braces, before the definition is parsed; see `layers.own.own_parameter`.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence

from conversion.caffe.text_limits import CLOSING, Tokens, split_text
from conversion.limits import Limits
from conversion.own_layers import own_fields

_IN_LAYER = "(in LayerParameter,"


def with_own_fields(text: str, unknown: Sequence[str], limits: Limits, *, where: str) -> str:
    """Returns a definition's text with the fields that packages declare as `own_field`; lines keep their numbers.

    Args:
        text: The definition; `text_limits.scan` reached its end.
        unknown: The fields that the schema lacks, as `scan` lists them.
        limits: For the text.
        where: The file, for errors.

    Raises:
        ExtensionError: An entry point cannot be imported, or two layer types have one field.
    """
    names = {entry.split(" ", 1)[0] for entry in unknown if _IN_LAYER in entry}
    owned = own_fields(names) if names else {}
    if not owned:
        return text
    pieces, done = [], 0
    for name, (start, first, last, end) in _spans(split_text(text, limits, where), owned):
        pieces.append(f'{text[done:start]}own_field {{ name: "{name}" text: "{_escaped(text[first:last])}" }}')
        pieces.append("\n" * text.count("\n", start, end))
        done = end
    return "".join([*pieces, text[done:]])


def _spans(split: Tokens, owned: Container[str]) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Yields each such field in a layer: where it starts, where its text starts and ends, and where it ends."""
    tokens, places = split
    around: list[str] = []  # the names of the messages around a token
    name, at = "", 0
    while at < len(tokens) - 1:
        word = tokens[at]
        opening = at + 1 + (tokens[at + 1] == ":")
        if word in owned and around == ["layer"] and tokens[opening] in ("{", "<"):
            closing = _closing(tokens, opening)
            yield word, (places[at], places[opening] + 1, places[closing], places[closing] + 1)
            at = closing
        elif word in CLOSING:
            around.append(name)
        elif word in CLOSING.values():
            around.pop()
        elif word not in (":", ",", ";"):
            name = word
        at += 1


def _closing(tokens: Sequence[str], opening: int) -> int:
    """Returns the index of the token that closes the message which `opening` begins."""
    depth = 0
    for at in range(opening, len(tokens)):
        depth += (tokens[at] in CLOSING) - (tokens[at] in CLOSING.values())
        if depth == 0:
            return at
    return len(tokens) - 1


def _escaped(text: str) -> str:
    """Returns a text as protobuf's text form writes it between quotes."""
    for character, escape in (("\\", "\\\\"), ('"', '\\"'), ("\n", "\\n"), ("\r", "\\r")):
        text = text.replace(character, escape)
    return text
