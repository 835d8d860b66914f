"""Images in zip archives."""

import contextlib
import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator

from pipeline.rejection import Reason, Rejected
from pipeline.sources.members import Members, is_image_member
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream, check_inflation, most_inflated

_LARGEST_DIRECTORY = 128 * 2**20
"""The largest size of an archive's directory in bytes (about two million members): it is held in memory."""

_BYTES_OF_A_MEMBER = 700
"""The memory of an entry of the directory, as `zipfile` holds it."""

_STEP = 2**20
_SMALL_STEP = 4096

_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA})
_ENCRYPTED = 0x1
_LOCAL_HEADER = b"PK\x03\x04"


def list_zip(stream: FileStream) -> Iterator[ImageReference]:
    """Yields the images of an archive in the order of its directory: members with the extension of an image.

    Hidden members are left out. Links, encrypted members and unknown compression methods get a fault. An archive whose
    directory cannot be read (a truncated one has none) gives one reference, to the archive itself.

    Raises:
        StorageError: The file cannot be read.
    """
    members = Members(stream.path, "zip", stream.facts.version)
    try:
        with _open(stream) as archive:
            # Members may lie on one another, so that each is small for what it inflates to and all are not.
            inflated = sum(member.file_size for member in archive.infolist())
            if inflated > most_inflated(stream.facts.size_bytes):
                detail = f"the archive has {stream.facts.size_bytes:,} bytes and inflates to {inflated:,}"
                raise Rejected(Reason.COMPRESSION_BOMB, detail)
            for member in archive.infolist():
                if is_image_member(member.filename) and not member.is_dir():  # is_dir fails for an empty name
                    yield members.named(
                        member.filename,
                        offset=member.header_offset,
                        size=member.file_size,
                        version=_version(member),
                        fault=_fault(member, stream.facts.size_bytes),
                    )
    except Rejected as rejected:
        yield members.lost(rejected)


class OpenZip:
    """Reads the members of a zip archive."""

    def __init__(self, stream: FileStream) -> None:
        self._archive = _open(stream)
        self._members = {member.header_offset: member for member in self._archive.infolist()}

    @property
    def held_bytes(self) -> int:
        """The memory that the directory takes."""
        return _BYTES_OF_A_MEMBER * len(self._members)

    def holds(self, reference: ImageReference) -> bool:
        """Returns whether a member still has its position, size and checksum from the listing."""
        member = self._members.get(reference.offset)
        return member is not None and _version(member) == reference.version

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """Returns the bytes of a member, verified by checksum. Decompresses no more than the directory declares.

        Raises:
            Rejected: TOO_MANY_BYTES, before reading; CORRUPT, TRUNCATED; UNREADABLE: the archive changed after listing.
            StorageError: The file cannot be read.
        """
        if not self.holds(reference):
            raise Rejected(Reason.UNREADABLE, "the archive changed after it was listed")
        member = self._members[reference.offset]
        if member.file_size > max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"a member of {member.file_size:,} bytes")
        check_inflation("the member", member.compress_size, member.file_size)
        # `zipfile` does not limit the output of bzip2 and LZMA, so these get small pieces to decompress.
        step = _STEP if member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) else _SMALL_STEP
        with _damage(), self._archive.open(member) as file:
            # Reads to the end, where zipfile verifies the checksum.
            data = b"".join(iter(lambda: file.read(step), b""))
        if len(data) < member.file_size:
            raise Rejected(Reason.CORRUPT, f"zip: {len(data):,} bytes, but the directory declares {member.file_size:,}")
        return data

    def close(self) -> None:
        """Closes the archive, but not its stream."""
        self._archive.close()


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise Rejected(Reason.TRUNCATED, "the archive ends within a member") from error
    except RuntimeError as error:  # a password is needed, or a compression method is missing
        raise Rejected(Reason.UNREADABLE, str(error)) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, ValueError) as error:
        raise Rejected(Reason.CORRUPT, f"zip: {error}") from error


def _open(stream: FileStream) -> zipfile.ZipFile:
    stream.seek(0)
    beginning = stream.read(len(_LOCAL_HEADER))
    try:
        with _damage():
            return zipfile.ZipFile(_Bounded(stream))
    except Rejected as rejected:
        if rejected.reason is Reason.CORRUPT and beginning == _LOCAL_HEADER:
            detail = f"{rejected.detail}; the directory at the end of the archive is damaged, or cut off"
            raise Rejected(Reason.TRUNCATED if "not a zip" in detail else Reason.CORRUPT, detail) from rejected
        raise


def _version(member: zipfile.ZipInfo) -> str:
    return f"{member.CRC:08x}-{member.file_size}"


def _fault(member: zipfile.ZipInfo, archive_size: int) -> Rejected | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return Rejected(Reason.NOT_A_FILE, "a link in an archive")
    if kind not in (0, stat.S_IFREG):
        return Rejected(Reason.NOT_A_FILE, "a device or a pipe in an archive")
    if member.flag_bits & _ENCRYPTED:
        return Rejected(Reason.UNREADABLE, "the member is encrypted")
    if member.compress_type not in _METHODS:
        return Rejected(Reason.UNREADABLE, f"the member is compressed by method {member.compress_type}")
    try:
        check_inflation("the member", min(member.compress_size, archive_size), member.file_size)
    except Rejected as bomb:
        return bomb
    return None


class _Bounded:
    """The archive as `zipfile` reads it, with a limit on the size of the directory."""

    def __init__(self, stream: FileStream) -> None:
        self._stream = stream
        self._size = stream.facts.size_bytes
        self.seekable, self.tell = stream.seekable, stream.tell

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves to a position and returns it.

        Raises:
            OSError: The position is negative, which is a fault of the archive and not of the disk.
        """
        position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.tell(), io.SEEK_END: self._size}[whence]
        if position < 0:
            raise OSError(f"it points to byte {position:,}")
        return self._stream.seek(position)

    def read(self, size: int = -1) -> bytes:
        """Returns `size` bytes, or the rest where `size` is negative.

        Raises:
            ValueError: The directory is larger than the limit.
        """
        requested = size if size >= 0 else self._size - self.tell()
        if requested > _LARGEST_DIRECTORY:
            raise ValueError(f"a directory of {requested:,} bytes; the limit is {_LARGEST_DIRECTORY:,}")
        return self._stream.read(max(requested, 0))
