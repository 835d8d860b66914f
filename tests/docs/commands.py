"""`densecast` commands as the documentation writes them: read from a console block, and run in this process."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from collections.abc import Iterator
from typing import NamedTuple

from pipeline.cli.main import main
from tests.docs.markdown import Block


class Command(NamedTuple):
    """A command of a console block.

    Attributes:
        words: The command and its arguments.
        output: The lines that follow it in the block; `...` stands for anything.
    """

    words: list[str]
    output: str


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    stdout: str
    stderr: str


def commands(block: Block) -> Iterator[Command]:
    """Yields the commands of a console block: lines that begin with `$`, continued after a backslash."""
    text = block.text.replace("\\\n", " ")
    assert text.startswith("$ "), f"{block}: a console block begins with a command"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        line, _, output = part.partition("\n")
        yield Command(shlex.split(re.sub(r"\s+# .*", "", line)), output)


def run_densecast(arguments: list[str]) -> Outcome:
    """Runs `densecast` in this process, where TensorFlow and Beam are loaded once for all examples."""
    stdout, stderr = io.StringIO(), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            main(arguments)
        except SystemExit as error:
            code = error.code
    return Outcome(code if isinstance(code, int) else 0 if code is None else 1, stdout.getvalue(), stderr.getvalue())
