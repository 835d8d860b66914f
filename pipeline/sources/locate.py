"""From names to images without a pipeline: all that some arguments name, and the one that an address means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.rejection import Reason, Rejected
from pipeline.sources import globs, manifest
from pipeline.sources.listing import is_container, list_container
from pipeline.sources.reference import ImageReference
from pipeline.storage.options import StorageOptions


def list_images(arguments: Sequence[str], options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """What `ListImages` lists, here and now, as it is asked for; an address may come twice.

    Raises:
        SourceError: Nothing matches an argument, or a manifest is damaged.
    """
    for argument in arguments:
        address = argument.removeprefix("@")
        listed = address != argument or manifest.is_manifest(address)
        yield from manifest.read_manifest(address, options) if listed else globs.match(address, options)


def locate(uri: str, options: StorageOptions | None = None) -> ImageReference:
    """The reference of an address as tables have it, of a member of a container too.

    Raises:
        Rejected: The container holds no such member (MISSING).
    """
    container, mark, _ = uri.partition("#")
    if not mark or not is_container(ImageReference(container)):
        return ImageReference(uri)
    for reference in list_container(ImageReference(container), options):
        if reference.uri == uri:
            return reference
    raise Rejected(Reason.MISSING, f"{uri} is not in its container")
