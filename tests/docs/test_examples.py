"""The examples and commands of README and docs/ are run as they stand in the page."""

from __future__ import annotations

import contextlib
import doctest
import io
import tomllib
from pathlib import Path

import pytest

from tests.docs.commands import commands, run_densecast
from tests.docs.conftest import Workplace
from tests.docs.markdown import NAMES, PAGES, ROOT, Block, blocks

RUN = ("console", "python", "toml")
SHOWN = ("text",)
"""Languages of blocks that are looked at, not run."""

NOT_RUN = {
    "builds an environment",
    "changes an installation",
    "downloads weights",
    "needs a cluster",
    "needs a GPU",
    "needs an object store",
}
"""The reasons for which a block is not run."""

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.parametrize("name", NAMES)
def test_examples_run(name: str, workplace: Workplace, monkeypatch: pytest.MonkeyPatch):
    workplace.reset()
    monkeypatch.chdir(workplace.folder)
    namespace: dict[str, object] = {"__name__": "__example__"}
    for block in blocks(ROOT / name):
        if block.marker == "file":
            Path(block.value).write_text(block.text, encoding="utf-8")
        elif block.marker == "not run":
            continue
        elif block.language == "console":
            _run_console(block)
        elif block.language == "python":
            _run_python(block, namespace)
        elif block.language == "toml":
            tomllib.loads(block.text)


def test_every_block_is_run_or_says_why_not():
    found = [block for page in PAGES for block in blocks(page)]
    assert sum(block.language in RUN and block.marker != "not run" for block in found) >= 25
    for block in found:
        if block.marker == "not run":
            assert block.value in NOT_RUN, f"{block}: {block.value!r} is not a known reason"
        else:
            assert block.marker == "file" or block.language in (*RUN, *SHOWN), (
                f"{block}: is not run, and says no reason"
            )
    unused = NOT_RUN - {block.value for block in found if block.marker == "not run"}
    assert not unused, f"reasons that no block gives: {unused}"


def test_list_of_blocks_that_are_not_run():
    """Prints them (`pytest -rP tests/docs`), so that a release can be tried by hand."""
    listed = [f"{block}: {block.value}" for page in PAGES for block in blocks(page) if block.marker == "not run"]
    print("\n".join(listed))  # noqa: T201
    assert listed


def _run_console(block: Block) -> None:
    found = list(commands(block))
    for number, command in enumerate(found, 1):
        assert command.words[0] == "densecast", f"{block}: {command.words[0]} cannot be run here: say why, by a marker"
        outcome = run_densecast(command.words[1:])
        expected = int(block.value) if block.marker == "exit code" and number == len(found) else 0
        assert outcome.code == expected, f"{block}: {' '.join(command.words)}\n{outcome.stdout}{outcome.stderr}"
        if command.output:
            _compare(block, command.output, outcome.stdout)


def _run_python(block: Block, namespace: dict[str, object]) -> None:
    # Padded with lines, so that a traceback names the line of the page.
    source = "\n" * block.line + block.text
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(source, str(block.page), "exec"), namespace)  # noqa: S102


def _compare(block: Block, expected: str, printed: str) -> None:
    checker = doctest.OutputChecker()
    assert checker.check_output(expected, printed, _FLAGS), f"{block}: expected\n{expected}\nprinted\n{printed}"
