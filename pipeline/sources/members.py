"""Members of containers: their addresses, and what their names may be."""

import hashlib
import re
from collections.abc import Mapping

from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import Kind, is_image_below
from pipeline.sources.reference import ImageReference

LONGEST_NAME = 4096
"""Characters of a member's name or id at most, as of a path."""

_SEPARATOR = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")


class Members:
    """Makes the references to the members of one container, each with an address of its own.

    Args:
        path: The container's address.
        kind: How it is read.
        version: The container's.

    The first member of a name is `path#name`, later ones `path#name@offset`. Of every name 8 bytes are remembered
    (about 70 bytes of memory), as long as the container is being listed.
    """

    def __init__(self, path: str, kind: Kind, version: str) -> None:
        self.path, self.kind, self.version = path, kind, version
        self._seen: set[int] = set()

    def named(
        self, name: str, *, offset: int, size: int, key: str = "", version: str = "", fault: Rejected | None = None
    ) -> ImageReference:
        """A member with a name.

        Args:
            name: As it is stored.
            offset: Where it is in the container.
            size: In bytes.
            key: Its id, if it has one.
            version: Its own; the container's and the offset if empty.
            fault: Why it cannot be read. A name that is not safe goes before.
        """
        fault = unsafe(name) or fault
        if len(name) > LONGEST_NAME:
            name = ""
        member = f"{name}@{offset}" if not name or self._is_known(name) else name
        return self._reference(member, "" if fault else key, offset, size, version, fault)

    def numbered(self, number: int, *, offset: int, size: int, key: str, fault: Rejected | None) -> ImageReference:
        """A member without a name: a row or a record, counted from 0; the other arguments as for `named`."""
        if len(key) > LONGEST_NAME:
            fault, key = fault or Rejected(Reason.UNSAFE_NAME, f"its id has {len(key):,} characters"), ""
        return self._reference(str(number), key, offset, size, "", fault)

    def lost(self, rejected: Rejected) -> ImageReference:
        """The container itself, for what is lost of it."""
        return ImageReference(self.path, version=self.version, fault=str(rejected))

    def _reference(
        self, member: str, key: str, offset: int, size: int, version: str, fault: Rejected | None
    ) -> ImageReference:
        if not version and self.version:
            version = f"{self.version}@{offset}"
        return ImageReference(
            f"{self.path}#{member}",
            printable(key),
            size,
            version,
            self.path,
            self.kind,
            offset,
            str(fault) if fault else "",
        )

    def _is_known(self, name: str) -> bool:
        digest = hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        number = int.from_bytes(digest, "big")
        known = number in self._seen
        self._seen.add(number)
        return known


def is_image_member(name: str) -> bool:
    """Whether a member of this name is one of its archive's images; one with an unsafe name is, and gets a rejection.

    >>> is_image_member("./a/b.jpg"), is_image_member("../b.jpg"), is_image_member("a/._b.jpg")
    (True, True, False)
    """
    names = [part for part in _SEPARATOR.split(name) if part not in ("", ".", "..")]
    return is_image_below("/".join(names))


def unsafe(name: str) -> Rejected | None:
    """What is wrong with a member's name, if anything. Nothing is ever extracted here; others may."""
    if len(name) > LONGEST_NAME:
        return Rejected(Reason.UNSAFE_NAME, f"its name has {len(name):,} characters")
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return Rejected(Reason.UNSAFE_NAME, "its name is an absolute path")
    if ".." in _SEPARATOR.split(name):
        return Rejected(Reason.UNSAFE_NAME, "its name leads out of the archive")
    return None


def webdataset_key(name: str) -> str:
    """The key that the members of a WebDataset sample share: the path up to the first dot of the base name.

    >>> webdataset_key("./train/0001.left.jpg")
    'train/0001'
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return folder + slash + base.partition(".")[0]


def printable(key: str) -> str:
    """An id that can be stored as UTF-8; bytes of a name that are not are written as escapes."""
    return key.encode("utf-8", "backslashreplace").decode()


def first_of(names: tuple[str, ...], there: Mapping[str, object]) -> str | None:
    """The first of some names that is there."""
    return next((name for name in names if name in there), None)
