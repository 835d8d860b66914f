"""`Reader`: from a reference to the bytes of its image."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

import tenacity

from pipeline.rejection import Reason, Rejected
from pipeline.settings import LimitSettings
from pipeline.sources.file_types import is_web
from pipeline.sources.parquet import OpenParquet
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream, packing
from pipeline.sources.tar import OpenTar
from pipeline.sources.tfrecord import OpenTFRecord
from pipeline.sources.web import Fetched, Web, WebLimits
from pipeline.sources.zip import OpenZip
from pipeline.storage.address import is_remote
from pipeline.storage.errors import MissingFileError, NotAFileError, StorageError, UnavailableError
from pipeline.storage.factory import open_store
from pipeline.storage.options import StorageOptions
from pipeline.storage.store import FileFacts

_ATTEMPTS = 4
_FIRST_WAIT_S = 0.05
_ONE_REQUEST = 4 * 2**20
"""Bytes that a store surely sends in one answer; more may come in several, with a change between them."""

_CHANGED = "the archive changed after it was listed"


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Format(Protocol):
    def read(self, reference: ImageReference, max_bytes: int) -> bytes: ...
    def close(self) -> None: ...


_FORMATS: dict[str, Callable[[FileStream], _Format]] = {
    "tar": OpenTar,
    "zip": OpenZip,
    "parquet": OpenParquet,
    "tfrecord": OpenTFRecord,
}
_CHECKED = frozenset({"zip", "tfrecord"})
"""Kinds whose members have a checksum, which is compared."""


def streamed(reference: ImageReference) -> bool:
    """Whether the container can only be read from its beginning on, so that its members are best read in one go.

    >>> streamed(ImageReference("a.tgz#b.jpg", container="a.tgz", kind="tar")), streamed(ImageReference("b.jpg"))
    (True, False)
    """
    return reference.kind in ("tar", "tfrecord") and packing(reference.container) != ""


MAX_IMAGE_BYTES = LimitSettings.max_image_bytes


class Reader:
    """Reads images: files, members of containers, what is behind HTTP. May be used by many threads; to be closed.

    Args:
        max_bytes: Larger images are not read; never more than a byte beyond it.
        web: How long to wait for HTTP.
        max_open: Containers that are kept open.
        sleep: Waits between attempts.
        options: How object stores are opened; None: as the environment says.
    """

    def __init__(
        self,
        max_bytes: int = MAX_IMAGE_BYTES,
        *,
        web: WebLimits | None = None,
        max_open: int = 8,
        sleep: Callable[[float], None] = time.sleep,
        options: StorageOptions | None = None,
    ) -> None:
        self._options = options
        self._max_bytes, self._max_open, self._sleep = max_bytes, max(max_open, 1), sleep
        self._web = Web(max_bytes, web or WebLimits(), sleep)
        self._open: collections.OrderedDict[str, _Container] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all containers and connections; the reader can be used again."""
        with self._lock:
            containers = list(self._open.values())
            self._open.clear()
        for container in containers:
            container.close()
        self._web.close()

    def read(self, reference: ImageReference) -> Fetched:
        """The bytes of an image, as they are now, and the version that they have.

        Of a file that changes while it is read, what it is when it stays. Of a container that changed since it was
        listed, nothing: what is at the member's place may be anything.

        Raises:
            Rejected: What the listing found out (`reference.fault`); MISSING, UNREADABLE, NOT_A_FILE, TOO_MANY_BYTES,
                TRUNCATED, CORRUPT, EMPTY, as found.
        """
        if reference.fault:
            raise Rejected.parse(reference.fault)
        if reference.kind:
            return Fetched(self._member(reference), reference.version)
        if is_web(reference.uri):
            return self._web.read(reference.uri)
        try:
            return self._settled(reference)
        except StorageError as error:
            raise rejection_of(error) from error

    def probe(self, reference: ImageReference, known_version: str) -> str:
        """The version that an image has now, found out without reading it; empty where it cannot be known.

        Args:
            reference: The image. Of members of containers the listing's version is all there is.
            known_version: What `read` said before, which makes HTTP requests conditional; empty if it was never read.
        """
        if reference.kind or reference.fault:
            return reference.version
        if is_web(reference.uri):
            return self._web.probe(reference.uri, known_version)
        try:
            facts = open_store(reference.uri, self._options).facts(reference.uri)
        except StorageError:  # the reader finds out again, and says why
            return ""
        return facts.version if facts else ""

    def _settled(self, reference: ImageReference) -> Fetched:
        """A file's content, read again until it did not change meanwhile."""
        read = self._remote if is_remote(reference.uri) else self._local
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_result(lambda fetched: fetched is None),
            stop=tenacity.stop_after_attempt(_ATTEMPTS),
            wait=tenacity.wait_exponential(multiplier=_FIRST_WAIT_S, exp_base=2, max=1.0),
            sleep=self._sleep,
            retry_error_callback=lambda _: None,
        )
        fetched: Fetched | None = retrying(read, reference)
        if fetched is None:
            raise Rejected(Reason.UNREADABLE, "it changed while it was read, however often")
        return fetched

    def _local(self, reference: ImageReference) -> Fetched | None:
        with FileStream(reference.uri, self._options) as stream:
            before = stream.facts
            data = self._all(stream, before.size_bytes)
            if stream.facts_now() != before or len(data) != before.size_bytes:
                return None
        return Fetched(data, before.version)

    def _remote(self, reference: ImageReference) -> Fetched | None:
        """A store says less of what it sends, and asking costs a request: only where a change is possible."""
        store = open_store(reference.uri, self._options)
        uri, listed = reference.uri, FileFacts(reference.size_bytes, reference.version)
        with store.open_stream(uri) as stream, store.reading(uri):
            data = self._all(stream, max(listed.size_bytes, 0))
        if len(data) <= _ONE_REQUEST and len(data) == listed.size_bytes:
            return Fetched(data, listed.version)
        facts = store.facts(uri)
        if facts is None:
            raise Rejected(Reason.MISSING, "it went away while it was read")
        if facts == listed and len(data) == facts.size_bytes:
            return Fetched(data, facts.version)
        # Another file than was listed: read again, and compared with what is there after it.
        with store.open_stream(uri) as stream, store.reading(uri):
            data = self._all(stream, facts.size_bytes)
        unchanged = store.facts(uri) == facts and len(data) == facts.size_bytes
        return Fetched(data, facts.version) if unchanged else None

    def _all(self, stream: _Readable, expected: int) -> bytes:
        """The whole content, if it is not too much; asked for by its expected size, so that no more is allocated."""
        if expected > self._max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"{expected:,} bytes, where {self._max_bytes:,} are allowed")
        data = bytes(stream.read(expected + 1))
        if len(data) > expected:
            data += stream.read(self._max_bytes + 1 - len(data))
        if len(data) > self._max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"more than {self._max_bytes:,} bytes")
        return data

    def _member(self, reference: ImageReference) -> bytes:
        if reference.size_bytes > self._max_bytes:
            raise Rejected(
                Reason.TOO_MANY_BYTES, f"{reference.size_bytes:,} bytes, where {self._max_bytes:,} are allowed"
            )
        while True:
            data = self._container(reference).read(reference, self._max_bytes)
            if data is not None:
                return data

    def _container(self, reference: ImageReference) -> "_Container":
        """The open container of a member; the one that was not used for longest makes room for it."""
        evicted: list[_Container] = []
        with self._lock:
            container = self._open.get(reference.container)
            if container is None or container.closed:
                container = _Container(reference.container, reference.kind, self._options)
                self._open[reference.container] = container
            self._open.move_to_end(reference.container)
            while len(self._open) > self._max_open:
                evicted.append(self._open.popitem(last=False)[1])
        for old in evicted:
            old.close()
        return container


