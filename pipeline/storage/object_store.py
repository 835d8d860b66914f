"""Objects in S3, Google Cloud Storage and Azure, by `obstore`: whole ones out, whole ones in, one client a bucket.

Beam has clients for these, too, and they are not used (2.77, tried and read): theirs for S3 makes a client for every
call (90 ms of CPU), asks again for 10 minutes where there are no credentials, and writes every file as an upload of
parts that a killed process leaves behind; none of them knows `abfs://`; and the log's client, deltalake's, takes
other options.
"""

from __future__ import annotations

import contextlib
import io
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

from pipeline.storage.client_options import object_store_arguments
from pipeline.storage.error_mapping import object_error
from pipeline.storage.errors import MissingFileError
from pipeline.storage.options import store_of

# An upload in parts is not atomic for a process that is killed: the parts lie there, unseen and paid for. So only what
# would take too long in one request is.
_ONE_REQUEST = 64 << 20
_LISTED = 1000
_BUFFER = 4 << 20

_stores: dict[tuple[str, str], Any] = {}
_lock = threading.Lock()


class Facts(NamedTuple):
    """An object, as it is told without being read.

    Attributes:
        address: Where it is.
        size_bytes: Its size.
        version: Text that changes when the content does: size and ETag.
        modified: When it was written, in seconds since 1970, by the clock of the store.
    """

    address: str
    size_bytes: int
    version: str
    modified: float


def is_object(address: str) -> bool:
    """Whether an address is in an object store."""
    return store_of(address) is not None


def split(address: str) -> tuple[str, str]:
    """The bucket, as an address without a slash at its end, and the key.

    >>> split("s3://bucket/a b/c#1.jpg"), split("abfs://maps@account.dfs.core.windows.net/x")
    (('s3://bucket', 'a b/c#1.jpg'), ('abfs://maps@account.dfs.core.windows.net', 'x'))
    """
    scheme, _, rest = address.partition("://")
    bucket, _, key = rest.partition("/")
    return f"{scheme.lower()}://{bucket}", key.strip("/")


def open_store(bucket: str) -> Any:
    """The `obstore` store of a bucket, made once a process for the options that hold.

    Raises:
        StorageError: There is none for the address.
        CredentialsError: The options are contradictory, or name a variable that is not set.
    """
    from obstore.store import from_url

    arguments = object_store_arguments(bucket)
    known = (bucket, repr(arguments))
    with _lock:
        if known not in _stores:
            with object_error(bucket, "cannot be opened"):
                _stores[known] = from_url(bucket, **arguments)
        return _stores[known]


def head(address: str) -> Facts | None:
    """An object's facts; None where there is none.

    Raises:
        StorageError: The store cannot be asked.
    """
    import obstore

    bucket, key = split(address)
    try:
        with object_error(address, "cannot be looked up"):
            return _facts(bucket, obstore.head(open_store(bucket), key)) if key else None
    except MissingFileError:
        return None


def read(address: str, max_bytes: int | None = None) -> bytes:
    """An object's content, or its first `max_bytes`.

    Raises:
        MissingFileError: There is none.
        StorageError: It cannot be read.
    """
    import obstore

    bucket, key = split(address)
    with object_error(address, "cannot be read"):
        if max_bytes is None:
            return bytes(obstore.get(open_store(bucket), key).bytes())
    with open_object(address) as file:
        return file.read(max_bytes)


def write(address: str, data: bytes) -> None:
    """Stores an object whole, or not at all.

    Raises:
        StorageError: It cannot be written.
    """
    import obstore

    bucket, key = split(address)
    with object_error(address, "cannot be written"):
        obstore.put(open_store(bucket), key, data, use_multipart=len(data) > _ONE_REQUEST)


def delete(address: str) -> None:
    """Deletes an object; one that is gone already is no error.

    Raises:
        StorageError: It cannot be deleted.
    """
    import obstore

    bucket, key = split(address)
    with contextlib.suppress(MissingFileError), object_error(address, "cannot be deleted"):
        obstore.delete(open_store(bucket), key)


def list_below(folder: str) -> Iterator[Facts]:
    """All objects below a folder, or a bucket, at any depth, as the store lists them.

    Raises:
        StorageError: It cannot be listed.
    """
    import obstore

    bucket, key = split(folder)
    with object_error(folder, "cannot be listed"):
        for chunk in obstore.list(open_store(bucket), key or None, chunk_size=_LISTED):
            yield from (_facts(bucket, about) for about in chunk)


def list_folder(folder: str) -> list[Facts]:
    """The objects directly in a folder.

    Raises:
        StorageError: It cannot be listed.
    """
    import obstore

    bucket, key = split(folder)
    with object_error(folder, "cannot be listed"):
        found = obstore.list_with_delimiter(open_store(bucket), key or None)
        return [_facts(bucket, about) for about in found["objects"]]


def open_object(address: str) -> io.BufferedReader:
    """An object, to be read at any place; one that is replaced meanwhile cannot be read on.

    Raises:
        MissingFileError: There is none.
        StorageError: It cannot be read; so raises whatever is done with it.
    """
    return io.BufferedReader(_Object(address), _BUFFER)


class _Object(io.RawIOBase):
    """Ranges of an object. The first answer tells its size and state: a small one takes a single request."""

    def __init__(self, address: str) -> None:
        super().__init__()
        self._address, (bucket, self._key) = address, split(address)
        self._store = open_store(bucket)
        self._position = 0
        with object_error(address, "cannot be read"):
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

        with object_error(self._address, "cannot be read"):
            options: Any = {"range": (begin, end), "if_match": self._tag}
            return bytes(obstore.get(self._store, self._key, options=options).bytes())


def _facts(bucket: str, about: Any) -> Facts:
    found = cast(dict[str, Any], about)
    tag = (found.get("e_tag") or "").strip('"')
    size, modified = int(found["size"]), found["last_modified"].timestamp()
    return Facts(f"{bucket}/{found['path']}", size, f"{size}-{tag or f'{modified:.0f}'}", modified)
