"""Containers as streams of bytes: a file as it is, and the decompressed content of a file.

Both raise `StorageError` where the storage fails, and `Rejected` where the content is at fault, so that the readers of
formats can tell a bad disk from a bad archive.
"""

from __future__ import annotations

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
from typing import IO, TYPE_CHECKING, cast

from pipeline.rejection import Reason, Rejected
from pipeline.storage.address import is_remote
from pipeline.storage.errors import MissingFileError, StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.local import local_facts
from pipeline.storage.options import StorageOptions
from pipeline.storage.store import FileFacts

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

LOOKBACK = 16 * 2**20
"""The decompressed bytes to keep, so that threads that read slightly out of order do not restart the decompression."""

_CHUNK = 256 * 2**10
_INFLATES_TO = 256 * 2**20
_INFLATES_BY = 200
"""An archive may decompress to `_INFLATES_TO` bytes, or to `_INFLATES_BY` times its size if that is more."""

_PART_INFLATES_TO = 64 * 2**20
"""`_INFLATES_TO` of a part of a file that is inflated in one piece."""


def most_inflated(packed: int) -> int:
    """Returns the most bytes that a compressed stream of `packed` bytes may inflate to.

    >>> most_inflated(1) == 2**28, most_inflated(2**30) == 200 * 2**30
    (True, True)
    """
    return max(_INFLATES_TO, _INFLATES_BY * packed)


def most_of_part(packed: int) -> int:
    """Returns the most bytes that a part of a file may inflate to: a member, a page or an answer of `packed` bytes."""
    return max(_PART_INFLATES_TO, _INFLATES_BY * packed)


def check_inflation(what: str, packed: int, inflated: int) -> None:
    """Checks a part of a file that is inflated in one piece.

    Args:
        what: What the part is, for the message.
        packed: Its bytes in the file.
        inflated: The bytes that it says to inflate to.

    Raises:
        Rejected: COMPRESSION_BOMB: it inflates to far more bytes than images do.

    >>> check_inflation("a member", 2**20, 2**26)
    """
    if inflated > most_of_part(packed):
        raise Rejected(Reason.COMPRESSION_BOMB, f"{what} has {packed:,} bytes and inflates to {inflated:,}")


class FileStream(io.RawIOBase):
    """A file, opened for reading at any position.

    Attributes:
        path: A local path or `scheme://`.
        facts: The size and version of the file when it was opened.

    Raises:
        StorageError: As `Store.open_stream`; all methods raise it too.
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
        """Returns the current facts: of the open file where it is local, otherwise of the file now at its address."""
        if is_remote(self.path):
            facts = self._store.facts(self.path)
            if facts is None:
                raise MissingFileError("the file no longer exists", where=self.path)
            return facts
        with self._store.reading(self.path):
            return local_facts(os.fstat(self._file.fileno()))

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position, at most to the end, and returns it."""
        with self._store.reading(self.path):
            # An offset from a hostile header may overflow, or be refused by the file system.
            return self._file.seek(min(offset, self.facts.size_bytes), whence)

    def tell(self) -> int:
        """Returns the position, in bytes from the start."""
        with self._store.reading(self.path):
            return self._file.tell()

    def read(self, size: int | None = -1) -> bytes:
        """Returns `size` bytes, and fewer only at the end of the file."""
        with self._store.reading(self.path):
            return self._file.read(-1 if size is None else size)

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Reads into `buffer` and returns the number of bytes, see `io.RawIOBase`."""
        target = memoryview(buffer).cast("B")
        data = self.read(len(target))
        target[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Closes the file."""
        if not self.closed:
            # The file is open for reading only, so an error here loses nothing.
            with contextlib.suppress(StorageError), self._store.reading(self.path):
                self._file.close()
        super().close()


_UNPACKED: dict[str, Callable[[FileStream], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),
    "bz2": bz2.BZ2File,
    "xz": lambda file: lzma.LZMAFile(cast("IO[bytes]", file)),  # noqa: SIM115 - the caller closes it
}
_ENDINGS = {".gz": "gz", ".tgz": "gz", ".bz2": "bz2", ".tbz": "bz2", ".tbz2": "bz2", ".xz": "xz", ".txz": "xz"}


_MARKS = {b"\x1f\x8b\x08": "gz", b"BZh": "bz2", b"\xfd7zXZ\x00": "xz"}


def packing(path: str) -> str:
    """Returns the compression of a file by its name: `gz`, `bz2`, `xz`, or empty.

    >>> packing("a.tar"), packing("b.TGZ")
    ('', 'gz')
    """
    return _ENDINGS.get(posixpath.splitext(path)[1].lower(), "")


def packing_by_content(beginning: bytes) -> str:
    """Returns the compression of a file by its first bytes: `gz`, `bz2`, `xz`, or empty.

    >>> packing_by_content(b"BZh91AY&SY"), packing_by_content(b"PAR1")
    ('bz2', '')
    """
    return next((packing for mark, packing in _MARKS.items() if beginning.startswith(mark)), "")


class Unpacked:
    """The decompressed content of a file, readable at any position.

    Reading on is cheap, and so is going back by up to `lookback` bytes. Going back further restarts the decompression.

    Args:
        stream: The compressed file, which this class does not close.
        how: The compression: `gz`, `bz2` or `xz`.
        lookback: The number of bytes to keep; `LOOKBACK` by default.
    """

    def __init__(self, stream: FileStream, how: str, lookback: int | None = None) -> None:
        self._stream, self._how = stream, how
        self._lookback = LOOKBACK if lookback is None else lookback
        self._most = most_inflated(stream.facts.size_bytes)
        self._position = 0
        self._start_over()

    @property
    def held_bytes(self) -> int:
        """The decompressed bytes that are kept."""
        return self._end - self._begin

    def _start_over(self) -> None:
        self._stream.seek(0)
        self._plain = _UNPACKED[self._how](self._stream)
        self._kept: collections.deque[bytes] = collections.deque()
        self._begin = self._end = 0  # of the kept bytes

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position, in bytes from the start."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position from the start and returns it. The next read does the work.

        Raises:
            ValueError: `whence` is not `io.SEEK_SET`, or the offset is negative.
        """
        if whence != io.SEEK_SET or offset < 0:
            raise ValueError(f"cannot go to {offset} from {whence}")
        self._position = offset
        return offset

    def read(self, size: int) -> bytes:
        """Returns `size` bytes, and fewer only at the end of the content.

        Raises:
            Rejected: TRUNCATED or CORRUPT: the content beyond this position is lost; COMPRESSION_BOMB.
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
        """Decompresses up to `end`. Drops bytes that are before `keep` and outside the lookback."""
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
        except (
            OSError,
            zlib.error,
            lzma.LZMAError,
        ) as error:  # of the content: FileStream raises StorageError for the disk
            raise Rejected(Reason.CORRUPT, f"the compressed data is damaged: {error}") from error

    def _between(self, begin: int, end: int) -> Iterator[bytes]:
        position = self._begin
        for chunk in self._kept:
            if position + len(chunk) > begin and position < end:
                yield chunk[max(begin - position, 0) : end - position]
            position += len(chunk)
