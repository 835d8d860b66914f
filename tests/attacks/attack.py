"""An attack: files that are written, what is done with them, and the error it must end in.

Each test file lists its attacks in `ATTACKS` and runs them with `check`; `measure` runs the lot once more in a process
of its own, for memory and against hangs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf import text_format

from conversion.caffe.caffe_pb2 import NetParameter
from conversion.errors import DensecastError, ReadingError
from conversion.export.preprocessing import channel_mean, read_labels
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.net.load import load_network
from tests.support.definitions import convolution, data

SMALL = data(1, 3, 8, 8) + convolution("conv", "data", "num_output: 2 kernel_size: 3")
Content = str | bytes | Callable[[Path], None]


@dataclasses.dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: Of the test.
        content: The hostile file: text, bytes, or a function that makes it at a path.
        error: The type that must be raised, exactly.
        words: What the message must contain.
        kind: What the file is given as: "definition", "weights" (of `SMALL`, or of `net`), "mean", "labels".
        suffix: Of the mean's file name.
        net: The definition that hostile weights are given with.
        limits: Other than the defaults.
    """

    name: str
    content: Content
    error: type[DensecastError]
    words: tuple[str, ...] = ()
    kind: str = "definition"
    suffix: str = ".npy"
    net: str = SMALL
    limits: Limits = DEFAULT_LIMITS

    def write(self, folder: Path) -> Path:
        """The hostile file."""
        path = folder / f"hostile{self.suffix if self.kind == 'mean' else ''}"
        if callable(self.content):
            self.content(path)
        else:
            path.write_bytes(self.content if isinstance(self.content, bytes) else self.content.encode())
        return path

    def run(self, path: Path) -> object:
        """What a user does with the file."""
        if self.kind == "definition":
            return load_network(path, limits=self.limits)
        if self.kind == "weights":
            good = path.with_name("net.prototxt")
            good.write_text(self.net)
            return load_network(good, path, limits=self.limits)
        if self.kind == "mean":
            return channel_mean(path, 3, limits=self.limits)
        return read_labels(path, limits=self.limits)

    def check(self, folder: Path) -> None:
        """Raises AssertionError unless the attack ends in its error, whose message is short and names the file."""
        self.refuse(self.write(folder))

    def refuse(self, path: Path) -> None:
        """The second half of `check`, for a file that is there."""
        with pytest.raises(self.error) as caught:
            self.run(path)
        assert type(caught.value) is self.error
        text = str(caught.value)
        for word in self.words:
            assert word in text, f"{word!r} not in {text[:2000]!r}"
        assert len(text) < 20_000, f"a message of {len(text)} characters: {text[:200]}"
        assert not any(ord(c) < 32 and c not in "\n\t" for c in text), f"control characters in {text!r}"
        if self.error is ReadingError:
            assert caught.value.where.startswith(str(path))


def each(attacks: list[Attack]) -> pytest.MarkDecorator:
    """Parametrises a test by attack."""
    return pytest.mark.parametrize("attack", attacks, ids=[attack.name for attack in attacks])


def binary(text: str) -> bytes:
    """A net in text form -> binary."""
    return text_format.Parse(text, NetParameter()).SerializeToString()


def lengthed(number: int, payload: bytes) -> bytes:
    """A field of protobuf's wire form: its tag, its length, its content."""
    return varint(number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """Protobuf's base-128 form of a number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def sparse(size: int, head: bytes = b"") -> Callable[[Path], None]:
    """A file of that size, zeros after its head, that takes no space."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(head)
            file.truncate(size)

    return make
