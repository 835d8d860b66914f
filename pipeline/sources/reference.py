"""References to images, and the one form in which addresses are written."""

import os
import posixpath
from typing import NamedTuple

from pipeline import storage
from pipeline.errors import SourceError


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
    if storage.is_remote(address):
        return address
    try:
        path = storage.local_path(address).expanduser()
    except storage.StorageError as error:
        raise SourceError(error.what, where=address, remedy=error.remedy) from error
    except RuntimeError as error:  # ~somebody
        raise SourceError(str(error), where=address, remedy="write the folder out") from error
    if storage.is_remote(folder) and not path.is_absolute():
        scheme, _, rest = folder.partition("://")
        # The bucket is the root: no `..` leads out of it.
        bucket, _, key = rest.partition("/")
        return f"{scheme}://{bucket}{posixpath.normpath(posixpath.join('/', key, path.as_posix()))}"
    return os.path.abspath(folder / path)  # noqa: PTH100 - Path.absolute() keeps `..`, Path.resolve() follows links
