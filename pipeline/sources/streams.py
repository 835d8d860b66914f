"""Containers as streams of bytes: the file as it is, and what a compressed one inflates to.

Both raise `StorageError` for what the file system does, and `Rejected` for what the content is, so
that those who read formats from them can tell a bad disk from a bad archive.
"""

import bz2
import collections
import contextlib
import gzip
import io
import lzma
import os
import posixpath
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from pipeline.rejection import Reason, Rejected
from pipeline.storage.address import is_remote
from pipeline.storage.errors import MissingFileError, StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.local import local_facts
from pipeline.storage.options import StorageOptions
from pipeline.storage.store import FileFacts

LOOKBACK = 16 * 2**20
"""Inflated bytes that are kept, so that threads that ask a little out of order do not start it over."""

_CHUNK = 256 * 2**10
_INFLATES_TO = 256 * 2**20
_INFLATES_BY = 200
"""An archive may inflate to `_INFLATES_TO` bytes, or to `_INFLATES_BY` times its size if that is more."""


class FileStream(io.RawIOBase):
    """A file, opened for reading at any place.

    Attributes:
        path: A local path or `scheme://`.
        facts: Size and version of what was opened.

    Raises:
        StorageError: As `Store.open_stream`; so do all its methods.
    """

    def __init__(self, path: str, options: StorageOptions | None = None) -> None:
        super().__init__()
        self.path, self._store = path, open_store(path, options)
        self._file: IO[bytes] = self._store.open_stream(path)
        try:
            self.facts = self.facts_now()
        except StorageError:
            self._file.close()
            raise

    def facts_now(self) -> FileFacts:
        """The facts as they are now: of the open file where it is local, else of what is at its address."""
        if is_remote(self.path):
            facts = self._store.facts(self.path)
            if facts is None:
                raise MissingFileError("there is no such file any more", where=self.path)
            return facts
        with self._store.reading(self.path):
            return local_facts(os.fstat(self._file.fileno()))

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place; to the end if that is beyond it."""
        with self._store.reading(self.path):
            # Offsets that a hostile header names would overflow, or be refused by the file system.
            return self._file.seek(min(offset, self.facts.size_bytes), whence)

    def tell(self) -> int:
        """Where it is."""
        with self._store.reading(self.path):
            return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as were asked for, less at the end of the file only."""
        with self._store.reading(self.path):
            return self._file.read(-1 if size is None else size)

    def readinto(self, buffer: Any) -> int:
        """As `io.RawIOBase.readinto`."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            # Nothing was written, so nothing is lost with an error here.
            with contextlib.suppress(StorageError), self._store.reading(self.path):
                self._file.close()
        super().close()


_UNPACKED: dict[str, Callable[[Any], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_ENDINGS = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".tbz": "bz2", ".tbz2": "bz2", ".xz": "xz", ".txz": "xz"}


def packing(path: str) -> str:
    """How the name says that a file is compressed: `gz`, `bz2`, `xz`, or empty.

    >>> packing("a.tar"), packing("b.TGZ")
    ('', 'gz')
    """
    return _ENDINGS.get(posixpath.splitext(path)[1].lower(), "")


class Unpacked:
    """What a compressed file inflates to, as if it could be read at any place.

    Reading on is cheap, and so is going back by `lookback` bytes; going back further inflates it from the start.

    Args:
        stream: The compressed file; it is not closed.
        how: `gz`, `bz2` or `xz`.
        lookback: Bytes that are kept; `LOOKBACK` by default.
    """

    def __init__(self, stream: FileStream, how: str, lookback: int | None = None) -> None:
        self._stream, self._how = stream, how
        self._lookback = LOOKBACK if lookback is None else lookback
        self._most = max(_INFLATES_TO, _INFLATES_BY * stream.facts.size_bytes)
        self._position = 0
        self._start_over()

    def _start_over(self) -> None:
        self._stream.seek(0)
        self._plain = _UNPACKED[self._how](self._stream)
        self._kept: collections.deque[bytes] = collections.deque()
        self._begin = self._end = 0  # of what is kept

    def seekable(self) -> bool:
        """It is."""
        return True

    def tell(self) -> int:
        """Where it is."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place; costs nothing until it is read. `whence`: only from the start."""
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError(f"cannot go to {offset} from {whence}")
        self._position = offset
        return offset

    def read(self, size: int) -> bytes:
        """As many bytes as were asked for, less where the content ends.

        Raises:
            Rejected: TRUNCATED or CORRUPT: nothing is readable beyond here; COMPRESSION_BOMB.
            StorageError: The file cannot be read.
        """
        begin = self._position
        if begin < self._begin:
            self._start_over()
        self._inflate(begin + size, keep=begin)
        data = b"".join(self._between(begin, begin + size))
        self._position = begin + len(data)
        return data

    def _inflate(self, end: int, keep: int) -> None:
        """Inflates up to `end`; drops what is neither within the lookback nor after `keep`."""
        while self._end < end:
            chunk = self._next()
            if not chunk:
                break
            self._kept.append(chunk)
            self._end += len(chunk)
            if self._end > self._most:
                raise Rejected(
                    Reason.COMPRESSION_BOMB,
                    f"the archive has {self._stream.facts.size_bytes:,} bytes and inflates to more than {self._most:,}",
                )
            while (after := self._begin + len(self._kept[0])) <= min(keep, self._end - self._lookback):
                self._kept.popleft()
                self._begin = after

    def _next(self) -> bytes:
        try:
            return self._plain.read1(_CHUNK)
        except EOFError as error:
            raise Rejected(Reason.TRUNCATED, f"the compressed data ends early: {error}") from error
        except (OSError, zlib.error, lzma.LZMAError) as error:  # no disk's: those are StorageErrors here
            raise Rejected(Reason.CORRUPT, f"the compressed data is damaged: {error}") from error

    def _between(self, begin: int, end: int) -> Iterator[bytes]:
        at = self._begin
        for chunk in self._kept:
            if at + len(chunk) > begin and at < end:
                yield chunk[max(begin - at, 0) : end - at]
            at += len(chunk)
