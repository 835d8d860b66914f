"""Images in tar archives, WebDataset shards among them; compressed ones too."""

import tarfile
from collections.abc import Iterator
from typing import Any

from pipeline.rejection import Reason, Rejected
from pipeline.sources.members import Members, is_image_member, webdataset_key
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream, Unpacked, packing

_LONGEST_HEADER = 64 * 2**10
"""Bytes of a member's headers (long names, attributes) at most: they are parsed in memory."""

_MOST_GLOBAL_HEADERS = 1000
_LISTING_LOOKBACK = 2**20


def list_tar(stream: FileStream) -> Iterator[ImageReference]:
    """The images of an archive, in its order: members whose extension is an image's, hidden ones left out.

    Their id is the key of their WebDataset sample. Links, devices and sparse members get a fault; what follows damage
    is lost, and the last reference, to the archive itself, says so.

    Raises:
        StorageError: The file cannot be read.
    """
    members = Members(stream.path, "tar", stream.facts.version)
    headers = _Headers(_plain(stream, _LISTING_LOOKBACK))
    try:
        for member in _headers(headers):
            if not is_image_member(member.name) or member.isdir():
                continue
            yield members.named(
                member.name,
                offset=member.offset_data,
                size=member.size,
                key=webdataset_key(member.name),
                fault=_fault(member),
            )
    except Rejected as rejected:
        yield members.lost(rejected)


class OpenTar:
    """A tar archive that members are read from; of a compressed one cheaply in the order of the archive alone."""

    def __init__(self, stream: FileStream) -> None:
        self._plain = _plain(stream)

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """The bytes of a member.

        Raises:
            Rejected: TOO_MANY_BYTES, unread; TRUNCATED, CORRUPT.
            StorageError: The file cannot be read.
        """
        if reference.size_bytes > max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"a member of {reference.size_bytes:,} bytes")
        self._plain.seek(reference.offset)
        data = self._plain.read(reference.size_bytes)
        if len(data) < reference.size_bytes:
            raise Rejected(
                Reason.TRUNCATED, f"the archive ends after {len(data):,} of the member's {reference.size_bytes:,} bytes"
            )
        return data

    def close(self) -> None:
        """Nothing: the stream is its owner's."""


def _plain(stream: FileStream, lookback: int | None = None) -> FileStream | Unpacked:
    how = packing(stream.path)
    return Unpacked(stream, how, lookback) if how else stream


_DAMAGED = (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)


def _headers(headers: "_Headers") -> Iterator[tarfile.TarInfo]:
    """Every header. `tarfile`'s own iteration ends at a damaged one without a word, and keeps all of them in memory.

    Raises:
        Rejected: The rest is lost.
    """
    try:
        archive = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")
    except _DAMAGED as error:
        raise headers.damage(0, error) from error
    at = 0  # the constructor has read a header, and perhaps met the end
    while not headers.at_end_mark(at):
        try:
            member = tarfile.TarInfo.fromtarfile(archive)
        except _DAMAGED as error:
            raise headers.damage(at, error) from error
        if archive.offset <= at or member.size < 0 or len(archive.pax_headers) > _MOST_GLOBAL_HEADERS:
            raise headers.damage(at, "it contradicts itself")
        at = archive.offset
        yield member


def _fault(member: tarfile.TarInfo) -> Rejected | None:
    if member.issym() or member.islnk():
        return Rejected(Reason.NOT_A_FILE, f"a link in an archive, to {member.linkname}")
    if member.issparse():
        return Rejected(Reason.NOT_A_FILE, "a sparse member of an archive")
    if not member.isreg():
        return Rejected(Reason.NOT_A_FILE, "a device or a pipe in an archive")
    return None


class _Headers:
    """The archive as `tarfile` is shown it: no header may be endless."""

    def __init__(self, plain: FileStream | Unpacked) -> None:
        self._plain = plain
        self._left = _LONGEST_HEADER
        self._ended = False
        self.name, self.mode = "", "rb"

    def at_end_mark(self, offset: int) -> bool:
        """Goes to where a header begins, and looks whether it is the block of zeros that ends an archive."""
        self._left = _LONGEST_HEADER
        self._plain.seek(offset)
        block = self._plain.read(tarfile.BLOCKSIZE)
        self._plain.seek(offset)
        return len(block) == tarfile.BLOCKSIZE and not any(block)

    def damage(self, offset: int, error: Exception | str) -> Rejected:
        """What to say of a header that cannot be read."""
        if self._ended:
            return Rejected(Reason.TRUNCATED, f"the tar archive ends near byte {offset:,}, without an end mark")
        return Rejected(Reason.CORRUPT, f"damaged tar header at byte {offset:,} ({error}); what follows is lost")

    def tell(self) -> int:
        """Where it is."""
        return self._plain.tell()

    def seek(self, offset: int, *_: Any) -> int:
        """Goes to a place, from the start."""
        return self._plain.seek(offset)

    def read(self, size: int) -> bytes:
        """As the stream's own."""
        self._left -= size
        if self._left < 0 or size < 0:
            raise Rejected(Reason.CORRUPT, f"a tar header of more than {_LONGEST_HEADER:,} bytes; what follows is lost")
        data = self._plain.read(size)
        self._ended |= len(data) < size
        return data

    def write(self, _: bytes) -> int:
        """What the type of `tarfile` asks for."""
        raise OSError("opened for reading")

    def close(self) -> None:
        """Nothing: the stream is its owner's."""
