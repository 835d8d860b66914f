"""Lists images without a pipeline: all images that arguments name, or the one at an address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pipeline.errors import NoImagesError
from pipeline.rejection import Reason, Rejected
from pipeline.sources import globs, manifest
from pipeline.sources.listing import is_container, list_container
from pipeline.sources.reference import ImageReference
from pipeline.storage.options import StorageOptions


def list_images(
    arguments: Sequence[str], options: StorageOptions | None = None, *, allow_empty: bool = False
) -> Iterator[ImageReference]:
    """Yields the images that `ListImages` lists, in this process; an address may occur more than once.

    Args:
        arguments: The arguments of `ListImages`.
        options: How object stores are opened.
        allow_empty: Whether an argument may have no images.

    Raises:
        NoImagesError: An argument has no images.
        SourceError: A file is missing, or a manifest is damaged.
    """
    for argument in arguments:
        address = argument.removeprefix("@")
        is_manifest = address != argument or manifest.is_manifest(address)
        with contextlib.suppress(NoImagesError) if allow_empty else contextlib.nullcontext():
            yield from manifest.read_manifest(address, options) if is_manifest else globs.match(address, options)


def locate(uri: str, options: StorageOptions | None = None) -> ImageReference:
    """Returns the reference to an image by its address in a table, which may be a member of a container.

    Raises:
        Rejected: The container does not hold the member (MISSING).
    """
    container, mark, _ = uri.partition("#")
    if not mark or not is_container(ImageReference(container)):
        return ImageReference(uri)
    for reference in list_container(ImageReference(container), options):
        if reference.uri == uri:
            return reference
    raise Rejected(Reason.MISSING, f"{uri} is not in its container")
