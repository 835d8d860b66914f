"""Where a lease is kept: one small file that is replaced only if it still is what its reader saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import filelock

from conversion.errors import MissingExtraError
from conversion.files import partial_name, write_atomically
from pipeline import storage
from pipeline.publishing import FOLDER
from pipeline.storage import StorageError

NAME = "lease.json"

_LOCK_TIMEOUT_S = 30.0  # the lock is held for a few milliseconds, so whoever waits longer waits for something broken
_NO_LEASE = "set lease-minutes = 0 to run without a lease"


class Stored(NamedTuple):
    """The file as it was at one moment.

    Attributes:
        data: Its content.
        modified: When it was written, in seconds since 1970, by the clock of the storage.
        version: What the storage calls this state of it; empty where the content alone tells.
    """

    data: bytes
    modified: float
    version: tuple[tuple[str, str], ...] = ()


class LeaseStore(Protocol):
    """Compare-and-swap of one file. All methods raise StorageError where the storage fails."""

    def read(self) -> Stored | None:
        """The file as it is; None where there is none."""

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """Writes the file if it still is `expected` (None: if there is none); None where it is not."""

    def now(self) -> float:
        """The time by the clock that `Stored.modified` is told by."""


def open_store(root: str) -> LeaseStore:
    """Where the lease of a table is kept.

    Raises:
        StorageError: The storage has no conditional writes.
        MissingExtraError: The library that does them is not installed.
    """
    return ObjectStore(open_bucket(root)) if storage.is_remote(root) else LocalStore(storage.join(root, FOLDER, NAME))


@dataclass(frozen=True)
class LocalStore:
    """A file on a local or mounted disk. Writers exclude each other by a lock that the kernel drops with its process.

    Attributes:
        path: The file.
    """

    path: str

    def read(self) -> Stored | None:
        """See LeaseStore."""
        try:
            with self._typed("cannot be read"), open(self.path, "rb") as file:
                return Stored(file.read(), os.fstat(file.fileno()).st_mtime)
        except storage.MissingFileError:
            return None

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """See LeaseStore."""
        target = storage.local_path(self.path)
        with self._typed("cannot be written"):
            target.parent.mkdir(parents=True, exist_ok=True)
            with filelock.FileLock(target.with_name(f".{target.name}.lock"), timeout=_LOCK_TIMEOUT_S):
                found = self.read()
                if (found and found.data) != (expected and expected.data):
                    return None
                write_atomically(target, data)
                return self.read()

    def now(self) -> float:
        """See LeaseStore; a mounted disk may have another clock than this machine."""
        probe = storage.local_path(self.path).with_name(partial_name(NAME))
        with self._typed("cannot be written"):
            try:
                probe.write_bytes(b"")
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)

    @contextmanager
    def _typed(self, what: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise storage.MissingFileError("there is no such file", where=self.path) from error
        except filelock.Timeout as error:
            raise StorageError(f"{what}: its lock is held by another process", where=self.path) from error
        except OSError as error:
            raise storage.explained(error, self.path, what, why=f"the lease is kept there; {_NO_LEASE}") from error


def open_bucket(root: str, **options: Any) -> Any:
    """The folder of a remote table's lease, as an `obstore` store.

    Args:
        root: The table, `scheme://`.
        options: What `obstore.store.from_url` takes; the environment by default, as deltalake does.

    Raises:
        StorageError: There is no store for the scheme.
        MissingExtraError: obstore is not installed.
    """
    try:
        from obstore.exceptions import BaseError
        from obstore.store import from_url
    except ImportError as error:
        raise MissingExtraError(
            "obstore is not installed",
            why="the lease on a remote table needs conditional writes",
            remedy=f"pip install obstore, or {_NO_LEASE}",
        ) from error
    try:
        return from_url(storage.join(root, FOLDER), **options)
    except (BaseError, OSError, ValueError) as error:
        raise StorageError(f"no lease can be kept there: {_first_line(error)}", where=root, remedy=_NO_LEASE) from error


class ObjectStore:
    """An object written by conditional requests (If-None-Match, If-Match, or generations), which the server decides.

    Args:
        store: An `obstore` store, of the folder of the lease.
    """

    def __init__(self, store: Any) -> None:
        self._store = store

    def read(self) -> Stored | None:
        """See LeaseStore."""
        import obstore

        try:
            with self._typed("cannot be read"):
                found = obstore.get(self._store, NAME)
                return _stored(bytes(found.bytes()), cast(dict[str, Any], found.meta))
        except storage.MissingFileError:
            return None

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """See LeaseStore."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if expected is None else dict(expected.version)
        with self._typed("cannot be written"):
            try:
                result = obstore.put(self._store, NAME, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                return None
        return _stored(data, {"last_modified": None, **cast(dict[str, Any], result)})

    def now(self) -> float:
        """See LeaseStore: the time at which the server says that it wrote a small object."""
        import obstore

        probe = partial_name(NAME)
        with self._typed("cannot be written"):
            obstore.put(self._store, probe, b"-", use_multipart=False)
            try:
                return obstore.head(self._store, probe)["last_modified"].timestamp()
            finally:
                obstore.delete(self._store, probe)

    @contextmanager
    def _typed(self, what: str) -> Iterator[None]:
        from obstore.exceptions import BaseError

        try:
            yield
        except FileNotFoundError as error:
            raise storage.MissingFileError("there is no such object", where=NAME) from error
        except (BaseError, OSError) as error:
            raise StorageError(
                f"the lease {what}: {_first_line(error)}",
                where=str(self._store),
                remedy=f"check the credentials, the bucket and the network; or {_NO_LEASE}",
            ) from error


def _stored(data: bytes, about: dict[str, Any]) -> Stored:
    version = tuple((name, about[name]) for name in ("e_tag", "version") if about.get(name) is not None)
    modified = about["last_modified"]
    return Stored(data, modified.timestamp() if modified is not None else 0.0, version)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
