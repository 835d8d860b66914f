"""The one place that touches files: whole files in, whole files out, local or behind `scheme://`.

A file appears under its name complete or not at all. S3, Google's and Azure's stores are opened by
`pipeline.storage.object_store`; other schemes go through Beam's `FileSystems`, and work once their Beam extra is
installed; `file://` is a local path.
"""

import contextlib
import errno
import os
import re
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple
from urllib.parse import unquote

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from conversion import partial_name
from conversion import write_atomically as write_local_atomically
from pipeline.storage import object_store
from pipeline.storage.error_mapping import explain
from pipeline.storage.errors import MissingFileError, NotAFileError, StorageError, TooLargeError, UnavailableError

__all__ = ["MissingFileError", "NotAFileError", "StorageError", "TooLargeError", "UnavailableError"]

# Client libraries raise errors of their own through FileSystems; one that is not imported cannot have raised.
_CLIENT_ERRORS = (
    ("hdfs.util", "HdfsError"),
    ("azure.core.exceptions", "AzureError"),
)

_REMEDIES = {
    errno.ENOSPC: "free space on that disk, or choose another folder",
    errno.EDQUOT: "free space within the quota, or choose another folder",
    errno.EACCES: "give the user who runs densecast access to it, or choose another path",
    errno.EPERM: "give the user who runs densecast access to it, or choose another path",
    errno.EROFS: "choose a folder on a file system that is mounted writable",
    errno.ENOENT: "check the path for a typing error",
    errno.ENOTDIR: "a part of the path is a file where a folder is needed: choose another path",
    errno.EISDIR: "give the path of a file: this is a folder",
    errno.ENAMETOOLONG: "choose a shorter path",
}


_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_NUMBER = re.compile(r"\(os error (\d+)\)")


def explained(error: Exception, path: str, what: str, why: str = "") -> StorageError:
    """What a library that has its own way to files raised, as an error of ours: the number is in its text.

    Args:
        error: What it raised.
        path: What it was about.
        what: What cannot be done.
        why: What that means.
    """
    if object_store.is_object(path):
        return explain(error, path, what, why)
    text = " ".join(_ESCAPES.sub("", str(error)).split())
    found = _NUMBER.search(text)
    number = getattr(error, "errno", None) or (int(found[1]) if found else 0)
    remedy = _REMEDIES.get(number, "look at the message of the file system, then run again")
    return StorageError(f"{what}: {os.strerror(number) if number else text}", where=path, why=why, remedy=remedy)


class FileFacts(NamedTuple):
    """What a file system says of a file without its being read.

    Attributes:
        size_bytes: Its size.
        version: Text that changes when the content does: size and time of change in nanoseconds, as in
            `12-1763871234000000000`; empty where the file system keeps no time.
    """

    size_bytes: int
    version: str


class Entry(NamedTuple):
    """A file as its folder lists it.

    Attributes:
        path: The file.
        size_bytes: Its size.
        modified: When it was last written, in seconds since 1970; 0 where the file system keeps no time.
    """

    path: str
    size_bytes: int
    modified: float


def is_remote(path: str) -> bool:
    """Whether `path` is on no disk: it has a scheme, and that is not `file`.

    >>> is_remote("s3://bucket/a.jpg"), is_remote("file:///a.jpg"), is_remote("photos/a.jpg")
    (True, False, False)
    """
    scheme = FileSystems.get_scheme(path)
    return scheme is not None and scheme.lower() != "file"


def local_path(path: str) -> Path:
    """The file that a local `path` means.

    Args:
        path: A plain path, or a `file://` one with percent escapes.

    Raises:
        StorageError: The path is remote, or a `file://` one that names another host.

    >>> local_path("file:///photos/a%20cat.jpg").as_posix()
    '/photos/a cat.jpg'
    """
    if is_remote(path):
        raise StorageError("a local path is needed here", where=path, remedy="copy the file to a local disk first")
    if FileSystems.get_scheme(path) is None:
        return Path(path)
    host, _, rest = path.split("://", 1)[1].partition("/")
    if host not in ("", "localhost"):
        raise StorageError(f"names the host {host!r}", where=path, remedy="write file:///path, with three slashes")
    return Path("/" + unquote(rest))


def join(folder: str, *names: str) -> str:
    """The path of `names` below `folder`, in the manner of the folder's file system.

    >>> join("s3://bucket/maps", "_densecast", "runs")
    's3://bucket/maps/_densecast/runs'
    """
    if is_remote(folder):
        return "/".join([folder.rstrip("/"), *(name.strip("/") for name in names)])
    return str(local_path(folder).joinpath(*names))


