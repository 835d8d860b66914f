"""Names that files and users give: what is misspelt, and what cannot be shown."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Controls of terminals and of bidirectional text, and halves of surrogate pairs: a name with these shows as another.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def control_character(text: str) -> str:
    r"""The first character that has no place in a name (a control of a terminal, say), or nothing.

    >>> control_character("conv1/3x3 größe"), control_character("a\x1b[2J")
    ('', '\x1b')
    """
    found = _CONTROL.search(text)
    return found.group() if found else ""


def nearest(name: str, known: Iterable[str], count: int = 1) -> list[str]:
    """Names that `name` may be a misspelling of; none among very many or very long ones, which would take hours.

    >>> nearest("pool", ["pool1", "fc"])
    ['pool1']
    """
    names = list(known)
    if len(name) > 100 or len(names) > 1000:
        return []
    return difflib.get_close_matches(name, [n for n in names if len(n) <= 100], count)
