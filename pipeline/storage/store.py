"""`Store`: whole files in and whole files out, and the listing of folders, the same for every kind of storage.

Addresses are given whole, not relative to the store. A file appears under its address complete or not at all.
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
        version: Text that changes when the content does: size and time of change in nanoseconds, as in
            `12-1763871234000000000`, or size and ETag; empty where the storage keeps neither.
    """

    size_bytes: int
    version: str


class Entry(NamedTuple):
    """A file as its folder lists it.

    Attributes:
        path: The address of the file.
        size_bytes: Its size.
        modified: When it was last written, in seconds since 1970 by the clock of the storage; 0 where it keeps no time.
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
        modified: When it was written, in seconds since 1970, by the clock of the storage.
        version: What the storage calls this state of it; empty where the content alone tells.
    """

    data: bytes
    modified: float
    version: tuple[tuple[str, str], ...] = ()


class Store(Protocol):
    """One kind of storage. Every method raises StorageError where the storage fails; UnavailableError in an outage."""

    def facts(self, path: str) -> FileFacts | None:
        """Returns the state of the file at `path`; None where there is no regular file."""

    def open_stream(self, path: str) -> IO[bytes]:
        """Opens a file for reading at any position, as it is: nothing is decompressed. The caller closes it.

        The stream raises errors of its own: wrap the reads in `reading`.

        Raises:
            MissingFileError: There is no such file.
            NotAFileError: It is a folder, a pipe or a device; opening waits for none of them.
        """

    def reading(self, path: str) -> AbstractContextManager[None]:
        """Turns what is raised while the file at `path` is read into a `StorageError`."""

    def read_bytes(self, path: str, max_bytes: int | None = None) -> bytes:
        """Returns the content of a file, as it is: nothing is decompressed.

        Args:
            path: The file.
            max_bytes: The most bytes to accept; None: no limit. At most one byte more is ever read.

        Raises:
            MissingFileError: There is no such file.
            TooLargeError: The file is larger than `max_bytes`.
        """

    def list_files(self, folder: str, suffix: str = "") -> list[str]:
        """Returns the files directly in `folder` whose names end in `suffix`, sorted; none where there is no folder.

        Files whose names start with a dot are left out: they are still being written.
        """

    def list_entries(self, folder: str) -> list[Entry]:
        """Returns all files directly in `folder`, hidden ones too, sorted; none where there is no folder."""

    def list_below(self, beginning: str) -> Iterator[Entry]:
        """Yields the files below a folder at any depth.

        Args:
            beginning: An address; at least all files whose addresses begin with it are listed.
        """

    def delete(self, path: str) -> None:
        """Deletes a file; does nothing where it is gone already."""

    def write_atomically(self, path: str, data: bytes) -> None:
        """Writes a file so that no reader ever sees a part of it, creating the folders above it.

        A failure leaves what was at `path` before, and no partial file.
        """

    def read_state(self, path: str) -> Stored | None:
        """Returns a small file with its state; None where there is none."""

    def swap(self, path: str, data: bytes, expected: Stored | None) -> Stored | None:
        """Writes a small file if it still is `expected` (None: if there is none); returns None where it is not.

        Raises:
            StorageError: The storage has no conditional writes.
        """

    def now(self, path: str) -> float:
        """Returns the time, in seconds since 1970, by the clock that `Stored.modified` of `path` is measured by."""

    def explain(self, error: Exception, path: str, what: str, why: str = "") -> StorageError:
        """Returns what another library raised about a file here as an error of ours.

        Args:
            error: What it raised.
            path: What it was about.
            what: What cannot be done.
            why: What that means.
        """
