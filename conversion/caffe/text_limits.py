"""Scans a definition in text form before it is parsed, in one pass and without recursion.

protobuf's text parser recurses into messages and takes seconds for a megabyte of tokens; so sizes are checked first.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from conversion.caffe.caffe_pb2 import LayerParameter, NetParameter, V1LayerParameter
from conversion.caffe.wire_limits import Descriptor
from conversion.limits import Limits

# Splits as text_format.Tokenizer does, over all lines at once; possessive, so that it never backtracks.
_TOKEN = re.compile(
    r"""(?:\s|\#[^\n]*)++  # blank
    | ([A-Za-z_][0-9A-Za-z_+-]*+  # a name
    | (?:[0-9+-]|\.[0-9])[0-9A-Za-z_.+-]*+  # a number
    | "[^"\n\\]*+(?:\\.[^"\n\\]*+)*+["\\]?  # a string, or the rest of its line
    | '[^'\n\\]*+(?:\\.[^'\n\\]*+)*+['\\]?
    | .)""",
    re.VERBOSE,
)
CLOSING = {"{": "}", "<": ">", "[": "]"}
_SEPARATORS = (",", ";")
_LAYERS = (LayerParameter.DESCRIPTOR, V1LayerParameter.DESCRIPTOR)
_MOST_UNKNOWN = 100


class Scan(NamedTuple):
    """What the scan of a definition shows.

    Attributes:
        unknown: The fields that our schema lacks, each with its line; the first hundred.
        error: Where the text is not a definition any more, and why; empty if the scan reached its end. The parser
            explains errors better, but takes long if fields are unknown.
    """

    unknown: list[str]
    error: str = ""


class Tokens(NamedTuple):
    """The tokens of a text, with an empty one at the end, and where each starts."""

    tokens: list[str]
    places: list[int]


class _Frame(NamedTuple):
    closing: str
    descriptor: Descriptor | None  # of the message; None in an unknown or scalar field
    is_list: bool


def scan(text: str, limits: Limits, *, where: str) -> Scan:
    """Raises LimitError if the text has too many tokens or layers or is nested too deeply."""
    tokens, places = split = split_text(text, limits, where)
    frames = [_Frame("", NetParameter.DESCRIPTOR, is_list=False)]
    unknown: list[str] = []
    layers, at, line, counted = 0, 0, 1, 0
    end = len(tokens) - 1  # the last one is empty
    while at < end:
        token, frame = tokens[at], frames[-1]
        if token == frame.closing:
            frames.pop()
            at += 1 + (tokens[at + 1] in _SEPARATORS)
            continue
        child = frame.descriptor
        if not frame.is_list:
            if not (token[0].isalnum() or token[0] == "_"):
                return Scan(unknown, _error(text, split, at, "Expected a field"))
            field = frame.descriptor.fields_by_name.get(token) if frame.descriptor else None
            if frame.descriptor and field is None:
                line += text.count("\n", counted, places[at])
                counted = places[at]
                unknown.append(f"{token[:100]} (in {frame.descriptor.name}, line {line})")
                if len(unknown) == _MOST_UNKNOWN:
                    return Scan([*unknown, "and perhaps more"])
            child = field.message_type if field else None
            at += 2 if tokens[at + 1] == ":" else 1
        value = tokens[at]
        if value in CLOSING:
            frames.append(_Frame(CLOSING[value], child, is_list=value == "["))
            limits.check("nesting", len(frames) - 1, "nested too deeply", where=where)
            layers += child in _LAYERS and value != "["
            limits.check("layers", layers, f"at least {layers:,} layers", where=where)
            at += 1
            continue
        if not value or not (value[0].isalnum() or value[0] in "_\"'+-."):
            return Scan(unknown, _error(text, split, at, "Invalid field value"))
        at += 1
        while value[0] in "\"'" and tokens[at][:1] in ("'", '"'):  # adjacent strings are one value
            at += 1
        at += tokens[at] in _SEPARATORS
    missing = frames[-1].closing
    return Scan(unknown, _error(text, split, at, f'Expected "{missing}"') if missing else "")


def _error(text: str, split: Tokens, at: int, what: str) -> str:
    tokens, places = split
    place = places[at] if at < len(places) else len(text)
    line, start = text.count("\n", 0, place) + 1, text.rfind("\n", 0, place) + 1
    return f"{line}:{place - start + 1}: {what}: {tokens[at][:100] or 'the end of the file'}"


def split_text(text: str, limits: Limits, where: str) -> Tokens:
    """Returns the tokens of a text; raises LimitError if there are too many."""
    tokens: list[str] = []
    places: list[int] = []
    for match in _TOKEN.finditer(text):
        if match[1] is not None:
            tokens.append(match[1])
            places.append(match.start())
            if len(tokens) > limits.entries:
                limits.check("entries", len(tokens), f"at least {len(tokens):,} tokens", where=where)
    return Tokens([*tokens, ""], places)