def exists(path: str) -> bool:
    """Whether there is a file (locally: or a folder) at `path`.

    Raises:
        StorageError: The file system cannot be asked.
    """
    if object_store.is_object(path):
        return object_store.head(path) is not None
    with _typed(path, "cannot be looked up"):
        return bool(FileSystems.exists(path)) if is_remote(path) else local_path(path).exists()


def size_of(path: str) -> int | None:
    """The size in bytes of the file at `path`, or None where there is no file.

    Raises:
        StorageError: The file system cannot be asked.
    """
    if object_store.is_object(path):
        found = object_store.head(path)
        return found.size_bytes if found else None
    if not exists(path):
        return None
    with _typed(path, "cannot be looked up"):
        if is_remote(path):
            return int(FileSystems.get_filesystem(path).size(path))
        file = local_path(path)
        return file.stat().st_size if file.is_file() else None


def facts_of(path: str) -> FileFacts | None:
    """Size and version of the file at `path`, or None where there is no file.

    Raises:
        StorageError: The file system cannot be asked.
    """
    if object_store.is_object(path):
        found = object_store.head(path)
        return FileFacts(found.size_bytes, found.version) if found else None
    with _typed(path, "cannot be looked up"):
        if is_remote(path):
            return listed_facts(FileSystems.get_filesystem(path).metadata(path)) if exists(path) else None
        try:
            status = local_path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return local_facts(status) if stat.S_ISREG(status.st_mode) else None


def local_facts(status: os.stat_result) -> FileFacts:
    """The facts of a local file, from its status."""
    return FileFacts(status.st_size, f"{status.st_size}-{status.st_mtime_ns}")


def listed_facts(metadata: FileMetadata) -> FileFacts:
    """The facts of a remote file, from what Beam's listing says of it."""
    size, changed = int(metadata.size_in_bytes), float(metadata.last_updated_in_seconds)
    return FileFacts(size, f"{size}-{changed * 1e9:.0f}" if changed > 0 else "")


def open_stream(path: str) -> IO[bytes]:
    """Opens a file for reading at any place; as it is, nothing is unpacked. The caller closes it.

    What the stream raises later is the file system's own: wrap the reads in `reading`.

    Raises:
        MissingFileError: There is no such file.
        NotAFileError: It is a folder, a pipe or a device; opening waits for none of them.
        StorageError: It cannot be opened.
    """
    if object_store.is_object(path):
        return object_store.open_object(path)
    with reading(path):
        if is_remote(path):
            remote: IO[bytes] = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
            return remote
        try:
            file = open(local_path(path), "rb", opener=_without_waiting)  # noqa: SIM115 - the caller closes it
        except IsADirectoryError as error:
            raise NotAFileError("is a folder, not a file", where=path) from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise NotAFileError("is a pipe or a device, not a file", where=path)
        return file


def _without_waiting(path: str, flags: int) -> int:
    # A pipe without a writer would block for ever; Windows has no such flag, and no such pipes among its files.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def reading(path: str) -> contextlib.AbstractContextManager[None]:
    """Turns what a file system raises while the file at `path` is read into a `StorageError`."""
    return _typed(path, "cannot be read")


def read_bytes(path: str, max_bytes: int | None = None) -> bytes:
    """The content of a file, as it is: nothing is unpacked, whatever the extension.

    Args:
        path: A local path or `scheme://`.
        max_bytes: The most bytes to accept; None: no limit. No more than one byte over it is ever read.

    Raises:
        MissingFileError: There is no such file.
        TooLargeError: The file is larger than `max_bytes`.
        StorageError: It cannot be read.
    """
    most = None if max_bytes is None else max_bytes + 1
    if object_store.is_object(path):
        data = object_store.read(path, most)
    else:
        name = path if is_remote(path) else str(local_path(path))
        with (
            _typed(path, "cannot be read"),
            FileSystems.open(name, compression_type=CompressionTypes.UNCOMPRESSED) as file,
        ):
            data = bytes(file.read() if most is None else file.read(most))
    if max_bytes is not None and len(data) > max_bytes:
        raise TooLargeError(
            f"is larger than {max_bytes:,} bytes", where=path, remedy="raise the limit if the file is to be trusted"
        )
    return data


def list_files(folder: str, suffix: str = "") -> list[str]:
    """The files directly in `folder` whose names end in `suffix`, sorted; none where there is no such folder.

    Partial files (names that start with a dot) are left out.

    Raises:
        StorageError: The folder cannot be listed.
    """
    with _typed(folder, "cannot be listed"):
        if object_store.is_object(folder):
            found = [file.address for file in object_store.list_folder(folder)]
        elif is_remote(folder):
            found = [metadata.path for metadata in FileSystems.match([join(folder, "*")])[0].metadata_list]
        else:
            here = local_path(folder)
            found = [str(entry) for entry in here.iterdir() if entry.is_file()] if here.is_dir() else []
    return sorted(path for path in found if path.endswith(suffix) and not _name(path).startswith("."))


