"""What names say: which files are images, which are containers of images, and which addresses are the web's."""

import posixpath
import re
from typing import Literal

from conversion import PARTIAL_SUFFIX

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)
"""Of the formats that `pipeline.images.decode` decodes; compared without regard to case."""

SYSTEM_FOLDERS = frozenset({"lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "__MACOSX"})
"""What systems leave in collections: unreadable, or full of thumbnails."""

Kind = Literal["tar", "zip", "parquet", "tfrecord"]

_CONTAINERS: dict[Kind, str] = {
    "tar": r"tar(?:\.(?:gz|bz2|xz))?|tgz|tbz2?|txz",
    "zip": "zip",
    "parquet": "parquet|pq",
    # The ending of a shard, as TensorFlow's writers number them.
    "tfrecord": r"tfrecords?(?:-\d+-of-\d+)?(?:\.gz)?",
}
_KINDS: dict[Kind, re.Pattern[str]] = {
    kind: re.compile(rf"\.(?:{ending})\Z", re.IGNORECASE) for kind, ending in _CONTAINERS.items()
}
_LONGEST_ENDING = 60
_WEB = re.compile(r"https?://", re.IGNORECASE)


def has_image_extension(path: str) -> bool:
    """Whether a file of this name is one of the images of its folder or archive."""
    return posixpath.splitext(path)[1].lower() in IMAGE_EXTENSIONS


def is_image_below(path: str) -> bool:
    """Whether the file at `path`, relative to a folder that was asked for, is one of its images.

    >>> is_image_below("2020/a.JPG"), is_image_below(".git/a.jpg"), is_image_below("__MACOSX/a.jpg")
    (True, False, False)
    """
    if not has_image_extension(path):
        return False
    names = path.split("/")
    return not (
        any(name.startswith(".") or name.endswith(PARTIAL_SUFFIX) for name in names)
        or SYSTEM_FOLDERS.intersection(names[:-1])
    )


def container_kind(address: str) -> Kind | None:
    """How the container at `address` is read, by its name; None where the name is no container's.

    >>> [container_kind(name) for name in ("a.TAR.GZ", "b.zip", "c.tfrecord-00000-of-00009", "d.jpg", "zip")]
    ['tar', 'zip', 'tfrecord', None, None]
    """
    ending = address[-_LONGEST_ENDING:]
    return next((kind for kind, known in _KINDS.items() if known.search(ending)), None)


def is_web(address: str) -> bool:
    """Whether an address is fetched by HTTP, and cannot be listed.

    >>> is_web("https://host/a.jpg"), is_web("s3://bucket/a.jpg")
    (True, False)
    """
    return _WEB.match(address) is not None
