"""Walks a message in binary form before it is parsed: checks that it is complete, and counts its objects.

Parsing is fast, but three bytes of file can become two hundred of memory (an empty layer). The values of blobs, most of
a file of trained weights, take as much memory as in the file.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from typing import Any

import numpy as np
from google.protobuf.descriptor import FieldDescriptor

from conversion.caffe.caffe_pb2 import LayerParameter, V1LayerParameter
from conversion.errors import ReadingError
from conversion.limits import Limits

Descriptor = Any  # of a message; protobuf has two implementations, which share no type
_VARINT, _FIXED64, LENGTH, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
_FIXED = {FieldDescriptor.TYPE_DOUBLE: 8, FieldDescriptor.TYPE_FLOAT: 4}  # the fixed-width types of our schema
_TEXT = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
_LAYERS = (LayerParameter.DESCRIPTOR, V1LayerParameter.DESCRIPTOR)
_LONGEST_VARINT = 10


def check(
    data: bytes, descriptor: Descriptor, limits: Limits, *, where: str, only: Container[Descriptor] | None = None
) -> None:
    """Walks the fields of a message and of its submessages; `only` limits these to the given messages.

    Raises:
        ReadingError: The data is not a message, or is truncated; the error names the place.
        LimitError: It has too many fields or layers.
    """
    Walk(data, descriptor, limits, where, only=only).message(descriptor, 0, len(data))


class Walk:
    """One walk; its recursion is bounded, since no message of our schema contains itself."""

    def __init__(
        self,
        data: bytes,
        root: Descriptor,
        limits: Limits,
        where: str,
        *,
        only: Container[Descriptor] | None = None,
    ) -> None:
        self.only = only
        self.data, self.limits, self.where = data, limits, where
        self.why = f"it must be a complete {root.name} in binary form"
        self.known: dict[Descriptor, dict[int, FieldDescriptor]] = {}
        self.entries = 0
        self.layers = 0

    def message(self, descriptor: Descriptor, at: int, end: int) -> None:
        """Walks a message and its submessages."""
        if descriptor not in self.known:
            self.known[descriptor] = dict(descriptor.fields_by_number)
        known = self.known[descriptor]
        for number, kind, _, start, stop in self.fields(at, end):
            if kind == LENGTH and number in known:
                self.value(known[number], start, stop)

    def fields(self, at: int, end: int) -> Iterator[tuple[int, int, int, int, int]]:
        """Yields (number, wire type, start of the field, start of its content, end) for each field."""
        while at < end:
            start = at
            tag, at = self.varint(at, end)
            number, kind = tag >> 3, tag & 7
            if not 0 < number < 1 << 29:
                raise self.broken(start, f"field number {number}")
            self.count(1)
            content = at
            if kind == _VARINT:
                _, at = self.varint(at, end)
            elif kind in _WIDTH:
                at = self.run(start, at + _WIDTH[kind], end)
            elif kind == LENGTH:
                size, content = self.varint(at, end)
                if size > end - content:
                    raise self.truncated(start, f"{size:,} bytes are announced, {end - content:,} are left")
                at = content + size
            else:
                raise self.broken(start, f"wire type {kind}")
            if at > end:
                raise self.truncated(start, "a value is cut off")
            yield number, kind, start, content, at

    def value(self, field: FieldDescriptor, at: int, end: int) -> None:
        """Walks a field of some length: a message, a string, or packed numbers."""
        if field.message_type is not None:
            if self.only is not None and field.message_type not in self.only:
                return
            if field.message_type in _LAYERS:
                self.layers += 1
                self.limits.check("layers", self.layers, f"at least {self.layers:,} layers", where=self.where)
            self.message(field.message_type, at, end)
        elif field.type not in _TEXT and field.type not in _FIXED:
            self.count(end - at)  # a packed byte can become eight bytes

    def run(self, start: int, after: int, end: int) -> int:
        """Returns the end of a run of equal tags with fixed-width values (unpacked floats); a run counts once."""
        width = after - start
        tag = self.data[start : start + 1]
        if tag[0] & 0x80:  # the tags of a blob's values have one byte
            return after
        step = 1
        while self.data[after : after + 1] == tag and after + width <= end:
            records = min(step, (end - after) // width)
            tags = np.frombuffer(self.data, np.uint8, records * width, after)[::width]
            other = np.flatnonzero(tags != tag[0])
            if other.size:
                return after + int(other[0]) * width
            after += records * width
            step = min(step * 2, 1 << 20)
        return after

    def count(self, entries: int) -> None:
        """Counts fields against the limit."""
        self.entries += entries
        if self.entries > self.limits.entries:
            self.limits.check("entries", self.entries, f"at least {self.entries:,} fields", where=self.where)

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """Returns a number in base 128, and its end."""
        value = 0
        for index in range(_LONGEST_VARINT):
            if at + index >= end:
                raise self.truncated(at, "a number is cut off")
            byte = self.data[at + index]
            value |= (byte & 0x7F) << 7 * index
            if byte < 0x80:
                return value, at + index + 1
        raise self.broken(at, f"a number of more than {_LONGEST_VARINT} bytes")

    def truncated(self, at: int, what: str) -> ReadingError:
        """Returns the error for truncated data."""
        return ReadingError(
            f"damaged or truncated at byte {at:,}: {what}",
            where=self.where,
            why=self.why,
            remedy="fetch the file again, and compare its size or digest with the published one",
        )

    def broken(self, at: int, what: str) -> ReadingError:
        """Returns the error for data that is not protobuf."""
        return ReadingError(
            f"not a Caffe file, or damaged at byte {at:,}: {what}",
            where=self.where,
            why=self.why,
        )
