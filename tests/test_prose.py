"""The language of code, help and documentation: one mood for docstrings, and no phrase that CONTRIBUTING.md forbids.

ruff's D401 holds the imperative mood alone; this project describes: "Returns ...".
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.test_packaging import PACKAGES, ROOT, sources, tracked

# "There is no table", "no longer" and "no wider" are English; "it is no table" is not.
_COMPARED = (
    r"longer|more|less|fewer|worse|better|later|larger|smaller|higher|lower|greater|wider|faster|slower|older"
    r"|newer"
)
FORBIDDEN = re.compile(
    rf"(?<!there )(?<!there's )\b(?:is|are|was|were) no (?!(?:{_COMPARED})\b)"
    r"|\bby rights\b|\bputs up with\b|\bis had for nothing\b|\bas it is told\b",
    re.IGNORECASE,
)
PAGES = ("*.md", "*.py", "*.pyi", "*.toml", "*.yaml", "*.service", "*.timer", "Makefile")
# They say what is forbidden, and what once was said.
EXEMPT = {"CHANGELOG.md", "CONTRIBUTING.md", "tests/test_prose.py"}


def forbidden(text: str) -> list[str]:
    """Returns the forbidden phrases of a text, with what stands around them; line ends count as spaces."""
    flowing = re.sub(r"\s*\n[\s#>\"]*", " ", text)
    return [flowing[max(match.start() - 30, 0) : match.end() + 30] for match in FORBIDDEN.finditer(flowing)]


def pages() -> list[str]:
    names = [name for name in tracked() if any(Path(name).match(page) for page in PAGES) and name not in EXEMPT]
    return [name for name in names if not name.startswith(("tests/golden/", "conversion/caffe/caffe_pb2"))]


def test_no_page_has_a_forbidden_phrase():
    assert {name: phrases for name in pages() if (phrases := forbidden((ROOT / name).read_text("utf-8")))} == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("This is no table.", True),
        ("the files\n    # are no\n    # images", True),
        ("There is no table, and it is no longer read.", False),
        ("It is no wider than the image.", False),
        ("What it puts up with", True),
    ],
)
def test_forbidden_phrases(text: str, expected: bool):
    assert bool(forbidden(text)) == expected


def functions() -> Iterator[tuple[str, str]]:
    """Yields the place and the docstring of every function that is no property and no command.

    A property is named by what it holds, and the docstring of a command is its help.
    """
    for path in sources(*PACKAGES):
        if path.name == "caffe_pb2.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
                decorators = " ".join(map(ast.unparse, node.decorator_list))
                if not re.search(r"property|\b(command|group)\(", decorators):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", text


def is_descriptive(docstring: str) -> bool:
    """Returns whether a docstring begins with a verb in the third person, or refers to another: "See `forward`."."""
    return re.match(r"([A-Z][a-z-]*s|See)\b", docstring) is not None


def test_docstrings_say_what_a_function_does_in_the_third_person():
    listed = list(functions())
    assert len(listed) > 1000
    assert [f"{place}: {text.splitlines()[0]}" for place, text in listed if not is_descriptive(text)] == []


@pytest.mark.parametrize("text", ["Return the map.", "The map.", "A map of classes.", "returns the map."])
def test_other_moods_are_noticed(text: str):
    assert not is_descriptive(text)
