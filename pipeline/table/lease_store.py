"""Where a lease is kept: one small file that is replaced only if it still is what its reader saw."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

import filelock

from conversion import partial_name, write_atomically
from pipeline.storage import files, object_store
from pipeline.storage.error_mapping import object_error
from pipeline.storage.errors import StorageError
from pipeline.table.commit import FOLDER

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
        CredentialsError: See `pipeline.storage.options`.
    """
    return open_bucket(root) if files.is_remote(root) else LocalStore(files.join(root, FOLDER, NAME))


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
        except files.MissingFileError:
            return None

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """See LeaseStore."""
        target = files.local_path(self.path)
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
        probe = files.local_path(self.path).with_name(partial_name(NAME))
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
            raise files.MissingFileError("there is no such file", where=self.path) from error
        except filelock.Timeout as error:
            raise StorageError(f"{what}: its lock is held by another process", where=self.path) from error
        except OSError as error:
            raise files.explained(error, self.path, what, why=f"the lease is kept there; {_NO_LEASE}") from error


def open_bucket(root: str) -> ObjectStore:
    """Where the lease of a table in an object store is kept.

    Raises:
        StorageError: There are no conditional writes behind its scheme.
        CredentialsError: See `pipeline.storage.options`.
    """
    address = files.join(root, FOLDER, NAME)
    if not object_store.is_object(address):
        raise StorageError(
            "no lease can be kept there", where=root, why="it needs conditional writes, as S3 has", remedy=_NO_LEASE
        )
    bucket, key = object_store.split(address)
    return ObjectStore(object_store.open_store(bucket), key, bucket)


class ObjectStore:
    """An object written by conditional requests (If-None-Match, If-Match, or generations), which the server decides.

    Args:
        store: An `obstore` store.
        key: The object.
        bucket: What the store is of, for messages.
    """

    def __init__(self, store: Any, key: str = NAME, bucket: str = "memory://") -> None:
        self._store, self._key, self._where = store, key, f"{bucket}/{key}"

    def read(self) -> Stored | None:
        """See LeaseStore."""
        import obstore

        try:
            with self._typed("cannot be read"):
                found = obstore.get(self._store, self._key)
                return _stored(bytes(found.bytes()), cast(dict[str, Any], found.meta))
        except files.MissingFileError:
            return None

    def swap(self, data: bytes, expected: Stored | None) -> Stored | None:
        """See LeaseStore."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        mode: Any = "create" if expected is None else dict(expected.version)
        with self._typed("cannot be written"):
            try:
                result = obstore.put(self._store, self._key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                # An answer that was lost makes a request come twice, and the second find what the first has written.
                found = self.read()
                return found if found is not None and found.data == data else None
        return _stored(data, {"last_modified": None, **cast(dict[str, Any], result)})

    def now(self) -> float:
        """See LeaseStore: the time at which the server says that it wrote a small object."""
        import obstore

        probe = self._key.removesuffix(NAME) + partial_name(NAME)
        with self._typed("cannot be written"):
            obstore.put(self._store, probe, b"-", use_multipart=False)
            try:
                return obstore.head(self._store, probe)["last_modified"].timestamp()
            finally:
                obstore.delete(self._store, probe)

    def _typed(self, what: str) -> AbstractContextManager[None]:
        return object_error(self._where, f"the lease {what}", why=f"the lease is kept there; {_NO_LEASE}")


def _stored(data: bytes, about: dict[str, Any]) -> Stored:
    version = tuple((name, about[name]) for name in ("e_tag", "version") if about.get(name) is not None)
    modified = about["last_modified"]
    return Stored(data, modified.timestamp() if modified is not None else 0.0, version)
