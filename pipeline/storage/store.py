"""`Store`: reads, writes and lists files, in the same way for every kind of storage.

Addresses are complete, not relative to the store. A file appears at its address complete or not at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, NamedTuple, Protocol

from pipeline.storage.errors import StorageError


class FileFacts(NamedTuple):
    """The state of a file, known without reading it.

    Attributes:
        size_bytes: Its size.
        version: A text that changes with the content: size and time of change in nanoseconds, as in
            `12-1763871234000000000`, or size and ETag; empty where the storage keeps neither.
    """

    size_bytes: int
    version: str


class Entry(NamedTuple):
    """A file in the listing of its folder.

    Attributes:
        path: The address of the file.
        size_bytes: Its size.
        modified: The time of the last write, in seconds since 1970 by the clock of the storage; 0 where unknown.
        version: As `FileFacts.version`.
    """

    path: str
    size_bytes: int
    modified: float
    version: str = ""


class Stored(NamedTuple):
    """A small file at one moment, for `Store.swap`.

    Attributes:
        data: Its content.
        modified: The time of the last write, in seconds since 1970 by the clock of the storage.
        version: The storage's names for this state; empty where only the content identifies it.
    """

    data: bytes
    modified: float
    version: tuple[tuple[str, str], ...] = ()


class Store(Protocol):
    """One kind of storage. Every method raises StorageError where the storage fails; UnavailableError in an outage."""

    def facts(self, path: str) -> FileFacts | None:
        """Returns the state of the file at `path`; None where it is not a regular file."""

    def open_stream(self, path: str) -> IO[bytes]:
        """Opens a file for reading at any position, without decompression. The caller closes it.

        The stream raises the errors of its library: wrap the reads in `reading`.

        Raises:
            MissingFileError: The file does not exist.
            NotAFileError: It is a folder, a pipe or a device; the call does not block on a pipe.
        """

    def reading(self, path: str) -> AbstractContextManager[None]:
        """Turns errors that are raised while the file at `path` is read into `StorageError`s."""

    def read_bytes(self, path: str, max_bytes: int | None = None) -> bytes:
        """Returns the content of a file, without decompression.

        Args:
            path: The file.
            max_bytes: The largest accepted size; None for no limit. At most one byte more is read.

        Raises:
            MissingFileError: The file does not exist.
            TooLargeError: The file is larger than `max_bytes`.
        """

    def list_files(self, folder: str, suffix: str = "") -> list[str]:
        """Returns the files directly in `folder` whose names end in `suffix`, sorted; empty where there is no folder.

        Leaves out names that start with a dot: such files are still being written.
        """

    def list_entries(self, folder: str) -> list[Entry]:
        """Returns all files directly in `folder`, including hidden ones, sorted; empty where there is no folder."""

    def list_below(self, beginning: str) -> Iterator[Entry]:
        """Yields the files below a folder at any depth.

        Args:
            beginning: An address. The result has all files whose addresses begin with it, and may have others.
        """

    def delete(self, path: str) -> None:
        """Deletes a file; does nothing where it does not exist."""

    def write_atomically(self, path: str, data: bytes) -> None:
        """Writes a file so that readers never see a part of it, and creates its folders.

        A failure leaves the previous file at `path`, and no partial file.
        """

    def read_state(self, path: str) -> Stored | None:
        """Returns a small file with its state; None where it does not exist."""

    def swap(self, path: str, data: bytes, expected: Stored | None) -> Stored | None:
        """Writes a small file if its state still is `expected` (None: it does not exist); else returns None.

        Raises:
            StorageError: The storage does not support conditional writes.
        """

    def now(self, path: str) -> float:
        """Returns the time in seconds since 1970, by the same clock as `Stored.modified` of `path`."""

    def explain(self, error: Exception, path: str, what: str, why: str = "") -> StorageError:
        """Returns the `StorageError` for an error that another library raised about a file of this store.

        Args:
            error: The library's error.
            path: The address that the error is about.
            what: The operation that failed, as in `cannot be read`.
            why: The consequence of the failure.
        """
