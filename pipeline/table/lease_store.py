"""Where a lease is kept: one small file that is replaced only if it still is what its reader saw."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from pipeline.storage.errors import StorageError
from pipeline.storage.store import Store, Stored
from pipeline.table.log import FOLDER
from pipeline.table.paths import TableRoot

NAME = "lease.json"

_NO_LEASE = "set lease-minutes = 0 to run without a lease"


class LeaseStore(Protocol):
    """Compare-and-swap of one file. All methods raise StorageError where the storage fails."""

    def read(self) -> Stored | None:
        """Returns the file as it is; None where there is none."""

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """Writes the file if it still is `expected` (None: if there is none); returns None where it is not."""

    def now(self) -> float:
        """Returns the time by the clock that `Stored.modified` is measured by."""


@dataclass(frozen=True)
class LeaseFile:
    """A lease in a file, see LeaseStore.

    Attributes:
        store: The storage.
        path: The file.
    """

    store: Store
    path: str

    def read(self) -> Stored | None:
        """See LeaseStore."""
        with _about_the_lease():
            return self.store.read_state(self.path)

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """See LeaseStore."""
        with _about_the_lease():
            return self.store.swap(self.path, data, expected)

    def now(self) -> float:
        """See LeaseStore."""
        with _about_the_lease():
            return self.store.now(self.path)


def open_lease(root: str) -> LeaseFile:
    """Returns where the lease of a table is kept.

    Raises:
        CredentialsError: See `pipeline.storage.options`.
    """
    table = TableRoot(root)
    return LeaseFile(table.store, table.path(FOLDER, NAME))


@contextmanager
def _about_the_lease() -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        why = f"the lease is kept there; {_NO_LEASE}"
        raise type(error)(f"the lease {error.what}", where=error.where, why=why, remedy=error.remedy) from error