class _Container:
    """One open container, one thread at a time.

    Attributes:
        closed: Whether it was closed, and cannot be used again.
    """

    def __init__(self, path: str, kind: str, options: StorageOptions | None) -> None:
        self._path, self._kind, self._options = path, kind, options
        self._lock = threading.Lock()
        self._stream: FileStream | None = None
        self._format: _Format | None = None
        self.closed = False

    def read(self, reference: ImageReference, max_bytes: int) -> bytes | None:
        """A member's bytes; None if another thread closed the container meanwhile.

        Raises:
            Rejected: The container or the member is at fault.
        """
        with self._lock:
            if self.closed:
                return None
            try:
                return self._read(reference, max_bytes)
            except StorageError as error:
                self._release()
                raise rejection_of(error) from error

    def _read(self, reference: ImageReference, max_bytes: int) -> bytes:
        stream, opened = self._opened()
        if not _is_listed(stream, opened, reference):
            # Opened before it was listed, perhaps.
            self._release()
            stream, opened = self._opened()
            if not _is_listed(stream, opened, reference):
                raise Rejected(Reason.UNREADABLE, _CHANGED)
        try:
            return opened.read(reference, max_bytes)
        finally:
            # What has no checksum may have been overwritten while it was read: its place then holds anything.
            if self._kind not in _CHECKED and stream.facts_now() != stream.facts:
                self._release()
                raise Rejected(Reason.UNREADABLE, _CHANGED)

    def _opened(self) -> tuple[FileStream, _Format]:
        if self._stream is None or self._format is None:
            with contextlib.ExitStack() as undo:
                stream = undo.enter_context(FileStream(self._path, self._options))
                self._stream, self._format = stream, _FORMATS[self._kind](stream)
                undo.pop_all()
        return self._stream, self._format

    def _release(self) -> None:
        if self._format is not None:
            self._format.close()
        if self._stream is not None:
            self._stream.close()
        self._format = self._stream = None

    def close(self) -> None:
        """Closes it, when no other thread reads."""
        with self._lock:
            self._release()
            self.closed = True


def _is_listed(stream: FileStream, opened: _Format, reference: ImageReference) -> bool:
    """Whether the container is the one that was listed; members of a zip have versions of their own."""
    if isinstance(opened, OpenZip):
        return opened.holds(reference)
    listed = reference.version.rpartition("@")[0]
    return listed in ("", stream.facts.version)


def rejection_of(error: StorageError) -> Rejected:
    """What an error of the file system means for the image it befell.

    Raises:
        UnavailableError: The error is one, and so says nothing of the image.
    """
    if isinstance(error, UnavailableError):
        raise error
    if isinstance(error, MissingFileError):
        return Rejected(Reason.MISSING, error.what)
    if isinstance(error, NotAFileError):
        return Rejected(Reason.NOT_A_FILE, error.what)
    return Rejected(Reason.UNREADABLE, error.what)
