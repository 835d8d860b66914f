"""Objects in S3, Google Cloud Storage and Azure, read and written as a whole by `obstore`, with one client per bucket.

Beam's own clients are not used (as of 2.77, by test and by reading its code). Its S3 client is created anew for every
call (90 ms of CPU), retries for 10 minutes where there are no credentials, and writes every file as a multipart upload,
whose parts stay behind if the process is killed. None of its clients supports `abfs://`, and their options differ from
those of deltalake, which writes the log.
"""

from __future__ import annotations

import io
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, cast

from conversion import partial_name
from pipeline.storage.client_options import FIRST_WAIT_S, LONGEST_WAIT_S, object_store_arguments, settings
from pipeline.storage.error_mapping import explain, object_error
from pipeline.storage.errors import MissingFileError, OutageError, StorageError
from pipeline.storage.local import check_size, finished
from pipeline.storage.options import StorageOptions
from pipeline.storage.store import Entry, FileFacts, Stored

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from obstore import GetOptions, ObjectMeta, PutMode, PutResult, UpdateVersion
    from obstore.store import ObjectStore as BucketStore

# A multipart upload whose process is killed leaves its parts behind, invisible and charged for. So only objects that
# would take too long in one request are uploaded in parts.
_ONE_REQUEST = 64 << 20
_LISTED = 1000
_BUFFER = 4 << 20
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)*")

_stores: dict[tuple[str, str], BucketStore] = {}
_lock = threading.Lock()


def split(address: str) -> tuple[str, str]:
    """Returns the bucket, as an address without a trailing slash, and the key.

    >>> split("s3://bucket/a b/c#1.jpg"), split("abfs://maps@account.dfs.core.windows.net/x")
    (('s3://bucket', 'a b/c#1.jpg'), ('abfs://maps@account.dfs.core.windows.net', 'x'))
    """
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme.lower()}://{bucket}", key.strip("/")


def open_bucket(bucket: str, options: StorageOptions) -> BucketStore:
    """Returns the `obstore` store of a bucket, created once per process for the same options.

    Raises:
        StorageError: No store exists for the address.
        CredentialsError: The options are contradictory, or name a variable that is not set.
    """
    from obstore.store import from_url

    arguments = object_store_arguments(bucket, options)
    key_of_store = (bucket, repr(arguments))
    with _lock:
        if key_of_store not in _stores:
            with object_error(bucket, options, "cannot be opened"):
                _stores[key_of_store] = from_url(bucket, **arguments)
        return _stores[key_of_store]


