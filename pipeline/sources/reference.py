"""References to images, and the canonical form of addresses."""

import os
import posixpath
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.errors import SourceError
from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import FRAMES, is_web
from pipeline.sources.spelling import relative_to, spell_file
from pipeline.sources.web_address import public
from pipeline.storage.address import absolute, check_encoding, is_remote, local_path
from pipeline.storage.errors import StorageError


class ImageReference(NamedTuple):
    """The location of an image; pipelines shuffle it instead of pixels.

    Attributes:
        uri: The address of the image, which is its name in the table: an absolute local path, or `scheme://`, in the
            form of `resolve`; or a path relative to a root, see `named`. A member of a container has the address of the
            container, `#` and the name of the member (`shard.tar#cats/1.jpg`).
        id: The user's own name of the image, from a manifest or a container; empty where there is none.
        size_bytes: The size of the encoded image; -1 where it is not known before reading.
        version: A text that changes with the content (size and time of change, an ETag, a checksum), known without
            reading the image; empty where only the content tells.
        container: The file that contains the image; empty where the image is a file itself.
        kind: The kind of the container: `tar`, `zip`, `parquet`, `tfrecord`; empty without a container.
        offset: The position of the first byte in the container, or the number of the record; -1 without a container.
        fault: The reason why the listing found the image unreadable, as `str(Rejected)`; empty where it found none.
        label: The label that a manifest gives the image; empty where it gives none.
        location: The file, where `uri` is not its absolute path or `scheme://` as storage takes it; else empty. On the
            web it holds the secrets that `uri` leaves out. It is not stored.
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
    location: str = ""
    listed_by: str = ""

    def __repr__(self) -> str:
        shown = self._replace(location=public(self.location))._asdict()
        return f"ImageReference({', '.join(f'{name}={value!r}' for name, value in shown.items())})"

    @property
    def file(self) -> str:
        """The file that is opened: the image, or its container."""
        return self.container or self.location or self.uri

    def named(self, root: str = "") -> "ImageReference":
        """Returns this reference with the address that the table has for it.

        `pipeline.sources.spelling` spells files; `pipeline.sources.web_address.public` takes secrets out.
        A member of a container has its address already, and so has a file whose `location` is known.

        Args:
            root: The folder that addresses are relative to, in the form of `resolve`. A file that is not below it keeps
                its absolute address. Empty for none.
        """
        if self.container or self.location:
            return self
        uri = public(self.uri) if is_web(self.uri) else spell_file(relative_to(root, self.uri))
        return self if uri == self.uri else self._replace(uri=uri, location=self.uri)

    def rejected(self, rejected: Rejected) -> "ImageReference":
        """Returns this reference with a fault, which makes the reader reject the image."""
        return self._replace(fault=str(rejected))


def merge(references: Iterable[ImageReference]) -> ImageReference:
    """Merges the references to one address, for example from a folder and from a manifest.

    Returns the reference with the most information (a version, then a size; of two versions, the greater text), with
    the id and the label of whichever references have them. What the command line or a local list names counts before
    what a fetched list names. References to several files, which only a pipeline of the user's own can give one
    address, become a fault of that address. The operation is commutative and associative.

    Raises:
        SourceError: A list gives the address two ids or two labels; or there are no references.

    >>> merge([ImageReference("/a.jpg", id="7"), ImageReference("/a.jpg", size_bytes=12, version="12-0")])[:4]
    ('/a.jpg', '7', 12, '12-0')
    """
    candidates = list(references)
    if not candidates:
        raise SourceError("there are no references to merge")
    if len(candidates) == 1:
        return candidates[0]
    best = max(candidates, key=_information)
    # On the web, addresses that differ in their secrets only are of one image.
    files = {(one.container != "", public(one.file)) for one in candidates}
    if len(files) > 1 or any(one.fault == _SEVERAL_FILES for one in candidates):
        return best._replace(id="", label="", fault=_SEVERAL_FILES)
    if best.container and best.kind != FRAMES:  # it names its members itself, and may have changed between two listings
        return best
    ident = _only("id", candidates[0].uri, (reference.id for reference in candidates))
    label = _only("label", candidates[0].uri, (reference.label for reference in candidates))
    return best._replace(id=ident, label=label)


def _information(one: ImageReference) -> tuple[object, ...]:
    """Returns what tells references to one address apart, the most telling first."""
    file = (one.container, one.kind, one.location, one.id if one.container else "")
    # What the user names is allowed, whatever a fetched list may name.
    return (
        one.listed_by == "",
        one.version != "",
        one.version,
        one.size_bytes,
        one.offset,
        *file,
        one.fault,
        one.listed_by,
    )


_SEVERAL_FILES = str(Rejected(Reason.UNREADABLE, "several files have this address"))


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
        SourceError: The address is empty or malformed; or this process does not read file names as UTF-8.

    >>> resolve("cats/1.jpg", "s3://bucket/lists"), resolve("../cats/1.jpg", "/lists/today")
    ('s3://bucket/lists/cats/1.jpg', '/lists/cats/1.jpg')
    """
    try:
        check_encoding()
    except StorageError as error:
        raise SourceError(error.what, why=error.why, remedy=error.remedy) from error
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
