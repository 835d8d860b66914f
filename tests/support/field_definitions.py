"""The definitions of tests/field: small nets in the dialects that are found in the wild."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from tests.support.field import FIELD

DEFINITIONS = sorted((FIELD / "definitions").glob("*.prototxt"))
_OPTIONS = re.compile(r"^# options: (.*)$", re.MULTILINE)


def is_classifier(definition: Path) -> bool:
    """Whether its map has class probabilities; densecast converts no others."""
    return "# no classifier" not in definition.read_text()


def options_of(definition: Path) -> dict[str, str]:
    """The options that a definition needs, as its head states them: names as in Python."""
    stated = _OPTIONS.search(definition.read_text())
    words = shlex.split(stated[1]) if stated else []
    return {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
