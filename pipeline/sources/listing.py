"""From files to images: containers into their members."""

from collections.abc import Callable, Iterator

from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import Kind, container_kind, is_web
from pipeline.sources.parquet import list_parquet
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


def is_container(reference: ImageReference) -> bool:
    """Whether a file is a container to be listed, by its name."""
    return not reference.kind and not reference.fault and container_kind(reference.uri) is not None


def list_container(reference: ImageReference, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """The images in a container, from its headers alone; nothing is extracted.

    What cannot be read of it is a reference with a fault, to the member, or to the container itself where more than a
    member is lost: where it is damaged or missing, or holds no image at all. Archives within archives are left out.

    Args:
        reference: The container's; its name says what it is.
        options: How object stores are opened.
    """
    lost = ImageReference(reference.uri, size_bytes=reference.size_bytes, version=reference.version)
    kind = container_kind(reference.uri)
    if kind is None:
        yield lost.rejected(Rejected(Reason.UNKNOWN_FORMAT, "its name is no container's"))
        return
    if is_web(reference.uri):
        detail = "containers behind HTTP are not opened: download it first"
        yield lost.rejected(Rejected(Reason.UNREADABLE, detail))
        return
    found = False
    try:
        with FileStream(reference.uri, options) as stream:
            for member in _LISTERS[kind](stream):
                found = True
                yield member
    except StorageError as error:
        yield lost.rejected(rejection_of(error))
        return
    if not found:
        yield lost.rejected(Rejected(Reason.EMPTY, "no image is in this container"))


def expand(references: Iterator[ImageReference], options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """Images from files: containers as their members, other files as they are."""
    for reference in references:
        if is_container(reference):
            yield from list_container(reference, options)
        else:
            yield reference
