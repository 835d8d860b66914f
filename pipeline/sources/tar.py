"""Images in tar archives, including compressed ones and WebDataset shards."""

import re
import tarfile
from collections.abc import Iterator

from pipeline.rejection import Reason, Rejected
from pipeline.sources.members import Members, is_image_member, webdataset_key
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream, Unpacked, packing, packing_by_content

HEADER_BYTES = tarfile.BLOCKSIZE

_LONGEST_HEADER = 64 * 2**10
"""The largest size of a member's headers (long names, attributes) in bytes: they are parsed in memory."""

_MOST_GLOBAL_HEADERS = 1000
_MANY_DIGITS = re.compile(rb"[0-9]{1000}")
_LISTING_LOOKBACK = 2**20


def list_tar(stream: FileStream) -> Iterator[ImageReference]:
    """Yields the images of an archive in its order: members with the extension of an image, without hidden ones.

    The id is the key of the WebDataset sample. Links, devices and sparse members get a fault. Damage loses all members
    after it: the last reference, to the archive itself, then has a fault.

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
    """Reads the members of a tar archive. Reading a compressed one is cheap in the order of the archive only."""

    def __init__(self, stream: FileStream) -> None:
        self._plain = _plain(stream)

    @property
    def held_bytes(self) -> int:
        """The memory for content that was decompressed."""
        return self._plain.held_bytes if isinstance(self._plain, Unpacked) else 0

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """Returns the bytes of a member.

        Raises:
            Rejected: TOO_MANY_BYTES, before reading; TRUNCATED, CORRUPT.
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
        """Does nothing: the owner of the stream closes it."""


def _plain(stream: FileStream, lookback: int | None = None) -> FileStream | Unpacked:
    """Returns the archive without compression; its content tells which it has, or else its name."""
    stream.seek(0)
    beginning = stream.read(HEADER_BYTES)
    stream.seek(0)
    how = "" if is_tar_header(beginning) else packing_by_content(beginning) or packing(stream.path)
    return Unpacked(stream, how, lookback) if how else stream


_DAMAGED = (tarfile.TarError, ValueError, OverflowError, IndexError, RecursionError)


def is_tar_header(block: bytes) -> bool:
    """Returns whether a block is a header of a tar archive with the right checksum."""
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except _DAMAGED:
        return False
    return True


def _headers(headers: "_Headers") -> Iterator[tarfile.TarInfo]:
    """Yields every header. `tarfile`'s own iteration ends silently at a damaged one, and keeps them all in memory.

    Raises:
        Rejected: A header is damaged, so the rest of the archive is lost.
    """
    try:
        archive = tarfile.TarFile(fileobj=headers, encoding="utf-8", errors="surrogateescape")
    except _DAMAGED as error:
        raise headers.damage(0, error) from error
    offset = 0  # the constructor has read a header already, and may have met the end
    while not headers.at_end_mark(offset):
        try:
            member = tarfile.TarInfo.fromtarfile(archive)
        except _DAMAGED as error:
            raise headers.damage(offset, error) from error
        if archive.offset <= offset or member.size < 0 or len(archive.pax_headers) > _MOST_GLOBAL_HEADERS:
            raise headers.damage(offset, "it contradicts itself")
        offset = archive.offset
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
    """The archive as `tarfile` reads it, with a limit on the size of each header."""

    def __init__(self, plain: FileStream | Unpacked) -> None:
        self._plain = plain
        self._left = _LONGEST_HEADER
        self._ended = False
        self.name, self.mode = "", "rb"

    def at_end_mark(self, offset: int) -> bool:
        """Moves to a header, and returns whether it is the block of zeros that ends an archive."""
        self._left = _LONGEST_HEADER
        self._plain.seek(offset)
        block = self._plain.read(tarfile.BLOCKSIZE)
        self._plain.seek(offset)
        return len(block) == tarfile.BLOCKSIZE and not any(block)

    def damage(self, offset: int, error: Exception | str) -> Rejected:
        """Returns the rejection for a header that cannot be read."""
        if self._ended:
            return Rejected(Reason.TRUNCATED, f"the tar archive ends near byte {offset:,}, without an end mark")
        return Rejected(Reason.CORRUPT, f"damaged tar header at byte {offset:,} ({error}); what follows is lost")

    def tell(self) -> int:
        """Returns the position, in bytes from the start."""
        return self._plain.tell()

    def seek(self, offset: int, *_: object) -> int:
        """Moves to a position from the start and returns it."""
        return self._plain.seek(offset)

    def read(self, size: int) -> bytes:
        """Returns `size` bytes, and fewer only at the end.

        Raises:
            Rejected: CORRUPT: the header is longer than the limit.
        """
        self._left -= size
        if self._left < 0 or size < 0:
            raise Rejected(Reason.CORRUPT, f"a tar header of more than {_LONGEST_HEADER:,} bytes; what follows is lost")
        data = self._plain.read(size)
        self._ended |= len(data) < size
        # Only blocks of attributes and long names are longer; `tarfile` searches them in quadratic time.
        if size > tarfile.BLOCKSIZE and _MANY_DIGITS.search(data):
            raise Rejected(Reason.CORRUPT, "a tar header with a number of 1,000 digits or more; what follows is lost")
        return data

    def write(self, _: bytes) -> int:
        """Raises OSError; `tarfile`'s protocol needs the method."""
        raise OSError("opened for reading")

    def close(self) -> None:
        """Does nothing: the owner of the stream closes it."""
