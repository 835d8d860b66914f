"""Lists images without a pipeline: all images that arguments name, or the one at an address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.rejection import Reason, Rejected
from pipeline.sources import globs, manifest
from pipeline.sources.listing import Listing, expand, list_members
from pipeline.sources.reference import ImageReference
from pipeline.sources.spelling import below, is_location, split, unspell_file
from pipeline.storage.options import StorageOptions


def list_images(arguments: Sequence[str], how: Listing | None = None) -> Iterator[ImageReference]:
    """Yields the images that `ListImages` lists, in this process; an address may occur more than once.

    Raises:
        NoImagesError: An argument has no images, and that is not allowed.
        SourceError: A file is missing, or a manifest is damaged.
    """
    how = how or Listing()
    for argument in arguments:
        address = argument.removeprefix("@")
        is_manifest = address != argument or manifest.is_manifest(address)
        with how.tolerance():
            files = (
                manifest.read_files(address, how.options, how.allowed)
                if is_manifest
                else globs.match_files(address, how.options)
            )
            yield from expand(files, how)


def locate(uri: str, options: StorageOptions | None = None, root: str = "") -> ImageReference:
    """Returns the reference to an image by its address in a table, which may be a member of a container.

    Args:
        uri: The address.
        options: How object stores are opened.
        root: The folder that a relative address is relative to.

    Raises:
        Rejected: The container does not hold the member (MISSING); or the address is relative and there is no root
            (UNREADABLE).
    """
    file, member = split(uri)
    path = below(root, unspell_file(file))
    if not is_location(path):
        raise Rejected(Reason.UNREADABLE, f"{uri} is relative to a root, which is not known")
    reference = ImageReference(file, location=path if path != file else "")
    if not member:
        return reference.named()
    for found in list_members(reference, options):
        if found.uri == uri:
            return found
    raise Rejected(Reason.MISSING, f"{uri} is not in its container")
