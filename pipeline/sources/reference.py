"""References to images, and the one form in which addresses are written."""

import os
import posixpath
from collections.abc import Iterable
from typing import NamedTuple

from pipeline.errors import SourceError
from pipeline.rejection import Rejected
from pipeline.storage.address import is_remote, local_path
from pipeline.storage.errors import StorageError


class ImageReference(NamedTuple):
    """Where an image is; what is shuffled instead of its pixels.

    Attributes:
        uri: The image's address, its name in the table: an absolute local path, or `scheme://`, as `resolve` writes it;
            of a member of a container the container's address, `#` and the member (`shard.tar#cats/1.jpg`).
        id: The user's own name of the image, from a manifest or a container; empty where there is none.
        size_bytes: Size of the image file, or -1 where it is not known before reading.
        version: Text that changes when the content does (size and time of change, an ETag, a checksum), known without
            reading the image; empty where nothing is known, and the content has to be looked at.
        container: The file that holds the image; empty where the image is a file of its own.
        kind: How the container is read: `tar`, `zip`, `parquet`, `tfrecord`; empty where there is none.
        offset: Where in the container: of the first byte, or the number of the record; -1 where there is none.
        fault: Why the image cannot be read, where listing found that out, as `str(Rejected)` has it; mostly empty.
    """

    uri: str
    id: str = ""
    size_bytes: int = -1
    version: str = ""
    container: str = ""
    kind: str = ""
    offset: int = -1
    fault: str = ""

    def rejected(self, rejected: Rejected) -> "ImageReference":
        """This reference with a fault, for the reader to reject in a row of its own."""
        return self._replace(fault=str(rejected))


def merge(references: Iterable[ImageReference]) -> ImageReference:
    """The one reference to an address that a folder and a manifest, say, both name.

    The one that knows most stays (a version, then a size; of two versions the greater in the order of text), with the
    id of whichever has one. The order of the references does not matter, nor whether some were merged before.

    Raises:
        SourceError: The address has two ids, or is both a file's and an archive member's; two addresses are one in the
            table; or nothing is given.

    >>> merge([ImageReference("/a.jpg", id="7"), ImageReference("/a.jpg", size_bytes=12, version="12-0")])
    ImageReference(uri='/a.jpg', id='7', size_bytes=12, version='12-0', container='', kind='', offset=-1, fault='')
    """
    found = list(references)
    if not found:
        raise SourceError("no reference to merge")
    if len(names := sorted({ascii(reference.uri) for reference in found})) > 1:
        raise SourceError(
            f"{names[0]} and {names[1]} have one name in the table, where what is no UTF-8 is spelled with backslashes",
            remedy="rename one of the two files",
        )
    ids = sorted({reference.id for reference in found if reference.id})
    if len(ids) > 1:
        raise SourceError(
            f"listed as {ids[0]!r} and as {ids[1]!r}",
            where=found[0].uri,
            why="one image has one id, and one map",
            remedy="keep one of the two lines in the manifests",
        )
    if len({(reference.container, reference.kind) for reference in found}) > 1:
        raise SourceError(
            "the name of a file, and of a member of an archive beside it",
            where=found[0].uri,
            why="one address means one image",
            remedy="rename the file, or leave one of the two out",
        )
    best = max(found, key=lambda it: (it.version != "", it.version, it.size_bytes, it.offset, it.fault))
    return best._replace(id=ids[0] if ids else "")


def resolve(address: str, folder: str = "") -> str:
    """`address` in the form in which images are compared, stored and sent to workers.

    Local ones become absolute and lose `file://`, `~`, `.` and `..` (symbolic links stay); remote ones keep theirs,
    since an object store takes every character of a name at its word.

    Args:
        address: A path, a pattern, or `scheme://`.
        folder: What a relative address is relative to, local or `scheme://`; the current folder if empty.

    Raises:
        SourceError: The address is empty or cannot be one.

    >>> resolve("cats/1.jpg", "s3://bucket/lists"), resolve("../cats/1.jpg", "/lists/today")
    ('s3://bucket/lists/cats/1.jpg', '/lists/cats/1.jpg')
    """
    if not address.strip() or "\0" in address:
        raise SourceError(f"{address!r} is no address", remedy="give a file, a folder, a pattern or scheme://")
    try:
        os.fsencode(address)  # any bytes can be a name, but half a surrogate pair is none
    except UnicodeEncodeError as error:
        raise SourceError(f"{address!r} is no address: {error.reason}", remedy="write it as UTF-8") from error
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
        # The bucket is the root: no `..` leads out of it.
        bucket, _, key = rest.partition("/")
        return f"{scheme}://{bucket}{posixpath.normpath(posixpath.join('/', key, path.as_posix()))}"
    return os.path.abspath(folder / path)  # noqa: PTH100 - Path.absolute() keeps `..`, Path.resolve() follows links
