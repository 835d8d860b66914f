"""The file of a lease: it is replaced only if it has not changed since it was read."""

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


class LeaseStore(Protocol):
    """Compare-and-swap on one file. All methods raise StorageError where the storage fails."""

    def read(self) -> Stored | None:
        """Returns the file with its state; None where it does not exist."""

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """Writes the file if its state still is `expected` (None: it does not exist); else returns None."""

    def now(self) -> float:
        """Returns the time in seconds since 1970, by the same clock as `Stored.modified`."""


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
        with _lease_error():
            return self.store.read_state(self.path)

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """See LeaseStore."""
        with _lease_error():
            return self.store.swap(self.path, data, expected)

    def now(self) -> float:
        """See LeaseStore."""
        with _lease_error():
            return self.store.now(self.path)


def open_lease(root: str) -> LeaseFile:
    """Returns the file of a table's lease.

    Raises:
        CredentialsError: See `pipeline.storage.options`.
    """
    table = TableRoot(root)
    return LeaseFile(table.store, table.path(FOLDER, NAME))


@contextmanager
def _lease_error() -> Iterator[None]:
    """Turns an error of the storage into one that mentions the lease."""
    try:
        yield
    except StorageError as error:
        why = "it holds the lease; set lease-minutes = 0 to run without a lease"
        raise type(error)(f"the lease {error.what}", where=error.where, why=why, remedy=error.remedy) from error
