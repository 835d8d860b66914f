"""Walks a local folder, follows the links that stay in it, and says what is left out.

A link below a folder may point anywhere, and who can place one is not always who names the folder. So a link whose
target is not below the folder is found, and not followed. A link to a folder below is followed where it lies; in what
is reached by such a link no further one is followed, so that links make no cycle and a walk is bounded.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import NamedTuple, TypeAlias

from pipeline.errors import SourceError
from pipeline.sources.file_types import (
    HIDDEN_FOLDERS,
    LINKS_ABOVE,
    LINKS_IN_LINKED,
    SYSTEM_FOLDERS_LEFT_OUT,
)

OnLeftOut: TypeAlias = Callable[[str, str], None]
"""Is called with the path of what is left out, and its kind."""


class Found(NamedTuple):
    """What a walk finds.

    Attributes:
        path: Its path.
        leads_out: Whether it is a link out of the walked folder.
        is_folder: Whether it is a link to a folder; only of one that leads out.
    """

    path: str
    leads_out: bool = False
    is_folder: bool = False


class _Entries(NamedTuple):
    """The names in a folder, sorted: of folders, of links to folders, and of all else; links to files are in a set."""

    folders: list[str]
    linked: set[str]
    others: list[str]
    links: set[str]


class _Folder(NamedTuple):
    """A folder that is still to be walked: its path, and whether a link led to it."""

    path: str
    linked: bool = False


class Walk:
    """The walk of one folder; iterating yields the files in a fixed order, those of a folder before its folders.

    Args:
        root: The folder, with a trailing slash.
        may_enter: Whether a folder below can hold what is looked for.
        hidden: Whether hidden folders are entered.
        skipped: The names of folders that are not entered.
        on_left_out: Is called with the path and the kind of each folder and link that is left out.

    Raises:
        SourceError: A folder cannot be read.
    """

    def __init__(
        self,
        root: str,
        may_enter: Callable[[str], bool],
        *,
        hidden: bool,
        skipped: frozenset[str],
        on_left_out: OnLeftOut,
    ) -> None:
        self._root, self._may_enter, self._hidden, self._skipped = root, may_enter, hidden, skipped
        self._on_left_out = on_left_out
        self._real_root = os.path.realpath(root).rstrip("/")

    def __iter__(self) -> Iterator[Found]:
        waiting = [_Folder(self._root.rstrip("/") or "/")]
        while waiting:
            folder = waiting.pop()
            folders: list[_Folder] = []
            beginning = folder.path.rstrip("/") + "/"
            entries = _entries(folder.path)
            for name in entries.others:
                path = beginning + name
                yield Found(path, leads_out=name in entries.links and self._leads_out(path))
            for name in entries.folders:
                path = beginning + name
                if not self._enters(path, name):
                    continue
                if name not in entries.linked:
                    folders.append(folder._replace(path=path))
                elif self._leads_out(path):
                    yield Found(path, leads_out=True, is_folder=True)
                elif linked := self._linked(folder, path):
                    folders.append(linked)
            waiting += reversed(folders)

    def _enters(self, path: str, name: str) -> bool:
        if not self._may_enter(path):
            return False
        if name in self._skipped:
            self._on_left_out(path, SYSTEM_FOLDERS_LEFT_OUT)
        elif name.startswith(".") and not self._hidden:
            self._on_left_out(path, HIDDEN_FOLDERS)
        else:
            return True
        return False

    def _leads_out(self, path: str) -> bool:
        target = os.path.realpath(path)
        return target != self._real_root and not target.startswith(self._real_root + "/")

    def _linked(self, folder: _Folder, path: str) -> _Folder | None:
        """Returns the folder that a link leads to; None where it is not followed."""
        if folder.linked:
            self._on_left_out(path, LINKS_IN_LINKED)
            return None
        # The folder lies below the real root, and so do those that hold it.
        if f"{os.path.realpath(folder.path)}/".startswith(f"{os.path.realpath(path)}/"):
            self._on_left_out(path, LINKS_ABOVE)
            return None
        return _Folder(path, linked=True)


def _entries(folder: str) -> _Entries:
    found = _Entries([], set(), [], set())
    try:
        with os.scandir(folder) as entries:
            for entry in entries:  # an entry takes ten times the memory of its name
                is_folder = _is_folder(entry)
                (found.folders if is_folder else found.others).append(entry.name)
                if entry.is_symlink():
                    (found.linked if is_folder else found.links).add(entry.name)
    except OSError as error:
        raise SourceError(
            f"a folder cannot be read: {error.strerror}",
            where=folder,
            why="its images would be missing without notice",
            remedy="give the user who runs densecast access to it, or name the other folders one by one",
        ) from error
    found.folders.sort()
    found.others.sort()
    return found


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or through a folder that cannot be read: the reader rejects it
        return False
