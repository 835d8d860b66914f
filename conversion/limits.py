"""Upper limits on files, with generous defaults: a hostile file ends in an error, not in a hang."""

from __future__ import annotations

import dataclasses
import sys

from conversion.errors import LimitError

_MIB = 1 << 20
_NUMPY_AXES = 64


@dataclasses.dataclass(frozen=True)
class Limits:
    """Upper limits on what is read. Every published net that we know is within the defaults: VGG-16, ResNet-152, ...

    Each field but the last is the flag `--max-...` of the command line (`--max-weights-bytes`).

    Attributes:
        definition_bytes: Size of a definition in text form. ResNet-152 has 100 kB.
        weights_bytes: Size of a weights file. Protobuf's own limit is 2 GiB; VGG-16 has 553 MB.
        mean_bytes: Size of a mean file.
        labels_bytes: Size of a file of class names.
        entries: Tokens of a definition, or fields of a binary file, without the values of blobs. ResNet-152 has
            15,000 tokens.
        layers: Layers of a net.
        nesting: Depth of nested messages in a definition; Caffe's own reach 5.
        axes: Axes of a blob; the default is Caffe's limit.
        elements: Values of one blob; the default is Caffe's limit (its counts are a C int).
        memory: Bytes that are in use at once when NumPy evaluates a net in float64: weights, the blobs that a layer or
            a later one reads, and the layer's workspace. Shape inference counts them, at the size that the definition
            states and at those that a model is verified on. TensorFlow's own memory is not in it.
        name_length: Characters in the name of a layer or blob.
        allow_nonfinite: Whether NaN and infinite weights and parameters are accepted.
    """

    definition_bytes: int = _MIB
    weights_bytes: int = 2048 * _MIB - 1
    mean_bytes: int = 256 * _MIB
    labels_bytes: int = 4 * _MIB
    entries: int = 100_000
    layers: int = 10_000
    nesting: int = 32
    axes: int = 32
    elements: int = 2**31 - 1
    memory: int = 8192 * _MIB
    name_length: int = 1000
    allow_nonfinite: bool = False

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if getattr(self, field.name) < (field.name != "allow_nonfinite"):
                raise LimitError(f"limit {field.name} {getattr(self, field.name)} is below 1")
        if self.axes > _NUMPY_AXES:
            raise LimitError(f"limit axes {self.axes} is above {_NUMPY_AXES}", why="NumPy arrays have no more")

    def check(self, limit: str, count: int, what: str, *, where: str = "") -> None:
        """Raises LimitError if `count` is above the limit of that name; `what` says what was counted."""
        allowed: int = getattr(self, limit)
        if count > allowed:
            raise LimitError(
                f"{what}, more than the limit of {allowed:,}",
                where=where,
                why=f"the limit `{limit}` guards against damaged and hostile files",
                remedy=f"if you trust the file: {limit_flag(limit)} N, or Limits({limit}=N) in Python",
            )


DEFAULT_LIMITS = Limits()
"""For files of unknown origin."""

UNLIMITED = Limits(
    **{
        field.name: sys.maxsize for field in dataclasses.fields(Limits) if field.name not in ("axes", "allow_nonfinite")
    },
    axes=_NUMPY_AXES,
    allow_nonfinite=True,
)
"""For data that was read under limits before: a net that is built again from its own layers."""


def limit_flag(limit: str) -> str:
    """Returns how the command line spells a limit.

    >>> limit_flag("weights_bytes"), limit_flag("allow_nonfinite")
    ('--max-weights-bytes', '--allow-nonfinite')
    """
    dashed = limit.replace("_", "-")
    return f"--{dashed}" if limit == "allow_nonfinite" else f"--max-{dashed}"
