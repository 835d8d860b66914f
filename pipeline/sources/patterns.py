"""Patterns: what a shell with `globstar` set makes of `*`, `?`, `[ ]` and `**`.

`*` and `?` do not match a slash. `**/` matches any number of folders, including none. A name that begins with a dot
matches only a pattern that spells the dot. A folder that the operating system creates, such as `lost+found`, matches
only a pattern that names it.

This module matches patterns itself, because Beam's matcher differs (as of 2.77, by test): there, `**/` needs at least
one folder, `?` matches a slash, hidden files match, a relative `*.jpg` does not match anything, a name with a bracket
cannot be written, and an unreadable folder is skipped silently.
"""

import itertools
import re
from collections.abc import Callable

from pipeline.errors import SourceError
from pipeline.sources.file_types import SYSTEM_FOLDERS, is_image_below

MAGIC = re.compile(r"[*?\[]")
"""What makes an address a pattern."""


def root_of(address: str) -> str:
    """Returns the folder that contains all matches of a pattern, with its trailing slash."""
    beginning = MAGIC.split(address, maxsplit=1)[0]
    return beginning[: beginning.rindex("/") + 1]


def matcher(pattern: str, in_folder: bool, is_image: Callable[[str], bool] = is_image_below) -> Callable[[str], bool]:
    """Returns a function that tests whether an address matches `pattern`.

    Args:
        pattern: The pattern.
        in_folder: Whether the pattern matches folders, so that the address has to be an image below one of them.
        is_image: Tests the path of a file below such a folder, relative to it.

    Raises:
        SourceError: The pattern has a malformed range.
    """
    try:
        compiled = re.compile(_expression(pattern) + ("(?P<below>.+)" if in_folder else ""), re.DOTALL)
    except re.error as error:
        raise SourceError(f"not a pattern: {error}", where=pattern, remedy="write ranges as [a-z]") from error

    left_alone = skipped(pattern)
    start = len(MAGIC.split(pattern, maxsplit=1)[0])

    def accepts(uri: str) -> bool:
        full_match = compiled.fullmatch(uri)
        if full_match is None or left_alone.intersection(uri[start:].split("/")[:-1]):
            return False
        return not in_folder or is_image(full_match["below"])

    return accepts


_PIECE = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_NOT_HIDDEN = r"(?!\.)"
_WILD = {
    "**/": rf"(?:{_NOT_HIDDEN}[^/]+/)*",
    "**": rf"[^/]*(?:/{_NOT_HIDDEN}[^/]*)*",
    "*": "[^/]*",
    "?": "[^/]",
}


def skipped(pattern: str) -> frozenset[str]:
    """Returns the system folders that a pattern does not name."""
    return frozenset(name for name in SYSTEM_FOLDERS if name not in pattern)


def _expression(pattern: str) -> str:
    """Returns the regular expression of a pattern.

    >>> [path for path in ("a.jpg", "b/a.jpg", "b/c/a.jpg", ".b/a.jpg") if re.fullmatch(_expression("**/?.jpg"), path)]
    ['a.jpg', 'b/a.jpg', 'b/c/a.jpg']
    """
    parts = []
    at_start = True  # of a name
    for piece in _PIECE.findall(pattern):
        if piece == "**/" and not at_start:
            parts += [_WILD["**"], "/"]
        elif piece in _WILD:
            parts += [_NOT_HIDDEN if at_start and piece != "**/" else "", _WILD[piece]]
        elif len(piece) > 1:
            negated = piece[1] == "!"
            members = re.sub(r"([\\\[&~|^\]])", r"\\\1", piece[1 + negated : -1])
            parts.append(rf"(?![/{'.' * at_start}])[{'^' * negated}{members}]")
        else:
            parts.append(re.escape(piece))
        at_start = piece.endswith("/")
    return "".join(parts)


def may_hold(pattern: str, root: str, *, deep: bool) -> Callable[[str], bool]:
    """Returns a function that tests whether a folder below `root` can hold a match of a pattern.

    Args:
        pattern: The pattern.
        root: The folder that contains all of its matches, with its trailing slash.
        deep: Whether the pattern matches folders, which stand for all files below them.
    """
    names = pattern[len(root) :].rstrip("/").split("/")
    spelled = list(itertools.takewhile(lambda name: "**" not in name, names if deep else names[:-1]))
    deep = deep or any("**" in name for name in names)
    compiled = [re.compile(_expression(name), re.DOTALL) for name in spelled]

    def accepts(folder: str) -> bool:
        parts = folder[len(root) :].split("/")
        near = deep or len(parts) <= len(compiled)
        return near and all(known.fullmatch(part) for known, part in zip(compiled, parts, strict=False))

    return accepts
