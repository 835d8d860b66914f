"""The root of a table: its address with the options of its storage, and its form for deltalake."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Self

from pipeline.errors import TableError
from pipeline.storage.address import absolute, is_remote, join, local_path
from pipeline.storage.factory import open_store
from pipeline.storage.options import StorageOptions, storage_options
from pipeline.storage.store import Store

# deltalake treats folders as URLs in some places: it writes a table with these characters, but cannot find it again.
_BAD_ROOT = re.compile(r"%[0-9A-Fa-f]{2}|[#?\\\x00-\x1f\x7f]")


class TableRoot(str):
    """The address of a table's folder, together with the options that its storage is opened with.

    It is a `str`, so it serves wherever an address is needed, and it travels to workers with its options.

    Attributes:
        options: The options of object stores. Where none are given, they are those of `root` if that is a TableRoot.

    Raises:
        CredentialsError: An option does not exist, or a value is malformed.
    """

    options: StorageOptions

    def __new__(cls, root: str, options: StorageOptions | Mapping[str, str] | None = None) -> Self:
        """See the class."""
        self = super().__new__(cls, root)
        if isinstance(root, TableRoot) and options is None:
            self.options = root.options
        else:
            self.options = storage_options(options)
        return self

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
        TableError: Its path, with links resolved, contains characters that deltalake cannot handle.
    """
    path = root if is_remote(root) else str(local_path(root).resolve())
    if match := _BAD_ROOT.search(path):
        raise TableError(
            f"a table cannot be in a folder with {match.group()!r} in its path",
            where=path,
            why="deltalake reads #, ?, backslashes, percent escapes and control characters as parts of URLs",
            remedy="choose another folder",
        )


def delta_location(root: str) -> str:
    """Returns `root` in the form for deltalake: absolute where it is local.

    Raises:
        TableError: The folder cannot hold a table.
    """
    check_root(root)
    return str(root) if is_remote(root) else absolute(local_path(root))
