"""References to images, and the canonical form of addresses."""

import os
import posixpath
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.errors import SourceError
from pipeline.rejection import Rejected
from pipeline.sources.web_address import public
from pipeline.storage.address import absolute, is_remote, local_path
from pipeline.storage.errors import StorageError


class ImageReference(NamedTuple):
    """The location of an image; pipelines shuffle it instead of pixels.

    Attributes:
        uri: The address of the image, which is its name in the table: an absolute local path, or `scheme://`, in the
            form of `resolve`. A member of a container has the address of the container, `#` and the name of the member
            (`shard.tar#cats/1.jpg`).
        id: The user's own name of the image, from a manifest or a container; empty where there is none.
        size_bytes: The size of the encoded image; -1 where it is not known before reading.
        version: A text that changes with the content (size and time of change, an ETag, a checksum), known without
            reading the image; empty where only the content tells.
        container: The file that contains the image; empty where the image is a file itself.
        kind: The kind of the container: `tar`, `zip`, `parquet`, `tfrecord`; empty without a container.
        offset: The position of the first byte in the container, or the number of the record; -1 without a container.
        fault: The reason why the listing found the image unreadable, as `str(Rejected)`; empty where it found none.
        label: The label that a manifest gives the image; empty where it gives none.
        address: The address on the web that the image is fetched from, where it holds a secret that `uri` leaves out
            (see `pipeline.sources.web_address.public`); otherwise empty. It is not stored.
        listed_by: The root (`scheme://host`) of the fetched list that names the image, whose addresses are limited (see
            `pipeline.sources.permissions`); empty where the command line or a local list names it.
    """

    uri: str
    id: str = ""
    size_bytes: int = -1
    version: str = ""
    container: str = ""
    kind: str = ""
    offset: int = -1
    fault: str = ""
    label: str = ""
    address: str = ""
    listed_by: str = ""

    def __repr__(self) -> str:
        fields = zip(self._fields, self, strict=True)
        shown = ", ".join(f"{name}={value!r}" for name, value in fields if name != "address")
        return f"ImageReference({shown}{', address=***' if self.address else ''})"

    def without_secrets(self) -> "ImageReference":
        """Returns this reference with an address as its name that may be stored and shown."""
        name = public(self.uri)
        return self if name == self.uri else self._replace(uri=name, address=self.address or self.uri)

    def rejected(self, rejected: Rejected) -> "ImageReference":
        """Returns this reference with a fault, which makes the reader reject the image."""
        return self._replace(fault=str(rejected))


def merge(references: Iterable[ImageReference]) -> ImageReference:
    """Merges the references to one address, for example from a folder and from a manifest.

    Returns the reference with the most information (a version, then a size; of two versions, the greater text), with
    the id and the label of whichever references have them. What the command line or a local list names counts before
    what a fetched list names. The operation is commutative and associative.

    Raises:
        SourceError: The address has two ids or two labels, or names both a file and a member of an archive; two
            addresses have the same spelling in the table; or there are no references.

    >>> merge([ImageReference("/a.jpg", id="7"), ImageReference("/a.jpg", size_bytes=12, version="12-0")])[:4]
    ('/a.jpg', '7', 12, '12-0')
    """
    candidates = list(references)
    if not candidates:
        raise SourceError("there are no references to merge")
    if len(names := sorted({ascii(reference.uri) for reference in candidates})) > 1:
        raise SourceError(
            f"{names[0]} and {names[1]} have the same name in the table",
            why="the table spells bytes that are not UTF-8 with backslashes",
            remedy="rename one of the two files",
        )
    ident = _only("id", candidates[0].uri, (reference.id for reference in candidates))
    label = _only("label", candidates[0].uri, (reference.label for reference in candidates))
    if len({(reference.container, reference.kind) for reference in candidates}) > 1:
        raise SourceError(
            "is the address both of a file and of a member of an archive beside it",
            where=candidates[0].uri,
            why="an address stands for one image",
            remedy="rename the file, or leave one of the two out",
        )
    # What the user names is allowed, whatever a fetched list may name.
    named = [reference for reference in candidates if not reference.listed_by] or candidates
    best = max(
        named,
        key=lambda one: (
            *(one.version != "", one.version, one.size_bytes, one.offset, one.fault),
            *(one.address, one.listed_by),
        ),
    )
    return best._replace(id=ident, label=label)


def _only(name: str, uri: str, values: Iterable[str]) -> str:
    """Returns the one value that is not empty; an empty one where there is none."""
    distinct = sorted(set(values) - {""})
    if len(distinct) > 1:
        raise SourceError(
            f"listed with the {name} {distinct[0]!r} and with {distinct[1]!r}",
            where=uri,
            why=f"an image has one row, which holds one {name}",
            remedy=f"keep one of the two lines in the manifests, or leave the column {name} out",
        )
    return distinct[0] if distinct else ""


def resolve(address: str, folder: str = "") -> str:
    """Returns `address` in the canonical form that is compared, stored and sent to workers.

    A local address becomes absolute and loses `file://`, `~`, `.` and `..`; symbolic links stay, except before `..`,
    where they are resolved. A remote address stays unchanged, because object stores give these characters no special
    meaning.

    Args:
        address: A path, a pattern, or `scheme://`.
        folder: The folder that a relative address is relative to, local or `scheme://`; empty for the current folder.

    Raises:
        SourceError: The address is empty or malformed.

    >>> resolve("cats/1.jpg", "s3://bucket/lists"), resolve("../cats/1.jpg", "/lists/today")
    ('s3://bucket/lists/cats/1.jpg', '/lists/cats/1.jpg')
    """
    if not address.strip() or "\0" in address:
        raise SourceError(f"{address!r} is not an address", remedy="give a file, a folder, a pattern or scheme://")
    try:
        os.fsencode(address)  # a name may consist of any bytes, but not of half a surrogate pair
    except UnicodeEncodeError as error:
        raise SourceError(f"{address!r} is not an address: {error.reason}", remedy="write it as UTF-8") from error
    if is_remote(address):
        return address
    try:
        path = local_path(address).expanduser()
    except StorageError as error:
        raise SourceError(error.what, where=address, remedy=error.remedy) from error
    except RuntimeError as error:  # ~somebody
        raise SourceError(str(error), where=address, remedy="write the folder out") from error
    if is_remote(folder) and not path.is_absolute():
        scheme, _, rest = folder.partition("://")
        # The bucket is the root: `..` does not lead out of it.
        bucket, _, key = rest.partition("/")
        return f"{scheme}://{bucket}{posixpath.normpath(posixpath.join('/', key, path.as_posix()))}"
    return absolute(folder / path)
