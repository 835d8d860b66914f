"""Objects in S3, Google Cloud Storage and Azure, by `obstore`: whole ones out, whole ones in, one client a bucket.

Beam has clients for these, too, and they are not used (2.77, tried and read): theirs for S3 makes a client for every
call (90 ms of CPU), asks again for 10 minutes where there are no credentials, and writes every file as an upload of
parts that a killed process leaves behind; none of them knows `abfs://`; and the log's client, deltalake's, takes
other options.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import IO, Any, cast

from conversion import partial_name
from pipeline.storage.client_options import object_store_arguments
from pipeline.storage.error_mapping import explain, object_error
from pipeline.storage.errors import MissingFileError, StorageError
from pipeline.storage.local import check_size, finished
from pipeline.storage.options import StorageOptions
from pipeline.storage.store import Entry, FileFacts, Stored

# An upload in parts is not atomic for a process that is killed: the parts lie there, unseen and paid for. So only what
# would take too long in one request is.
_ONE_REQUEST = 64 << 20
_LISTED = 1000
_BUFFER = 4 << 20

_stores: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


def split(address: str) -> tuple[str, str]:
    """Returns the bucket, as an address without a slash at its end, and the key.

    >>> split("s3://bucket/a b/c#1.jpg"), split("abfs://maps@account.dfs.core.windows.net/x")
    (('s3://bucket', 'a b/c#1.jpg'), ('abfs://maps@account.dfs.core.windows.net', 'x'))
    """
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme.lower()}://{bucket}", key.strip("/")


def open_bucket(bucket: str, options: StorageOptions) -> Any:
    """Returns the `obstore` store of a bucket, made once a process for the same options.

    Raises:
        StorageError: There is none for the address.
        CredentialsError: The options are contradictory, or name a variable that is not set.
    """
    from obstore.store import from_url

    arguments = object_store_arguments(bucket, options)
    known = (bucket, repr(arguments))
    with _lock:
        if known not in _stores:
            with object_error(bucket, options, "cannot be opened"):
                _stores[known] = from_url(bucket, **arguments)
        return _stores[known]


@dataclass(frozen=True)
class ObjectStore:
    """Objects, see `Store`; small files are replaced by conditional requests, which the server decides.

    Attributes:
        options: How buckets are opened.
        bucket_store: Opens a bucket.
    """

    options: StorageOptions = field(default_factory=StorageOptions)
    bucket_store: Callable[[str, StorageOptions], Any] = open_bucket

    def facts(self, path: str) -> FileFacts | None:
        """See Store."""
        import obstore

        bucket, key = split(path)
        try:
            with self._error(path, "cannot be looked up"):
                if not key:
                    return None
                entry = _entry(bucket, obstore.head(self._bucket(bucket), key))
                return FileFacts(entry.size_bytes, entry.version)
        except MissingFileError:
            return None

    def open_stream(self, path: str) -> IO[bytes]:
        """See Store; an object that is replaced while it is read cannot be read on."""
        bucket, key = split(path)
        return io.BufferedReader(_Object(path, self._bucket(bucket), key, self.options), _BUFFER)

    def reading(self, path: str) -> AbstractContextManager[None]:
        """See Store."""
        return self._error(path, "cannot be read")

    def read_bytes(self, path: str, max_bytes: int | None = None) -> bytes:
        """See Store."""
        import obstore

        bucket, key = split(path)
        with self.reading(path):
            if max_bytes is None:
                return bytes(obstore.get(self._bucket(bucket), key).bytes())
        with self.open_stream(path) as file, self.reading(path):
            return check_size(file.read(max_bytes + 1), path, max_bytes)

    def list_files(self, folder: str, suffix: str = "") -> list[str]:
        """See Store."""
        return finished([entry.path for entry in self.list_entries(folder)], suffix)

    def list_entries(self, folder: str) -> list[Entry]:
        """See Store."""
        import obstore

        bucket, key = split(folder)
        with self._error(folder, "cannot be listed"):
            listed = obstore.list_with_delimiter(self._bucket(bucket), key or None)
            return sorted(_entry(bucket, meta) for meta in listed["objects"])

    def list_below(self, beginning: str) -> Iterator[Entry]:
        """See Store. These stores list by folders, so all of the folder is listed."""
        import obstore

        folder = beginning[: beginning.rindex("/") + 1]
        bucket, key = split(folder)
        with self._error(folder, "cannot be listed"):
            for chunk in obstore.list(self._bucket(bucket), key or None, chunk_size=_LISTED):
                yield from (_entry(bucket, meta) for meta in chunk)

    def delete(self, path: str) -> None:
        """See Store."""
        import obstore

        bucket, key = split(path)
        with suppress(MissingFileError), self._error(path, "cannot be deleted"):
            obstore.delete(self._bucket(bucket), key)

    def write_atomically(self, path: str, data: bytes) -> None:
        """See Store. A request that stores an object does so whole or not at all: no temporary name is needed."""
        import obstore

        bucket, key = split(path)
        with self._error(path, "cannot be written"):
            obstore.put(self._bucket(bucket), key, data, use_multipart=len(data) > _ONE_REQUEST)

    def read_state(self, path: str) -> Stored | None:
        """See Store."""
        import obstore

        bucket, key = split(path)
        try:
            with self._error(path, "cannot be read"):
                answer = obstore.get(self._bucket(bucket), key)
                return _stored(bytes(answer.bytes()), cast(dict[str, Any], answer.meta))
        except MissingFileError:
            return None

    def swap(self, path: str, data: bytes, expected: Stored | None) -> Stored | None:
        """See Store: If-None-Match, If-Match, or generations."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        bucket, key = split(path)
        mode: Any = "create" if expected is None else dict(expected.version)
        with self._error(path, "cannot be written"):
            try:
                result = obstore.put(self._bucket(bucket), key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                # A request whose answer was lost is sent twice; the second then finds what the first has written.
                present = self.read_state(path)
                return present if present is not None and present.data == data else None
        return _stored(data, {"last_modified": None, **cast(dict[str, Any], result)})

    def now(self, path: str) -> float:
        """See Store: the time at which the server says that it wrote a small object."""
        import obstore

        bucket, key = split(path)
        folder, _, name = key.rpartition("/")
        probe = "/".join(filter(None, (folder, partial_name(name))))
        with self._error(path, "cannot be written"):
            store = self._bucket(bucket)
            obstore.put(store, probe, b"-", use_multipart=False)
            try:
                return obstore.head(store, probe)["last_modified"].timestamp()
            finally:
                obstore.delete(store, probe)

    def explain(self, error: Exception, path: str, what: str, why: str = "") -> StorageError:
        """See Store."""
        return explain(error, path, what, why, options=self.options)

    def _bucket(self, bucket: str) -> Any:
        return self.bucket_store(bucket, self.options)

    def _error(self, path: str, what: str) -> AbstractContextManager[None]:
        return object_error(path, self.options, what)


class _Object(io.RawIOBase):
    """Ranges of an object. The first answer tells its size and state: a small one takes a single request."""

    def __init__(self, address: str, store: Any, key: str, options: StorageOptions) -> None:
        super().__init__()
        self._address, self._store, self._key, self._options = address, store, key, options
        self._position = 0
        with object_error(address, options, "cannot be read"):
            self._ahead, self._size, self._tag = self._begin()

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where it is."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        begin, end = self._position, min(self._position + len(buffer), self._size)
        if begin >= end:
            return 0
        data = self._ahead[begin:end] if begin < len(self._ahead) else self._range(begin, end)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _begin(self) -> tuple[bytes, int, str | None]:
        """Its first bytes, its size and its state."""
        import obstore
        from obstore.exceptions import GenericError

        try:
            found = obstore.get(self._store, self._key, options={"range": (0, _BUFFER)})
        except GenericError as error:
            # An object without bytes has no range. For anything else the error is what is to be told: HEAD has no code.
            if not any(sign in str(error) for sign in ("416", "InvalidRange", "Wanted range starting at 0")):
                raise
            about = obstore.head(self._store, self._key)
            if about["size"]:
                raise error from None
            return b"", 0, about["e_tag"]
        return bytes(found.bytes()), found.meta["size"], found.meta["e_tag"]

    def _range(self, begin: int, end: int) -> bytes:
        import obstore

        with object_error(self._address, self._options, "cannot be read"):
            options: Any = {"range": (begin, end), "if_match": self._tag}
            return bytes(obstore.get(self._store, self._key, options=options).bytes())


def _entry(bucket: str, meta: Any) -> Entry:
    tag = (meta.get("e_tag") or "").strip('"')
    size, modified = int(meta["size"]), meta["last_modified"].timestamp()
    return Entry(f"{bucket}/{meta['path']}", size, modified, f"{size}-{tag or f'{modified:.0f}'}")


def _stored(data: bytes, meta: dict[str, Any]) -> Stored:
    version = tuple((name, meta[name]) for name in ("e_tag", "version") if meta.get(name) is not None)
    modified = meta["last_modified"]
    return Stored(data, modified.timestamp() if modified is not None else 0.0, version)
