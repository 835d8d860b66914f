"""`Reader`: reads the bytes of the image behind a reference."""

import collections
import contextlib
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from pipeline.images.decoding_rules import type_by_name
from pipeline.rejection import Reason, Rejected
from pipeline.settings import LimitSettings
from pipeline.sources.file_types import FRAMES, is_web
from pipeline.sources.frames import OpenFrames
from pipeline.sources.parquet import OpenParquet
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream, packing
from pipeline.sources.tar import OpenTar
from pipeline.sources.tfrecord import OpenTFRecord
from pipeline.sources.web import Fetched, Web, WebLimits
from pipeline.sources.zip import OpenZip
from pipeline.storage.address import check_encoding, is_remote
from pipeline.storage.errors import MissingFileError, NotAFileError, StorageError, UnavailableError
from pipeline.storage.factory import open_store
from pipeline.storage.local import LocalFile
from pipeline.storage.options import StorageOptions
from pipeline.storage.store import FileFacts

_ATTEMPTS = 4
_FIRST_WAIT_S = 0.05
_ONE_REQUEST = 4 * 2**20
"""The bytes that a store sends in one answer; larger content may take several, and change between them."""

_MOST_HELD = 2**27
"""The most bytes that open containers hold; but one stays open, whatever it holds."""

_CHANGED = "the archive changed after it was listed"


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Format(Protocol):
    @property
    def held_bytes(self) -> int: ...
    def read(self, reference: ImageReference, max_bytes: int) -> bytes: ...
    def close(self) -> None: ...


_FORMATS: dict[str, Callable[[FileStream], _Format]] = {
    "tar": OpenTar,
    "zip": OpenZip,
    "parquet": OpenParquet,
    "tfrecord": OpenTFRecord,
    FRAMES: OpenFrames,
}
_CHECKED = frozenset({"zip", "tfrecord"})
"""The kinds of containers whose members have checksums, which are verified."""


def streamed(reference: ImageReference) -> bool:
    """Returns whether a container can be read from its start only, so that its members should be read in order.

    >>> streamed(ImageReference("a.tgz#b.jpg", container="a.tgz", kind="tar")), streamed(ImageReference("b.jpg"))
    (True, False)
    """
    if reference.kind == FRAMES:
        return type_by_name(reference.container) != "TIFF"
    return reference.kind in ("tar", "tfrecord") and packing(reference.container) != ""


MAX_IMAGE_BYTES = LimitSettings.max_image_bytes


