"""Members of containers: their addresses, and the rules for their names."""

import hashlib
import re
from collections.abc import Mapping

from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import Kind, is_image_below
from pipeline.sources.reference import ImageReference
from pipeline.sources.spelling import spell

LONGEST_NAME = 4096
"""The largest length of a member's name or id in characters, as for a path."""

_SEPARATOR = re.compile(r"[/\\]")
_DRIVE = re.compile(r"[A-Za-z]:")


class Members:
    """Creates the references to the members of one container, each with its own address.

    The first member with a name has the address `path#name`, later ones have `path#name@offset`; names are spelled as
    `pipeline.sources.spelling` says. An object holds a digest of 8 bytes for every name (about 70 bytes of memory).

    Args:
        path: The address of the container.
        kind: The kind of the container.
        version: The version of the container.
    """

    def __init__(self, path: str, kind: Kind, version: str) -> None:
        self.path, self.kind, self.version = path, kind, version
        self._seen: set[int] = set()

    def named(
        self, name: str, *, offset: int, size: int, key: str = "", version: str = "", fault: Rejected | None = None
    ) -> ImageReference:
        """Returns the reference to a member with a name.

        Args:
            name: The name in the container.
            offset: The position of the member in the container, in bytes.
            size: The size of the member in bytes.
            key: The id of the member; empty if it has none.
            version: The version of the member; if empty, made from the container's version and the offset.
            fault: Why the member cannot be read. An unsafe name takes precedence.
        """
        fault = unsafe(name) or fault
        if len(name) > LONGEST_NAME:
            name = ""
        member = f"{name}@{offset}" if not name or self._is_known(name) else name
        key = "" if fault else key
        return self._reference(member, key, offset=offset, size=size, version=version, fault=fault)

    def numbered(self, number: int, *, offset: int, size: int, key: str, fault: Rejected | None) -> ImageReference:
        """Returns the reference to a row or record by its number from 0; the other arguments are those of `named`."""
        if len(key) > LONGEST_NAME:
            fault, key = fault or Rejected(Reason.UNSAFE_NAME, f"its id has {len(key):,} characters"), ""
        return self._reference(str(number), key, offset=offset, size=size, version="", fault=fault)

    def lost(self, rejected: Rejected) -> ImageReference:
        """Returns a reference to the container itself, which stands for the members that cannot be listed."""
        return ImageReference(self.path, version=self.version, fault=str(rejected))

    def _reference(
        self, member: str, key: str, *, offset: int, size: int, version: str, fault: Rejected | None
    ) -> ImageReference:
        if not version and self.version:
            version = f"{self.version}@{offset}"
        return ImageReference(
            f"{self.path}#{spell(member)}",
            to_valid_utf8(key),
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
    """Returns whether a member is an image by its name. An unsafe name counts too, so that it gives a rejection.

    >>> is_image_member("./a/b.jpg"), is_image_member("../b.jpg"), is_image_member("a/._b.jpg")
    (True, True, False)
    """
    names = [part for part in _SEPARATOR.split(name) if part not in ("", ".", "..")]
    return is_image_below("/".join(names))


def unsafe(name: str) -> Rejected | None:
    """Returns why a member's name is unsafe for programs that extract it (densecast does not); None if it is safe."""
    if len(name) > LONGEST_NAME:
        return Rejected(Reason.UNSAFE_NAME, f"its name has {len(name):,} characters")
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return Rejected(Reason.UNSAFE_NAME, "its name is an absolute path")
    if ".." in _SEPARATOR.split(name):
        return Rejected(Reason.UNSAFE_NAME, "its name leads out of the archive")
    return None


def webdataset_key(name: str) -> str:
    """Returns the key that the members of a WebDataset sample share: the path up to the first dot of the base name.

    >>> webdataset_key("./train/0001.left.jpg")
    'train/0001'
    """
    folder, slash, base = name.removeprefix("./").rpartition("/")
    return folder + slash + base.partition(".")[0]


def to_valid_utf8(key: str) -> str:
    """Returns `key` with everything that UTF-8 cannot encode written as backslash escapes."""
    return key.encode("utf-8", "backslashreplace").decode()


def first_of(names: tuple[str, ...], mapping: Mapping[str, object]) -> str | None:
    """Returns the first of `names` that `mapping` contains; None where it contains none of them."""
    return next((name for name in names if name in mapping), None)
