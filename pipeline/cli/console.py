"""All that the command line prints leaves here, and which messages of libraries it hides.

Names and labels come from files and servers. What is printed cannot control a terminal, and a name cannot forge a line,
a field or a style. A stream that cannot be written is given up: it never decides what becomes of the work.
"""

from __future__ import annotations

import dataclasses
import errno
import io
import json
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, TextIO, cast

from conversion.errors import one_line, printable

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

_WIDE = 160


@dataclasses.dataclass
class _Streams:
    """What is known of the two streams.

    Attributes:
        given_up: The streams that could not be written, and why; nothing more is written to them.
        work_counts: Whether the command does more than print, so that its outcome does not depend on the output.
    """

    given_up: dict[str, str] = dataclasses.field(default_factory=dict)
    work_counts: bool = False


_streams = _Streams()
_CLOSED = "its reader has closed it"


def say(text: str, *, err: bool = False) -> None:
    """Prints one line; control characters in it are escaped, tabs and line breaks too."""
    _write(f"{one_line(text)}\n", err=err)


def say_fields(*fields: str) -> None:
    """Prints one line of fields with tabs between them; no field can hold a tab or a line break."""
    _write("\t".join(map(one_line, fields)) + "\n")


def say_lines(text: str, *, err: bool = False) -> None:
    """Prints a text with line breaks of densecast's own, as errors have; other control characters are escaped."""
    _write(f"{printable(text)}\n", err=err)


def say_json(value: object, *, indent: int | None = None) -> None:
    """Prints a value as JSON in ASCII: the strings are exact, and hold no character that a terminal obeys.

    Args:
        value: A value of JSON's types.
        indent: Spaces a level; by default all is in one line.
    """
    _write(json.dumps(value, indent=indent).replace("\x7f", "\\u007f") + "\n")


def show(renderable: RenderableType) -> None:
    """Prints a table or other renderable of Rich's; strings in it are text, never markup."""
    console().print(renderable)


def fits(renderable: RenderableType) -> bool:
    """Returns whether a table or other renderable needs no more than the width of the output."""
    from rich.measure import Measurement

    terminal = console()
    # What is wider than the options allow is measured as cut, so a wide space is offered.
    wide = terminal.options.update(max_width=1 << 16)
    return Measurement.get(terminal, wide, renderable).maximum <= terminal.width


def console(*, stderr: bool = False) -> Console:
    """Returns Rich's console; it is wide where the output is not a terminal, so that a file has whole lines."""
    from pipeline.cli.plain_console import PlainConsole

    gate = cast(TextIO, _Gate(err=stderr))
    terminal = PlainConsole(gate)
    return terminal if terminal.is_terminal else PlainConsole(gate, width=_WIDE)


class _Gate(io.TextIOBase):
    """One of the two streams as Rich takes it; writing never fails.

    Args:
        err: Whether it is standard error.
    """

    def __init__(self, *, err: bool) -> None:
        self._err = err

    @property
    def _stream(self) -> TextIO | None:
        stream: TextIO | None = sys.stderr if self._err else sys.stdout
        return stream

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a stream's cannot be set either
        """The encoding of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Returns whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Returns the number of the stream; raises OSError if it has none."""
        return super().fileno() if self._stream is None else self._stream.fileno()

    def write(self, text: str) -> int:
        """Writes what Rich has drawn."""
        _write(text, err=self._err)
        return len(text)


def printing_does_not_count() -> None:
    """Says that the command does more than print: that its output cannot be printed changes nothing in its outcome."""
    _streams.work_counts = True


def output_given_up() -> bool:
    """Returns whether standard output cannot be written any more; a long listing then ends."""
    return "stdout" in _streams.given_up


def start_printing() -> None:
    """Forgets what an earlier command of this process printed."""
    _streams.given_up.clear()
    _streams.work_counts = False


def finish_printing() -> bool:
    """Writes what is left in the streams; returns whether the command failed because its output could not be printed.

    A reader that has seen enough, such as `head`, is not a failure.
    """
    for name in ("stdout", "stderr"):
        stream: TextIO | None = getattr(sys, name)
        if stream is not None and name not in _streams.given_up:
            try:
                stream.flush()
            except (OSError, ValueError) as error:
                _give_up(name, stream, error)
    return not _streams.work_counts and _streams.given_up.get("stdout", _CLOSED) != _CLOSED


def _write(text: str, *, err: bool = False) -> None:
    name = "stderr" if err else "stdout"
    if name in _streams.given_up:
        return
    stream: TextIO | None = getattr(sys, name)
    if stream is None:  # as `>&-` starts a process
        _give_up(name, None, OSError(errno.EBADF, os.strerror(errno.EBADF)))
        return
    try:
        stream.write(text.encode(stream.encoding or "utf-8", "backslashreplace").decode(stream.encoding or "utf-8"))
        stream.flush()
    except (OSError, ValueError) as error:  # ValueError: the stream was closed
        _give_up(name, stream, error)


def _give_up(name: str, stream: TextIO | None, error: OSError | ValueError) -> None:
    """Stops writing to a stream, and says so on the other one, if that works."""
    closed = isinstance(error, BrokenPipeError)
    _streams.given_up[name] = _CLOSED if closed else getattr(error, "strerror", None) or str(error)
    if stream is not None:
        _discard(stream)
    if name == "stdout" and (_streams.work_counts or not closed):
        say(f"densecast: the output cannot be printed: {_streams.given_up[name]}", err=True)


def _discard(stream: TextIO) -> None:
    """Lets what the stream still holds go nowhere; Python would report it once more when it ends."""
    try:
        number = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return  # not a stream of the system's
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)


class _Plain(logging.Formatter):
    """Formats records so that names in them control no terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record as text."""
        return printable(super().format(record), whole=True)


class _Notices(logging.Handler):
    """Prints what densecast says of a run on standard error, a line each, as the error stream is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        say(f"densecast: {record.getMessage()}", err=True)


def quiet_libraries(*, debug: bool) -> None:
    """Hides log messages of Beam and TensorFlow that a user cannot act on; with `debug` everything is shown."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Plain(logging.BASIC_FORMAT if debug else None))
    notices = logging.getLogger("densecast")
    if not notices.handlers:
        notices.addHandler(_Notices())
        notices.setLevel(logging.INFO)
        notices.propagate = False
    if debug:
        logging.basicConfig(level=logging.INFO, handlers=[handler])
        return
    # 3: even at ERROR, oneDNN lists what this processor lacks. What fails raises in Python as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    handler.setLevel(logging.ERROR)  # a runner's own logger takes its level from what its process writes
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    # The failure of a worker is raised too, and densecast reports it once.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)


def quiet_threads() -> None:
    """Hides the tracebacks of threads whose runner has ended and closed their calls: forty lines each, and no error."""
    report = threading.excepthook

    def hook(failure: threading.ExceptHookArgs) -> None:
        code = getattr(failure.exc_value, "code", None)
        if not (callable(code) and str(code()) == "StatusCode.CANCELLED"):
            report(failure)

    threading.excepthook = hook
