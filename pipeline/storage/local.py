"""Files on local and mounted disks."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Self

from conversion import partial_name
from conversion import write_atomically as write_local_file
from pipeline.storage.address import local_path
from pipeline.storage.errors import (
    AccessError,
    MissingFileError,
    NotAFileError,
    StorageError,
    TooLargeError,
    UnavailableError,
)
from pipeline.storage.file_lock import locked, share_with_folder
from pipeline.storage.store import Entry, FileFacts, Stored

# What a mounted disk answers when the machine behind it cannot be reached.
_OUT = frozenset(
    {errno.ENOTCONN, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ETIMEDOUT}
)

REMEDIES = {
    errno.ENOSPC: "free space on that disk, or choose another folder",
    errno.EDQUOT: "free space within the quota, or choose another folder",
    errno.EACCES: "give the user who runs densecast access to it, or choose another path",
    errno.EPERM: "give the user who runs densecast access to it, or choose another path",
    errno.EROFS: "choose a folder on a file system that is mounted writable",
    errno.ENOENT: "check the path for a typing error",
    errno.ENOTDIR: "a part of the path is a file where a folder is needed: choose another path",
    errno.EISDIR: "give the path of a file: this is a folder",
    errno.ENAMETOOLONG: "choose a shorter path",
    **dict.fromkeys(_OUT, "check that the disk is mounted and that its server answers, then run again"),
}
"""The remedy for each error number of the system."""

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER = re.compile(r"\((?:os error|errno) (\d+)\)|\[errno (\d+)\]", re.IGNORECASE)
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_UNREADABLE = "cannot be read"
_LOCK_TIMEOUT_S = 30.0  # a working process holds the lock for a few milliseconds


class LocalStore:
    """Stores files on local or mounted disks, see `Store`."""

    def facts(self, path: str) -> FileFacts | None:
        """See Store."""
        with typed(path, "cannot be looked up"):
            try:
                status = local_path(path).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
            return local_facts(status) if stat.S_ISREG(status.st_mode) else None

    def open_stream(self, path: str) -> IO[bytes]:
        """See Store."""
        with self.reading(path):
            name = _check_regular(path)
            file = open(name, "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.close()
                raise NotAFileError("is a pipe or a device, not a file", where=path)
            return file

    def reading(self, path: str) -> contextlib.AbstractContextManager[None]:
        """See Store."""
        return typed(path, _UNREADABLE)

    def read_bytes(self, path: str, max_bytes: int | None = None) -> bytes:
        """See Store."""
        with typed(path, "cannot be read"), open(local_path(path), "rb") as file:
            data = file.read() if max_bytes is None else file.read(max_bytes + 1)
        return check_size(data, path, max_bytes)

    def list_files(self, folder: str, suffix: str = "") -> list[str]:
        """See Store."""
        with typed(folder, "cannot be listed"):
            local_folder = local_path(folder)
            files = local_folder.iterdir() if local_folder.is_dir() else ()
            paths = [str(entry) for entry in files if entry.is_file()]
        return finished(paths, suffix)

    def list_entries(self, folder: str) -> list[Entry]:
        """See Store."""
        with typed(folder, "cannot be listed"):
            local_folder = local_path(folder)
            entries = []
            for entry in local_folder.iterdir() if local_folder.is_dir() else ():
                # A file may vanish after it was listed, and a broken link is not a file.
                with contextlib.suppress(FileNotFoundError):
                    status = entry.lstat()
                    if stat.S_ISREG(status.st_mode):
                        facts = local_facts(status)
                        entries.append(Entry(str(entry), status.st_size, status.st_mtime, facts.version))
            return sorted(entries)

    def list_below(self, beginning: str) -> Iterator[Entry]:
        """See Store; symbolic links to folders are not followed."""
        folder = beginning[: beginning.rindex("/") + 1]
        with typed(folder, "cannot be listed"):
            for name, folders, _ in os.walk(local_path(folder), onerror=_raise):
                folders.sort()
                yield from self.list_entries(name)

    def delete(self, path: str) -> None:
        """See Store."""
        with typed(path, "cannot be deleted"):
            local_path(path).unlink(missing_ok=True)

    def write_atomically(self, path: str, data: bytes) -> None:
        """See Store."""
        with typed(path, "cannot be written"):
            write_local_file(local_path(path), data)

    def read_state(self, path: str) -> Stored | None:
        """See Store."""
        try:
            with typed(path, "cannot be read"), open(local_path(path), "rb") as file:
                return Stored(file.read(), os.fstat(file.fileno()).st_mtime)
        except MissingFileError:
            return None

    def swap(self, path: str, data: bytes, expected: Stored | None) -> Stored | None:
        """See Store. Writers exclude each other by a lock, which the kernel releases when its process ends."""
        target = local_path(path)
        with typed(path, "cannot be written"):
            _make_folder(target.parent)
        lock = target.with_name(f".{target.name}.lock")
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(locked(lock, _LOCK_TIMEOUT_S))
            except TimeoutError as error:
                raise StorageError("cannot be written: its lock is held by another process", where=path) from error
            except PermissionError as error:
                raise AccessError(
                    f"cannot be locked: {error.strerror}",
                    where=str(lock),
                    why="another user has made the file of the lock",
                    remedy="give the file to the user who runs densecast, or delete it while no run is at work",
                ) from error
            except OSError as error:
                raise explain(error, str(lock), "cannot be locked") from error
            with typed(path, "cannot be written"):
                present = self.read_state(path)
                if (present and present.data) != (expected and expected.data):
                    return None
                write_local_file(target, data)
                share_with_folder(target, target.parent)
                return self.read_state(path)

    def now(self, path: str) -> float:
        """See Store; the clock of a mounted disk may differ from this machine's."""
        target = local_path(path)
        probe = target.with_name(partial_name(target.name))
        with typed(path, "cannot be written"):
            try:
                probe.write_bytes(b"")
                return probe.stat().st_mtime
            finally:
                probe.unlink(missing_ok=True)

    def explain(self, error: Exception, path: str, what: str, why: str = "") -> StorageError:
        """See Store."""
        return explain(error, path, what, why)


