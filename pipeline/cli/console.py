"""What the command line shows, and which messages of libraries it hides."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

import click

from conversion.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

_WIDE = 160


def console(*, stderr: bool = False) -> Console:
    """Returns Rich's console; it is wide where the output is not a terminal, so that a file has whole lines."""
    from rich.console import Console

    terminal = Console(stderr=stderr)
    return terminal if terminal.is_terminal else Console(stderr=stderr, width=_WIDE)


def one_line(text: str) -> str:
    r"""Returns a text from a table or a file in a form that cannot control a terminal, nor break a line into fields.

    >>> one_line("a\tb\x1b[2J.jpg")
    'a\\tb\\x1b[2J.jpg'
    """
    return printable(text).replace("\t", "\\t").replace("\n", "\\n")


class _Notices(logging.Handler):
    """Prints what densecast says of a run on standard error, a line each, as the error stream is at that time."""

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one line."""
        click.echo(f"densecast: {one_line(record.getMessage())}", err=True)


def quiet_libraries(*, debug: bool) -> None:
    """Hides log messages of Beam and TensorFlow that a user cannot act on; with `debug` everything is shown."""
    notices = logging.getLogger("densecast")
    if not notices.handlers:
        notices.addHandler(_Notices())
        notices.setLevel(logging.INFO)
        notices.propagate = False
    if debug:
        logging.basicConfig(level=logging.INFO)
        return
    # 3: even at ERROR, oneDNN lists what this processor lacks. What fails raises in Python as well.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    handler = logging.StreamHandler()
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
