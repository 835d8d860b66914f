"""Where a table is: its root, with the options of its storage, and its root as deltalake takes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

from pipeline.errors import TableError
from pipeline.storage.address import is_remote, join, local_path
from pipeline.storage.factory import open_store
from pipeline.storage.options import StorageOptions, storage_options
from pipeline.storage.store import Store

# deltalake takes a folder for a URL here and there: it writes such a table, and does not find it, or its log, again.
_BAD_ROOT = re.compile(r"%[0-9A-Fa-f]{2}|[#?\\\x00-\x1f\x7f]")


class TableRoot(str):
    """The address of a table's folder, together with the options that its storage is opened with.

    It is a text wherever an address is needed, and it travels to workers with its options.

    Attributes:
        options: How object stores are opened; those of `root` where it is a TableRoot and none are given.

    Raises:
        CredentialsError: There is no such option, or a value is malformed.
    """

    options: StorageOptions

    def __new__(cls, root: str, options: StorageOptions | Mapping[str, str] | None = None) -> Self:
        """See the class."""
        made = super().__new__(cls, root)
        kept = root.options if isinstance(root, TableRoot) and options is None else storage_options(options)
        made.options = kept
        return made

    def __reduce__(self) -> tuple[type[TableRoot], tuple[str, StorageOptions]]:
        return TableRoot, (str(self), self.options)

    @property
    def store(self) -> Store:
        """The store that the table is in."""
        return open_store(self, self.options)

    def path(self, *names: str) -> str:
        """Returns the address of a file of the table."""
        return join(self, *names)


def check_root(root: str) -> None:
    """Checks that a folder can be the root of a table.

    Raises:
        TableError: Its path, or the one that a link leads to, holds characters that deltalake cannot handle.
    """
    path = root if is_remote(root) else str(local_path(root).resolve())
    if match := _BAD_ROOT.search(path):
        raise TableError(
            f"a table cannot lie in a folder with {match.group()!r} in its path",
            where=path,
            why="Delta Lake's library reads #, ?, backslashes, percent escapes and control characters in it as a URL",
            remedy="choose another folder",
        )


def delta_location(root: str) -> str:
    """Returns `root` as deltalake takes it: absolute where it is local.

    Raises:
        TableError: The folder cannot hold a table.
    """
    check_root(root)
    return str(root) if is_remote(root) else str(local_path(root).absolute())
