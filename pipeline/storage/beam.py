"""Files behind schemes that Beam has a file system for, such as `hdfs://`, once the Beam extra is installed."""

from __future__ import annotations

import contextlib
import errno
import sys
from collections.abc import Iterator
from typing import IO

from apache_beam.io.filesystem import CompressionTypes, FileMetadata
from apache_beam.io.filesystems import FileSystems

from conversion import partial_name
from pipeline.storage import local
from pipeline.storage.address import join
from pipeline.storage.errors import MissingFileError, StorageError
from pipeline.storage.store import Entry, FileFacts, Stored

# Client libraries raise their own errors through FileSystems; a library that is not imported cannot have raised one.
_CLIENT_ERRORS = (
    ("hdfs.util", "HdfsError"),
    ("azure.core.exceptions", "AzureError"),
)

_CHECK = "check the credentials, the bucket and the network, then try again"


class BeamStore:
    """Stores files through Beam's `FileSystems`, see `Store`."""

    def facts(self, path: str) -> FileFacts | None:
        """See Store."""
        with _typed(path, "cannot be looked up"):
            if not FileSystems.exists(path):
                return None
            return _facts(FileSystems.get_filesystem(path).metadata(path))

    def open_stream(self, path: str) -> IO[bytes]:
        """See Store."""
        with self.reading(path):
            stream: IO[bytes] = FileSystems.open(path, compression_type=CompressionTypes.UNCOMPRESSED)
            return stream

    def reading(self, path: str) -> contextlib.AbstractContextManager[None]:
        """See Store."""
        return _typed(path, "cannot be read")

    def read_bytes(self, path: str, max_bytes: int | None = None) -> bytes:
        """See Store."""
        with self.reading(path), self.open_stream(path) as file:
            data = bytes(file.read() if max_bytes is None else file.read(max_bytes + 1))
        return local.check_size(data, path, max_bytes)

    def list_files(self, folder: str, suffix: str = "") -> list[str]:
        """See Store."""
        return local.finished([entry.path for entry in self._listed(join(folder, "*"))], suffix)

    def list_entries(self, folder: str) -> list[Entry]:
        """See Store."""
        return sorted(self._listed(join(folder, "*")))

    def list_below(self, beginning: str) -> Iterator[Entry]:
        """See Store. Beam cannot quote pattern characters, so `beginning` is listed as the prefix of a pattern."""
        yield from self._listed(beginning + "**")

    def delete(self, path: str) -> None:
        """See Store."""
        with _typed(path, "cannot be deleted"):
            if FileSystems.exists(path):
                FileSystems.delete([path])

    def write_atomically(self, path: str, data: bytes) -> None:
        """See Store."""
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/{partial_name(name)}"
        with _typed(path, "cannot be written"), contextlib.ExitStack() as undo:
            undo.callback(self._delete_partial, partial)
            with FileSystems.create(partial, compression_type=CompressionTypes.UNCOMPRESSED) as file:
                file.write(data)
            FileSystems.rename([partial], [path])
            # Some of Beam's file systems ignore a failed rename, so the result is checked.
            facts = self.facts(path)
            size = facts.size_bytes if facts else None
            if FileSystems.exists(partial) or size != len(data):
                raise StorageError(
                    f"the renamed file has {'no' if size is None else f'{size:,}'} bytes instead of {len(data):,}"
                    if size != len(data)
                    else "the file was written under a temporary name but not renamed",
                    where=path,
                    remedy="check that the credentials allow to copy and delete there, then run again",
                )
            undo.pop_all()

    def read_state(self, path: str) -> Stored | None:
        """See Store.

        Raises:
            StorageError: Always: Beam's file systems have no conditional writes.
        """
        raise _unconditional(path)

    def swap(self, path: str, data: bytes, expected: Stored | None) -> Stored | None:  # noqa: ARG002
        """See `read_state`."""
        raise _unconditional(path)

    def now(self, path: str) -> float:
        """See `read_state`."""
        raise _unconditional(path)

    def explain(self, error: Exception, path: str, what: str, why: str = "") -> StorageError:
        """See Store."""
        return local.explain(error, path, what, why)

    def _listed(self, pattern: str) -> list[Entry]:
        with _typed(pattern.rstrip("*"), "cannot be listed"):
            listed = FileSystems.match([pattern])[0].metadata_list
            return [
                Entry(
                    file.path, int(file.size_in_bytes), float(file.last_updated_in_seconds or 0), _facts(file).version
                )
                for file in listed
            ]

    def _delete_partial(self, partial: str) -> None:
        # The error that led here is reported, so an error of the clean-up is dropped.
        with contextlib.suppress(StorageError):
            self.delete(partial)


def check_scheme(address: str) -> None:
    """Checks that Beam has a file system for an address.

    Raises:
        ValueError: Beam has none.
    """
    FileSystems.get_filesystem(address)


def _facts(metadata: FileMetadata) -> FileFacts:
    size, changed = int(metadata.size_in_bytes), float(metadata.last_updated_in_seconds or 0)
    return FileFacts(size, f"{size}-{changed * 1e9:.0f}" if changed > 0 else "")


def _unconditional(path: str) -> StorageError:
    return StorageError("cannot be replaced safely: the storage has no conditional writes, as S3 has", where=path)


def _client_errors() -> tuple[type[Exception], ...]:
    errors = (getattr(sys.modules.get(module), name, None) for module, name in _CLIENT_ERRORS)
    return tuple(error for error in errors if error is not None)


@contextlib.contextmanager
def _typed(path: str, what: str) -> Iterator[None]:
    """Turns an error of Beam's file systems into a `StorageError` about `path`."""
    try:
        yield
    except FileNotFoundError as error:
        raise _missing(path) from error
    except OSError as error:
        # Beam wraps a missing file in its own error, which has no error number.
        details = getattr(error, "exception_details", None) or {}
        inner = next((e for e in details.values() if isinstance(e, OSError) and e.errno), error)
        if inner.errno == errno.ENOENT:
            raise _missing(path) from error
        remedy = local.REMEDIES.get(inner.errno or 0, _CHECK)
        raise StorageError(f"{what}: {inner.strerror or error}", where=path, remedy=remedy) from error
    except ValueError as error:  # no file system for the scheme
        raise StorageError(
            f"{what}: {error}", where=path, remedy="check the path; for a remote scheme, install the extra it needs"
        ) from error
    except _client_errors() as error:
        raise StorageError(f"{what}: {error}", where=path, remedy=_CHECK) from error


def _missing(path: str) -> MissingFileError:
    return MissingFileError("there is no such file or folder", where=path, remedy=local.REMEDIES[errno.ENOENT])
