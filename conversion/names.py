"""Names in files and on the command line: misspelt ones, and ones with control characters."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

# Controls of terminals and of bidirectional text, and halves of surrogate pairs: such a name displays as another.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def control_character(text: str) -> str:
    r"""Returns the first character that no name may have, such as a terminal control; "" if there is none.

    >>> control_character("conv1/3x3 größe"), control_character("a\x1b[2J")
    ('', '\x1b')
    """
    match = _CONTROL.search(text)
    return match.group() if match else ""


def nearest(name: str, known: Iterable[str], count: int = 1, *, cutoff: float = 0.6) -> list[str]:
    """Returns the known names that are most similar to a misspelt one, best first: what "did you mean" suggests.

    Args:
        name: The misspelt name. More than 100 characters match nothing.
        known: The right names. More than 1000 match nothing: comparing would take too long.
        count: The most names to return.
        cutoff: The least similarity, 0 to 1; see `difflib.get_close_matches`.

    >>> nearest("pool", ["pool1", "fc"])
    ['pool1']
    """
    names = list(known)
    if len(name) > 100 or len(names) > 1000:
        return []
    return difflib.get_close_matches(name, [n for n in names if len(n) <= 100], count, cutoff)
