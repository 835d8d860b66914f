"""File types by name: images, containers of images, and addresses on the web."""

import functools
import posixpath
import re
from typing import Literal

from conversion import PARTIAL_SUFFIX
from pipeline.images.decoding_rules import ENDINGS, type_by_name

IMAGE_EXTENSIONS = frozenset(ENDINGS)
"""The extensions of the formats that `pipeline.images.decode` decodes, in lower case; case does not matter."""

SYSTEM_FOLDERS = frozenset({"lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "__MACOSX"})
"""Folders that operating systems create in collections: they are unreadable, or full of thumbnails."""

HIDDEN_FILES, HIDDEN_FOLDERS = "hidden files", "hidden folders"
UNFINISHED_FILES = "unfinished files"
SYSTEM_FILES, SYSTEM_FOLDERS_LEFT_OUT = "files in system folders", "system folders"
LINKS_ABOVE, LINKS_IN_LINKED = "links to a folder above", "links within linked folders"
NO_FILES = "pipes and devices"
"""What a listed folder leaves out besides files with other extensions, by kind."""

Kind = Literal["tar", "zip", "parquet", "tfrecord"]

_CONTAINERS: dict[Kind, str] = {
    "tar": r"tar(?:\.(?:gz|bz2|xz))?|tgz|tbz2?|txz",
    "zip": "zip",
    "parquet": "parquet|pq",
    # TensorFlow's writers number the shards of a file.
    "tfrecord": r"(?:tfrecords?|tfrec|records?)(?:-\d+-of-\d+)?(?:\.gz)?",
}
_KINDS: dict[Kind, re.Pattern[str]] = {
    kind: re.compile(rf"\.(?:{ending})\Z", re.IGNORECASE) for kind, ending in _CONTAINERS.items()
}
_NUMBERED = re.compile(r"[^./]-\d{4,}-of-\d{4,}\Z")
_LONGEST_ENDING = 60
_WEB = re.compile(r"https?://", re.IGNORECASE)


FRAMES = "frames"
"""The kind of a reference to a frame of a file; see `pipeline.sources.frames`."""


def may_have_frames(name: str) -> bool:
    """Returns whether a file of this name may hold more than one frame: pages of a TIFF, frames of an animation.

    >>> may_have_frames("scan.TIF"), may_have_frames("cat.jpg")
    (True, False)
    """
    return type_by_name(name) in {"TIFF", "GIF", "WEBP", "PNG"}


def has_image_extension(path: str) -> bool:
    """Returns whether a file name has the extension of an image."""
    return posixpath.splitext(path_of(path))[1].lower() in IMAGE_EXTENSIONS


def is_image_below(path: str) -> bool:
    """Returns whether the file at `path`, relative to a listed folder, is one of the images of that folder.

    >>> is_image_below("2020/a.JPG"), is_image_below(".git/a.jpg"), is_image_below("__MACOSX/a.jpg")
    (True, False, False)
    """
    folder, _, name = path.rpartition("/")
    extension = name.rpartition(".")[2].lower()
    return f".{extension}" in IMAGE_EXTENSIONS and not _is_left_alone(name) and _is_listed(folder)


def left_out(path: str) -> str:
    """Returns why the file at `path`, relative to a listed folder, is not one of its images: its extension, or a kind.

    It is empty for an image.

    >>> left_out("2020/a.HEIC"), left_out("LICENSE"), left_out(".DS_Store"), left_out("a.jpg.partial")
    ('.heic', 'no extension', 'hidden files', 'unfinished files')
    """
    *folders, name = path.split("/")
    if any(name.startswith(".") for name in (*folders, name)):
        return HIDDEN_FILES
    if SYSTEM_FOLDERS.intersection(folders):
        return SYSTEM_FILES
    if any(name.endswith(PARTIAL_SUFFIX) for name in (*folders, name)):
        return UNFINISHED_FILES
    return "" if has_image_extension(path) else posixpath.splitext(path)[1].lower() or "no extension"


@functools.lru_cache(maxsize=1024)  # the files of a folder are listed one after another
def _is_listed(folder: str) -> bool:
    names = folder.split("/")
    return not any(map(_is_left_alone, names)) and not SYSTEM_FOLDERS.intersection(names)


def _is_left_alone(name: str) -> bool:
    return name.startswith(".") or name.endswith(PARTIAL_SUFFIX)


def container_kind(address: str) -> Kind | None:
    """Returns the kind of the container at `address`, by its name; None where the name is not that of a container.

    The content may be of another kind, or, of a numbered shard without extension, no container at all.

    >>> [container_kind(name) for name in ("a.TAR.GZ", "b.zip", "c.tfrecord-00000-of-00009", "d.jpg", "zip")]
    ['tar', 'zip', 'tfrecord', None, None]
    >>> container_kind("train-00000-of-01024"), container_kind("e.tfrec"), container_kind("f-0-of-1")
    ('tfrecord', 'tfrecord', None)
    """
    if f".{address.rpartition('.')[2].lower()}" in IMAGE_EXTENSIONS and not is_web(address):
        return None  # most files are images
    ending = path_of(address)[-_LONGEST_ENDING:]
    named = next((kind for kind, known in _KINDS.items() if known.search(ending)), None)
    return named or ("tfrecord" if is_numbered_shard(address) else None)


def is_numbered_shard(address: str) -> bool:
    """Returns whether a name is that of a numbered shard without extension, as TensorFlow's scripts for ImageNet write.

    >>> is_numbered_shard("train-00000-of-01024"), is_numbered_shard("a.tar-00000-of-01024")
    (True, False)
    """
    return _NUMBERED.search(path_of(address)) is not None and "." not in path_of(address).rsplit("/", 1)[-1]


def path_of(address: str) -> str:
    """Returns an address without the query and fragment that follow a path on the web.

    >>> path_of("https://host/a.jpg?from=b.zip#c"), path_of("a#1?.zip")
    ('https://host/a.jpg', 'a#1?.zip')
    """
    return re.split("[?#]", address, maxsplit=1)[0] if is_web(address) else address


def is_web(address: str) -> bool:
    """Returns whether an address is fetched by HTTP, and so cannot be listed.

    >>> is_web("https://host/a.jpg"), is_web("s3://bucket/a.jpg")
    (True, False)
    """
    return _WEB.match(address) is not None
