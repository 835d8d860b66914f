"""Typed errors: each says what is wrong, where (file, layer, field), why, and what to do about it."""

import re

# Controls of terminals and of bidirectional text, and halves of surrogate pairs, which cannot be written at all.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST = 10_000


class DensecastError(Exception):
    """Base of every error that densecast raises on bad input or a refused operation.

    Attributes:
        what: One sentence: what is wrong, with the value that was found.
        where: The file, layer or field it was found in; empty where there is none.
        why: The rule that it breaks; empty where `what` says it.
        remedy: What the user can do about it; empty where nothing can be done.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        self.what, self.where, self.why, self.remedy = what, where, why, remedy
        super().__init__(what, where, why, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments do not survive the default pickling of exceptions, and Beam pickles what workers raise.
        return (_rebuild, (type(self), self.what, self.where, self.why, self.remedy))

    def __str__(self) -> str:
        text = f"{_shown(self.where)}: {_shown(self.what)}" if self.where else _shown(self.what)
        if self.why:
            text += f"\n  why: {_shown(self.why)}"
        if self.remedy:
            text += f"\n  what to do: {_shown(self.remedy)}"
        return text


def _shown(text: str) -> str:
    """The text as a terminal and a log can take it: what a hostile file brings in is escaped, and cut."""
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 10 :]}"
    return _CONTROL.sub(lambda found: ascii(found.group())[1:-1], text)


def _rebuild(cls: type[DensecastError], what: str, where: str, why: str, remedy: str) -> DensecastError:
    return cls(what, where=where, why=why, remedy=remedy)


class MissingExtraError(DensecastError):
    """An optional dependency (TensorFlow, say) is not installed; the remedy names the extra."""


class ReadingError(DensecastError):
    """A file is missing, unreadable, or not what its reader expects."""


class LimitError(DensecastError):
    """A file asks for more than a limit allows (size, layers, nesting, axes, elements, memory); names the limit."""


class NetworkError(DensecastError):
    """A definition contradicts itself or Caffe's rules (unknown bottom, repeated name, bad shape, bad parameter)."""


class UnsupportedError(DensecastError):
    """A definition uses layers or parameters that densecast does not support; all of them are listed."""


class WeightsError(DensecastError):
    """Weights are missing for a layer, or have another shape than the definition asks for."""


class CastError(DensecastError):
    """A network cannot be made fully convolutional."""


class ConversionError(DensecastError):
    """A conversion cannot be carried out as asked (output exists, mean or labels do not fit, ...)."""


class VerificationError(DensecastError):
    """The converted model diverges from the NumPy reference; the message names the first layer that does."""


class ModelError(DensecastError):
    """A directory is not a model that densecast wrote, or is damaged."""