class LocalFile:
    """A local file that is opened to be read once, from its start: less work than `LocalStore.open_stream`.

    Attributes:
        path: Its address.
        facts: The size and version of the file when it was opened.

    Raises:
        StorageError: As `Store.open_stream`; all methods raise it too.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        with typed(path, _UNREADABLE):
            name = _check_regular(path)
            self._descriptor = _without_waiting(name, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            try:
                status = os.fstat(self._descriptor)
                _check_mode(status, path)
            except BaseException:
                os.close(self._descriptor)
                raise
        self.facts = local_facts(status)

    def facts_now(self) -> FileFacts:
        """Returns the current facts of the open file."""
        with typed(self.path, _UNREADABLE):
            return local_facts(os.fstat(self._descriptor))

    def read(self, size: int) -> bytes:
        """Returns `size` bytes, and fewer only at the end of the file."""
        with typed(self.path, _UNREADABLE):
            data = os.read(self._descriptor, size)
            # The system reads at most 2 GiB at a time.
            while data and len(data) < size and (more := os.read(self._descriptor, size - len(data))):
                data += more
        return data

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        # The file is open for reading only, so an error here loses nothing.
        with contextlib.suppress(OSError):
            os.close(self._descriptor)


def _make_folder(folder: Path) -> None:
    """Makes a folder for those who may write to the folder above it."""
    if not folder.is_dir():
        above = next(each for each in folder.parents if each.exists())
        folder.mkdir(parents=True, exist_ok=True)
        for made in (folder, *folder.parents):
            if made == above:
                break
            share_with_folder(made, above)


def local_facts(status: os.stat_result) -> FileFacts:
    """Returns the facts of a local file from its status."""
    return FileFacts(status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def finished(paths: list[str], suffix: str) -> list[str]:
    """Returns the paths whose names end in `suffix`, sorted, without those of files still being written."""
    return sorted(path for path in paths if path.endswith(suffix) and not path.rsplit("/", 1)[-1].startswith("."))


def check_size(data: bytes, path: str, max_bytes: int | None) -> bytes:
    """Returns `data`, for which the caller requested up to one byte more than `max_bytes`.

    Raises:
        TooLargeError: `data` has more than `max_bytes` bytes.
    """
    if max_bytes is not None and len(data) > max_bytes:
        raise TooLargeError(
            f"is larger than {max_bytes:,} bytes", where=path, remedy="raise the limit if you trust the file"
        )
    return data


def explain(error: Exception, path: str, what: str, why: str = "") -> StorageError:
    """Returns the `StorageError` for an error of a library that puts the system's error number into its message."""
    text = " ".join(_ESCAPES.sub("", str(error)).split())
    match = _NUMBER.search(text)
    number = getattr(error, "errno", None) or (int(match[1] or match[2]) if match else 0)
    remedy = REMEDIES.get(number, "look at the message of the file system, then run again")
    return _kind(number)(f"{what}: {os.strerror(number) if number else text}", where=path, why=why, remedy=remedy)


def _kind(number: int) -> type[StorageError]:
    """Returns the class of the error with a system's number."""
    if number in _OUT:
        return UnavailableError
    return AccessError if number in _DENIED else StorageError


@contextlib.contextmanager
def typed(path: str, what: str) -> Iterator[None]:
    """Turns an error of the file system into a `StorageError` about `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file or folder", where=path, remedy=REMEDIES[errno.ENOENT]) from error
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "look at the message of the file system, then try again")
        raise _kind(error.errno or 0)(f"{what}: {error.strerror or error}", where=path, remedy=remedy) from error
    except ValueError as error:  # an invalid name, such as one with a NUL character
        raise StorageError(f"{what}: {error}", where=path, remedy="check the path for a typing error") from error


def _raise(error: OSError) -> None:
    raise error


_KERNEL_FOLDERS = ("/proc/", "/sys/")
"""Files in them count as regular ones, but reading some waits, and reading others has effects."""

_disks: set[int] = set()
"""Devices that have been found to hold files outside of these folders."""


def _check_regular(path: str) -> str:
    """Checks what a path names before it is opened: opening a device may have effects, and reading it may not end.

    Returns:
        The path without `file://`.

    Raises:
        NotAFileError: It is a folder, a pipe, a device or a file of the kernel.
        OSError, ValueError: There is no such file, or it cannot be looked up.
    """
    name = str(local_path(path)) if "://" in path else path
    status = os.stat(name)  # noqa: PTH116 - a path object takes longer to make than the rest
    _check_mode(status, path)
    if status.st_dev not in _disks:  # to look a path up takes longer than to read a small image
        if os.path.realpath(name).startswith(_KERNEL_FOLDERS):
            raise NotAFileError("is a file of the kernel, not one on a disk", where=path)
        _disks.add(status.st_dev)
    return name


def _check_mode(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise NotAFileError("is a folder, not a file", where=path)
    if not stat.S_ISREG(status.st_mode):
        raise NotAFileError("is a pipe or a device, not a file", where=path)


def _without_waiting(path: str, flags: int) -> int:
    # A pipe without a writer would block forever. Windows has neither the flag nor such pipes.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