class Reader:
    """Reads images: files, members of containers, and by HTTP. Thread-safe; the caller closes it.

    Args:
        max_bytes: The largest image to read. At most one byte more is read.
        web: The limits for HTTP.
        max_open: The number of containers to keep open.
        sleep: Waits a number of seconds between attempts.
        options: The options that object stores are opened with; None for `default_options`.
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
        self._web = Web(max_bytes, web or WebLimits(), sleep, options)
        self._open: collections.OrderedDict[str, _Container] = collections.OrderedDict()
        self._lock = threading.Lock()

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes all containers and connections; the reader stays usable."""
        with self._lock:
            containers = list(self._open.values())
            self._open.clear()
        for container in containers:
            container.close()
        self._web.close()

    def read(self, reference: ImageReference) -> Fetched:
        """Returns the current bytes of an image and their version.

        A file that changes while it is read is read again. A member of a container that changed after it was listed is
        rejected, because its position may now hold other data.

        Raises:
            Rejected: The listing reported a fault (`reference.fault`), or the image is MISSING, UNREADABLE, NOT_A_FILE,
                TOO_MANY_BYTES, TRUNCATED, CORRUPT or EMPTY.
        """
        if reference.fault:
            raise Rejected.parse(reference.fault)
        if reference.kind:
            return Fetched(self._member(reference), reference.version)
        if is_web(reference.file):
            return self._web.read(reference.file, reference.listed_by)
        try:
            return self._read_stable(reference)
        except StorageError as error:
            raise rejection_of(error) from error

    def probe(self, reference: ImageReference, known_version: str) -> str:
        """Returns the current version of an image without reading it; empty where that is not possible.

        Args:
            reference: The image. For a member of a container the result is the version from the listing.
            known_version: The version that `read` returned before, for a conditional HTTP request; empty if none.
        """
        if reference.kind or reference.fault:
            return reference.version
        if is_web(reference.file):
            return self._web.probe(reference.file, known_version, reference.listed_by)
        try:
            facts = open_store(reference.file, self._options).facts(reference.file)
        except StorageError:  # `read` meets the error again, and reports it
            return ""
        return facts.version if facts else ""

    def _read_stable(self, reference: ImageReference) -> Fetched:
        """Reads a file again until it does not change during the read."""
        read = self._remote if is_remote(reference.file) else self._local
        # No library for retries: it costs more than a read of a small file that does not change.
        for attempt in range(_ATTEMPTS):
            if attempt:
                self._sleep(_FIRST_WAIT_S * 2 ** (attempt - 1))
            fetched = read(reference)
            if fetched is not None:
                return fetched
        raise Rejected(Reason.UNREADABLE, f"it changed during each of {_ATTEMPTS} reads")

    def _local(self, reference: ImageReference) -> Fetched | None:
        check_encoding()
        with LocalFile(reference.file) as stream:
            before = stream.facts
            data = self._all(stream, before.size_bytes)
            if stream.facts_now() != before or len(data) != before.size_bytes:
                return None
        return Fetched(data, before.version)

    def _remote(self, reference: ImageReference) -> Fetched | None:
        """Reads an object. Requests its state afterwards only where the object may have changed during the read."""
        store = open_store(reference.file, self._options)
        uri, listed = reference.file, FileFacts(reference.size_bytes, reference.version)
        with store.open_stream(uri) as stream, store.reading(uri):
            data = self._all(stream, max(listed.size_bytes, 0))
        if len(data) <= _ONE_REQUEST and len(data) == listed.size_bytes:
            return Fetched(data, listed.version)
        facts = store.facts(uri)
        if facts is None:
            raise Rejected(Reason.MISSING, "it was deleted while it was read")
        if facts == listed and len(data) == facts.size_bytes:
            return Fetched(data, facts.version)
        # The file differs from the listed one: read it again, and compare with its state afterwards.
        with store.open_stream(uri) as stream, store.reading(uri):
            data = self._all(stream, facts.size_bytes)
        unchanged = store.facts(uri) == facts and len(data) == facts.size_bytes
        return Fetched(data, facts.version) if unchanged else None

    def _all(self, stream: _Readable, expected: int) -> bytes:
        """Returns the whole content, up to the limit. Reads by the expected size, so that no more is allocated."""
        if expected > self._max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"{expected:,} bytes, but {self._max_bytes:,} are allowed")
        data = bytes(stream.read(expected + 1))
        if len(data) > expected:
            data += stream.read(self._max_bytes + 1 - len(data))
        if len(data) > self._max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"more than {self._max_bytes:,} bytes")
        return data

    def _member(self, reference: ImageReference) -> bytes:
        if reference.size_bytes > self._max_bytes:
            raise Rejected(
                Reason.TOO_MANY_BYTES, f"{reference.size_bytes:,} bytes, but {self._max_bytes:,} are allowed"
            )
        while True:
            data = self._container(reference).read(reference, self._max_bytes)
            if data is not None:
                return data

    def _container(self, reference: ImageReference) -> "_Container":
        """Returns the open container of a member; closes the least recently used ones beyond the limit."""
        evicted: list[_Container] = []
        with self._lock:
            container = self._open.get(reference.container)
            if container is None or container.closed:
                container = _Container(reference.container, reference.kind, self._options)
                self._open[reference.container] = container
            self._open.move_to_end(reference.container)
            while len(self._open) > self._max_open or (
                len(self._open) > 1 and sum(one.held_bytes for one in self._open.values()) > _MOST_HELD
            ):
                evicted.append(self._open.popitem(last=False)[1])
        for old in evicted:
            old.close()
        return container


class _Container:
    """An open container, used by one thread at a time.

    Attributes:
        closed: Whether it was closed, which is final.
    """

    def __init__(self, path: str, kind: str, options: StorageOptions | None) -> None:
        self._path, self._kind, self._options = path, kind, options
        self._lock = threading.Lock()
        self._stream: FileStream | None = None
        self._format: _Format | None = None
        self.closed = False

    @property
    def held_bytes(self) -> int:
        """The memory that the open container takes, beyond that of any."""
        opened = self._format
        return opened.held_bytes if opened is not None else 0

    def read(self, reference: ImageReference, max_bytes: int) -> bytes | None:
        """Returns a member's bytes; None if another thread has closed the container.

        Raises:
            Rejected: The container or the member cannot be read.
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
            # The container may have been opened before it was listed.
            self._release()
            stream, opened = self._opened()
            if not _is_listed(stream, opened, reference):
                raise Rejected(Reason.UNREADABLE, _CHANGED)
        try:
            return opened.read(reference, max_bytes)
        finally:
            # Without a checksum, only the state of the file tells whether it was overwritten during the read.
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
        """Closes the container once no other thread reads from it."""
        with self._lock:
            self._release()
            self.closed = True


def _is_listed(stream: FileStream, opened: _Format, reference: ImageReference) -> bool:
    """Returns whether the container is still the listed one; the members of a zip have their own versions."""
    if isinstance(opened, OpenZip):
        return opened.holds(reference)
    listed = reference.version.rpartition("@")[0]
    return listed in ("", stream.facts.version)


def rejection_of(error: StorageError) -> Rejected:
    """Returns the rejection of an image that could not be read because of `error`.

    Raises:
        UnavailableError: `error` is one: it concerns the store, not the image.
    """
    if isinstance(error, UnavailableError):
        raise error
    if isinstance(error, MissingFileError):
        return Rejected(Reason.MISSING, error.what)
    if isinstance(error, NotAFileError):
        return Rejected(Reason.NOT_A_FILE, error.what)
    return Rejected(Reason.UNREADABLE, error.what)
