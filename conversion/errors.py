"""Typed errors: each states what is wrong, where (file, layer, field), why, and the way out."""

import re

# Controls of terminals and of bidirectional text, and halves of surrogate pairs, which no encoding can write.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ud800-\udfff]")
_LONGEST = 10_000


class DensecastError(Exception):
    """Base of every error that densecast raises on bad input or a refused operation.

    Attributes:
        what: One sentence that says what is wrong, with the bad value.
        where: The file, layer or field; empty if there is none.
        why: The rule that is broken; empty if `what` states it.
        remedy: What the user can do; empty if there is nothing to do.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", remedy: str = "") -> None:
        self.what, self.where, self.why, self.remedy = what, where, why, remedy
        super().__init__(what, where, why, remedy)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword arguments do not survive the default pickling of exceptions, and Beam pickles what workers raise.
        return (_rebuild, (type(self), self.what, {"where": self.where, "why": self.why, "remedy": self.remedy}))

    def __str__(self) -> str:
        text = f"{one_line(self.where)}: {_indented(self.what)}" if self.where else _indented(self.what)
        if self.why:
            text += f"\n  why: {_indented(self.why)}"
        if self.remedy:
            text += f"\n  what to do: {_indented(self.remedy)}"
        return text


def printable(text: str, *, whole: bool = False) -> str:
    r"""Returns the text with control characters escaped and its middle cut out if it is very long.

    Names in hostile files must not control a terminal or fill a log. Tabs and line breaks stay.

    Args:
        text: Any text.
        whole: Whether to leave a long text whole.

    >>> printable("a\x1b[2Jb")
    'a\\x1b[2Jb'
    """
    if len(text) > _LONGEST and not whole:
        text = f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 10 :]}"
    return _CONTROL.sub(lambda match: ascii(match.group())[1:-1], text)


def one_line(text: str) -> str:
    r"""Returns the text as `printable` does, with line breaks and tabs escaped too: it cannot forge a line or a field.

    >>> one_line("a\tb\x1b[2J.jpg")
    'a\\tb\\x1b[2J.jpg'
    """
    return printable(text).replace("\t", "\\t").replace("\n", "\\n")


def _indented(text: str) -> str:
    """Returns a text whose later lines are indented: none of them looks like a message of its own."""
    first, *others = printable(text).split("\n")
    return "\n".join([first, *(line if line.startswith("  ") else f"  {line}" for line in others)])


def _rebuild(cls: type[DensecastError], what: str, details: dict[str, str]) -> DensecastError:
    return cls(what, **details)


class UsageError(DensecastError):
    """What a call says is wrong: the same call fails again, whatever happens meanwhile."""


class MissingExtraError(DensecastError):
    """An optional dependency (TensorFlow, say) is not installed; the remedy names the extra."""


def install_extra(extra: str, *, gpu: str = "") -> str:
    """Returns the remedy of a MissingExtraError: how an extra is installed.

    Args:
        extra: The extra that has what is missing.
        gpu: The extra that has it for NVIDIA GPUs; empty if there is none.

    >>> install_extra("onnx", gpu="gpu")
    "install densecast with its extra `onnx`, or `gpu` for NVIDIA GPUs, from its source: pip install '.[onnx]'"
    """
    other = f", or `{gpu}` for NVIDIA GPUs," if gpu else ","
    return f"install densecast with its extra `{extra}`{other} from its source: pip install '.[{extra}]'"


class ReadingError(DensecastError):
    """A file is missing, unreadable, or not what its reader expects."""


class LimitError(DensecastError):
    """A file exceeds a limit (size, layers, nesting, axes, elements, memory); the message names the limit."""


class NetworkError(DensecastError):
    """A definition contradicts itself or Caffe's rules (unknown bottom, repeated name, bad shape, bad parameter)."""


class UnsupportedError(DensecastError):
    """A definition uses layers or parameters that densecast does not support; the message lists all of them."""


class ExtensionError(DensecastError):
    """An entry point of another package does not give a layer, or not alone; the message names the package."""


class WeightsError(DensecastError):
    """Weights are missing for a layer, or have another shape than the definition requires."""


class CastError(DensecastError):
    """A network cannot be made fully convolutional."""


class ConversionError(DensecastError):
    """A conversion is impossible with these settings (the output exists, mean or labels do not fit, ...)."""


class OptionError(UsageError, ConversionError):
    """An option of a conversion does not fit the network (the mean, the scale, the labels, the channel order)."""


class VerificationError(DensecastError):
    """The converted model diverges from the NumPy reference; the message names the first layer that does."""


class ModelError(DensecastError):
    """A directory is not a model that densecast wrote, or is damaged."""
