"""Where a table's files are: its root as deltalake and Arrow take it, and its parts opened."""

from __future__ import annotations

import re

from pipeline.errors import TableError
from pipeline.storage import files

# deltalake takes a folder for a URL here and there: it writes such a table, and does not find it, or its log, again.
_BAD_ROOT = re.compile(r"%[0-9A-Fa-f]{2}|[#?\\\x00-\x1f\x7f]")


def check_root(root: str) -> None:
    """Check that a folder can be the root of a table.

    Raises:
        TableError: Its path, or the one that a link leads to, holds characters that deltalake cannot handle.
    """
    path = root if files.is_remote(root) else str(files.local_path(root).resolve())
    if found := _BAD_ROOT.search(path):
        raise TableError(
            f"a table cannot lie in a folder with {found.group()!r} in its path",
            where=path,
            why="Delta Lake's library reads #, ?, backslashes, percent escapes and control characters in it as a URL",
            remedy="choose another folder",
        )


def delta_location(root: str) -> str:
    """`root` as deltalake takes it: absolute where it is local.

    Raises:
        TableError: The folder cannot hold a table.
    """
    check_root(root)
    return root if files.is_remote(root) else str(files.local_path(root).absolute())
