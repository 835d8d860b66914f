"""Lists the images in files: a container stands for its members."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from pipeline.errors import NoImagesError
from pipeline.rejection import Reason, Rejected
from pipeline.settings import Frames, LimitSettings
from pipeline.sources import frames as frame_files
from pipeline.sources.container_content import kind_by_content
from pipeline.sources.file_types import Kind, container_kind, is_numbered_shard, is_web
from pipeline.sources.parquet import list_parquet
from pipeline.sources.permissions import Allowed
from pipeline.sources.reader import rejection_of
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream
from pipeline.sources.tar import list_tar
from pipeline.sources.tfrecord import list_tfrecord
from pipeline.sources.zip import list_zip
from pipeline.storage.errors import StorageError
from pipeline.storage.options import StorageOptions

_LISTERS: dict[Kind, Callable[[FileStream], Iterator[ImageReference]]] = {
    "tar": list_tar,
    "zip": list_zip,
    "parquet": list_parquet,
    "tfrecord": list_tfrecord,
}


class Listing(NamedTuple):
    """How images are listed.

    Attributes:
        options: How object stores are opened; None: as the environment says.
        frames: Which frames of a file that has several are listed.
        root: The folder that addresses are relative to, in the form of `resolve`; empty for absolute addresses.
        allowed: What fetched lists may name besides their own root and public addresses.
        allow_empty: Whether a folder, a pattern or a manifest may have no images.
    """

    options: StorageOptions | None = None
    frames: Frames = LimitSettings.frames
    root: str = ""
    allowed: Allowed = Allowed()
    allow_empty: bool = False

    def tolerance(self) -> contextlib.AbstractContextManager[None]:
        """Returns a block that a `NoImagesError` ends quietly, where that is allowed."""
        return contextlib.suppress(NoImagesError) if self.allow_empty else contextlib.nullcontext()


def is_container(reference: ImageReference) -> bool:
    """Returns whether a reference is to a container, by the name of its file."""
    return not reference.kind and not reference.fault and container_kind(reference.file) is not None


def has_members(reference: ImageReference, frames: Frames) -> bool:
    """Returns whether a reference may stand for several images, by the name of its file: members, or frames."""
    return is_container(reference) or (frames is Frames.ALL and frame_files.is_expandable(reference))


def list_members(reference: ImageReference, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """Yields the members of a container, or else the frames of a file; see `list_container` and `list_frames`."""
    listed = list_container if is_container(reference) else frame_files.list_frames
    return listed(reference, options)


def list_container(reference: ImageReference, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """Yields the images in a container. Reads only its headers, and does not extract anything.

    A member that cannot be read gives a reference with a fault. A container that is damaged, missing or without any
    image gives a reference to the container itself, with a fault. Archives within archives are left out.

    Args:
        reference: The container; its content tells its kind, or else its name. A numbered shard without extension that
            is not a container by its content is taken for an image.
        options: The options that object stores are opened with.
    """
    reference = reference.named()
    path, lost = reference.file, reference._replace(id="", label="")
    kind = container_kind(path)
    if kind is None:
        yield lost.rejected(Rejected(Reason.UNKNOWN_FORMAT, "its name is not that of a container"))
        return
    if is_web(path):
        detail = "containers are not read by HTTP: download it first"
        yield lost.rejected(Rejected(Reason.UNREADABLE, detail))
        return
    has_images = False
    try:
        with FileStream(path, options) as stream:
            found = kind_by_content(stream)
            if found is None and is_numbered_shard(path):
                yield lost
                return
            for member in _LISTERS[found or kind](stream):
                has_images = True
                # The lister knows the file by its path; the table knows it by its address.
                uri = reference.uri + member.uri[len(path) :]
                yield member._replace(uri=uri, location="" if member.container else reference.location)
    except StorageError as error:
        yield lost.rejected(rejection_of(error))
        return
    if not has_images:
        yield lost.rejected(Rejected(Reason.EMPTY, "this container has no images"))


def expand(references: Iterable[ImageReference], how: Listing) -> Iterator[ImageReference]:
    """Yields the members of containers, the frames of files, and all other files, by their addresses in the table."""
    for file in references:
        reference = file.named(how.root)
        if has_members(reference, how.frames):
            yield from list_members(reference, how.options)
        else:
            yield reference
