"""Lists images without a pipeline: all images that arguments name, or the one at an address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.rejection import Reason, Rejected
from pipeline.settings import Frames
from pipeline.sources import globs, manifest
from pipeline.sources.listing import has_members, list_members
from pipeline.sources.permissions import Allowed
from pipeline.sources.reference import ImageReference
from pipeline.storage.options import StorageOptions


def list_images(
    arguments: Sequence[str], options: StorageOptions | None = None, allowed: Allowed | None = None
) -> Iterator[ImageReference]:
    """Yields the images that `ListImages` lists, in this process; an address may occur more than once.

    Raises:
        SourceError: Nothing matches an argument, or a manifest is damaged.
    """
    for argument in arguments:
        address = argument.removeprefix("@")
        is_manifest = address != argument or manifest.is_manifest(address)
        yield from (manifest.read_manifest(address, options, allowed) if is_manifest else globs.match(address, options))


def locate(uri: str, options: StorageOptions | None = None) -> ImageReference:
    """Returns the reference to an image by its address in a table, which may be a member of a container.

    Raises:
        Rejected: The container does not hold the member (MISSING).
    """
    container, mark, _ = uri.partition("#")
    if not mark or not has_members(ImageReference(container), Frames.ALL):
        return ImageReference(uri).without_secrets()
    for reference in list_members(ImageReference(container), options):
        if reference.uri == uri:
            return reference
    raise Rejected(Reason.MISSING, f"{uri} is not in its container")