@dataclass(frozen=True)
class ObjectStore:
    """Stores files as objects, see `Store`. `swap` is a conditional request, on which the server decides.

    Attributes:
        options: The options that buckets are opened with.
        bucket_store: Opens a bucket.
        sleep: Waits a number of seconds in an outage.
    """

    options: StorageOptions = field(default_factory=StorageOptions)
    bucket_store: Callable[[str, StorageOptions], BucketStore] = open_bucket
    sleep: Callable[[float], None] = time.sleep

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
        """See Store; reads fail once the object has been replaced."""
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
        patience = _Patience(self._retry_timeout(bucket), self.sleep)
        while True:
            try:
                with self._error(folder, "cannot be listed"):
                    listed = obstore.list_with_delimiter(self._bucket(bucket), key or None)
                    return sorted(_entry(bucket, meta) for meta in listed["objects"])
            except OutageError:
                if not patience.waits():
                    raise

    def list_below(self, beginning: str) -> Iterator[Entry]:
        """See Store. These stores list by folder, so this yields the whole folder.

        The clients do not repeat an answer that is cut off. So the listing goes on after the last key.
        """
        folder = beginning[: beginning.rindex("/") + 1]
        bucket, key = split(folder)
        patience = _Patience(self._retry_timeout(bucket), self.sleep)
        last, is_ordered = b"", True
        while True:
            try:
                with self._error(folder, "cannot be listed"):
                    for meta in self._listed_from(bucket, key, last.decode()):
                        name = meta["path"].encode()
                        is_ordered = is_ordered and name > last
                        last = name
                        yield _entry(bucket, meta)
                        patience.renew()
                    return
            except OutageError:
                if not is_ordered or not patience.waits():
                    raise

    def _listed_from(self, bucket: str, key: str, last: str) -> Iterator[ObjectMeta]:
        """Yields what is below a key; after the key `last` where that is given and the store lists in order."""
        import obstore

        # obstore writes some characters of an offset as escapes, which sort elsewhere. What is listed again is dropped.
        found = _PLAIN_KEY.match(last)
        offset = found.group() if found else None
        for chunk in obstore.list(self._bucket(bucket), key or None, offset=offset, chunk_size=_LISTED):
            yield from (meta for meta in chunk if not last or meta["path"].encode() > last.encode())

    def delete(self, path: str) -> None:
        """See Store."""
        import obstore

        bucket, key = split(path)
        with suppress(MissingFileError), self._error(path, "cannot be deleted"):
            obstore.delete(self._bucket(bucket), key)

    def write_atomically(self, path: str, data: bytes) -> None:
        """See Store. A request stores an object completely or not at all, so a temporary name is not needed."""
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
                return _stored(bytes(answer.bytes()), answer.meta, answer.meta["last_modified"].timestamp())
        except MissingFileError:
            return None

    def swap(self, path: str, data: bytes, expected: Stored | None) -> Stored | None:
        """See Store. Sends If-None-Match, If-Match, or a generation."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        bucket, key = split(path)
        mode: PutMode = "create" if expected is None else cast("UpdateVersion", dict(expected.version))
        with self._error(path, "cannot be written"):
            try:
                result = obstore.put(self._bucket(bucket), key, data, mode=mode, use_multipart=False)
            except (AlreadyExistsError, PreconditionError):
                # A request whose answer was lost is sent again, and then meets what the first one has written.
                present = self.read_state(path)
                return present if present is not None and present.data == data else None
        return _stored(data, result, 0.0)

    def now(self, path: str) -> float:
        """See Store. Returns the time at which the server wrote a small object."""
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

    def _retry_timeout(self, bucket: str) -> float:
        return settings(bucket, self.options).seconds["retry_timeout"]

    def _bucket(self, bucket: str) -> BucketStore:
        return self.bucket_store(bucket, self.options)

    def _error(self, path: str, what: str) -> AbstractContextManager[None]:
        return object_error(path, self.options, what)


class _Patience:
    """Waits in an outage, for `seconds` since the last progress."""

    def __init__(self, seconds: float, sleep: Callable[[float], None]) -> None:
        self._seconds, self._sleep = seconds, sleep
        self.renew()

    def renew(self) -> None:
        """Begins anew: the store has answered."""
        self._since, self._wait = time.monotonic(), FIRST_WAIT_S

    def waits(self) -> bool:
        """Waits a while and returns True; returns False once the time is over."""
        if time.monotonic() - self._since >= self._seconds:
            return False
        self._sleep(self._wait)
        self._wait = min(2 * self._wait, LONGEST_WAIT_S)
        return True


class _Object(io.RawIOBase):
    """Reads ranges of an object. The first answer holds its size and state, so a small object takes one request."""

    def __init__(self, address: str, store: BucketStore, key: str, options: StorageOptions) -> None:
        super().__init__()
        self._address, self._store, self._key, self._options = address, store, key, options
        self._position = 0
        with object_error(address, options, "cannot be read"):
            self._ahead, self._size, self._tag = self._begin()

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position and returns it."""
        self._position = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence])
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Reads into `buffer` and returns the number of bytes, see `io.RawIOBase`."""
        target = memoryview(buffer).cast("B")
        begin, end = self._position, min(self._position + len(target), self._size)
        if begin >= end:
            return 0
        data = self._ahead[begin:end] if begin < len(self._ahead) else self._range(begin, end)
        target[: len(data)] = data
        self._position += len(data)
        return len(data)

    def _begin(self) -> tuple[bytes, int, str | None]:
        """Returns the first bytes of the object, its size and its entity tag."""
        import obstore
        from obstore.exceptions import GenericError

        try:
            answer = obstore.get(self._store, self._key, options={"range": (0, _BUFFER)})
        except GenericError as error:
            # An empty object has no range. Any other failure is reported by this error: a HEAD answer has no code.
            if not any(sign in str(error) for sign in ("416", "InvalidRange", "Wanted range starting at 0")):
                raise
            meta = obstore.head(self._store, self._key)
            if meta["size"]:
                raise error from None
            return b"", 0, meta["e_tag"]
        return bytes(answer.bytes()), answer.meta["size"], answer.meta["e_tag"]

    def _range(self, begin: int, end: int) -> bytes:
        import obstore

        with object_error(self._address, self._options, "cannot be read"):
            options: GetOptions = {"range": (begin, end), "if_match": self._tag}
            return bytes(obstore.get(self._store, self._key, options=options).bytes())


def _entry(bucket: str, meta: ObjectMeta) -> Entry:
    tag = (meta.get("e_tag") or "").strip('"')
    size, modified = int(meta["size"]), meta["last_modified"].timestamp()
    return Entry(f"{bucket}/{meta['path']}", size, modified, f"{size}-{tag or f'{modified:.0f}'}")


def _stored(data: bytes, meta: ObjectMeta | PutResult, modified: float) -> Stored:
    states = (("e_tag", meta.get("e_tag")), ("version", meta.get("version")))
    return Stored(data, modified, tuple((name, value) for name, value in states if value is not None))
