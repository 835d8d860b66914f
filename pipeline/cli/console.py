"""What the command line shows and what it keeps quiet."""

from __future__ import annotations

import logging
import os
import threading

from rich.console import Console

_WIDE = 160


def console(*, stderr: bool = False) -> Console:
    """Rich's console; wide where the output is no terminal, so that a file has whole lines."""
    found = Console(stderr=stderr)
    return found if found.is_terminal else Console(stderr=stderr, width=_WIDE)


def quiet_libraries(*, debug: bool) -> None:
    """Keeps Beam's and TensorFlow's own logging to what a user can act on; with `debug` everything is shown."""
    if debug:
        logging.basicConfig(level=logging.INFO)
        return
    # 3: even at ERROR, oneDNN announces what this processor lacks. What fails raises in Python all the same.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    handler = logging.StreamHandler()
    handler.setLevel(logging.ERROR)  # a runner's own logger takes its level from what its process writes
    logging.basicConfig(level=logging.ERROR, handlers=[handler])
    # A worker's failure is raised too, and reported once, by us.
    logging.getLogger("apache_beam").setLevel(logging.CRITICAL)


def quiet_threads() -> None:
    """Keeps still what a runner's threads die of when it has ended and hangs up: no news, in forty lines each."""
    others = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        code = getattr(failed.exc_value, "code", None)
        if not (callable(code) and str(code()) == "StatusCode.CANCELLED"):
            others(failed)

    threading.excepthook = hook