def list_entries(folder: str) -> list[Entry]:
    """All files directly in `folder`, partial and hidden ones too, sorted; none where there is no such folder.

    Raises:
        StorageError: The folder cannot be listed.
    """
    with _typed(folder, "cannot be listed"):
        if object_store.is_object(folder):
            return sorted(Entry(o.address, o.size_bytes, o.modified) for o in object_store.list_folder(folder))
        if is_remote(folder):
            listed = FileSystems.match([join(folder, "*")])[0].metadata_list
            return sorted(Entry(m.path, int(m.size_in_bytes), float(m.last_updated_in_seconds or 0)) for m in listed)
        here = local_path(folder)
        found = []
        for entry in here.iterdir() if here.is_dir() else ():
            # A file may vanish between listing and looking, and a link to nothing is no file.
            with contextlib.suppress(FileNotFoundError):
                status = entry.lstat()
                if stat.S_ISREG(status.st_mode):
                    found.append(Entry(str(entry), status.st_size, status.st_mtime))
        return sorted(found)


def delete(path: str) -> None:
    """Delete a file; one that is gone already is no error.

    Raises:
        StorageError: It cannot be deleted.
    """
    with _typed(path, "cannot be deleted"):
        if object_store.is_object(path):
            object_store.delete(path)
        elif not is_remote(path):
            local_path(path).unlink(missing_ok=True)
        elif FileSystems.exists(path):
            FileSystems.delete([path])


def write_atomically(path: str, data: bytes) -> None:
    """Write a file so that no reader ever sees a part of it, creating the folders above it.

    A failure leaves what was at `path` before, and no partial file.

    Args:
        path: A local path or `scheme://`; a file that is there is replaced.
        data: The whole content.

    Raises:
        StorageError: It cannot be written.
    """
    with _typed(path, "cannot be written"):
        if object_store.is_object(path):
            # A request that stores an object does so whole or not at all: no other name is needed.
            object_store.write(path, data)
        elif is_remote(path):
            _write_remote(path, data)
        else:
            write_local_atomically(local_path(path), data)


def _write_remote(target: str, data: bytes) -> None:
    folder, _, name = target.rpartition("/")
    partial = f"{folder}/{partial_name(name)}"
    with contextlib.ExitStack() as undo:
        undo.callback(_delete_partial, partial)
        with FileSystems.create(partial, compression_type=CompressionTypes.UNCOMPRESSED) as file:
            file.write(data)
        FileSystems.rename([partial], [target])
        # Some file systems of Beam swallow a failed rename, so its result is looked at.
        found = size_of(target)
        if exists(partial) or found != len(data):
            raise StorageError(
                f"the renamed file has {'no' if found is None else f'{found:,}'} bytes instead of {len(data):,}"
                if found != len(data)
                else "the file was written under a temporary name but not renamed",
                where=target,
                remedy="check that the credentials allow to copy and delete there, then run again",
            )
        undo.pop_all()


def _delete_partial(partial: str) -> None:
    # The error that led here is the one worth reporting, so one of the clean-up is dropped.
    with contextlib.suppress(StorageError), _typed(partial, "cannot be deleted"):
        if FileSystems.exists(partial):
            FileSystems.delete([partial])


def _name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _client_errors() -> tuple[type[Exception], ...]:
    found = (getattr(sys.modules.get(module), name, None) for module, name in _CLIENT_ERRORS)
    return tuple(error for error in found if error is not None)


@contextlib.contextmanager
def _typed(path: str, what: str) -> Iterator[None]:
    """Turn whatever a file system raises into a `StorageError` about `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise MissingFileError("there is no such file or folder", where=path, remedy=_REMEDIES[errno.ENOENT]) from error
    except OSError as error:
        # Beam packs a missing file into its own error, without a number.
        details = getattr(error, "exception_details", None) or {}
        inner = next((e for e in details.values() if isinstance(e, OSError) and e.errno), error)
        if inner.errno == errno.ENOENT:
            raise MissingFileError(
                "there is no such file or folder", where=path, remedy=_REMEDIES[errno.ENOENT]
            ) from error
        remedy = _REMEDIES.get(inner.errno or 0, "look at the message of the file system, then try again")
        raise StorageError(f"{what}: {inner.strerror or error}", where=path, remedy=remedy) from error
    except ValueError as error:
        # No file system for the scheme, or a name that none can hold (a NUL character).
        raise StorageError(
            f"{what}: {error}", where=path, remedy="check the path; for a remote scheme, install the extra it needs"
        ) from error
    except _client_errors() as error:
        raise StorageError(
            f"{what}: {error}", where=path, remedy="check the credentials, the bucket and the network, then try again"
        ) from error
