"""Lists images without a pipeline: all images that arguments name, or the one at an address."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from pipeline.errors import NoImagesError
from pipeline.rejection import Reason, Rejected
from pipeline.sources import globs, manifest
from pipeline.sources.listing import expand, list_members
from pipeline.sources.permissions import Allowed
from pipeline.sources.reference import ImageReference
from pipeline.sources.spelling import below, is_location, split, unspell_file
from pipeline.storage.options import StorageOptions


def list_images(
    arguments: Sequence[str],
    options: StorageOptions | None = None,
    allowed: Allowed | None = None,
    root: str = "",
    *,
    allow_empty: bool = False,
) -> Iterator[ImageReference]:
    """Yields the images that `ListImages` lists, in this process; an address may occur more than once.

    Args:
        arguments: The arguments of `ListImages`.
        options: How object stores are opened.
        allowed: What fetched lists may name.
        root: The folder that addresses are relative to; empty for absolute ones.
        allow_empty: Whether an argument may have no images.

    Raises:
        NoImagesError: An argument has no images.
        SourceError: A file is missing, or a manifest is damaged.
    """
    for argument in arguments:
        address = argument.removeprefix("@")
        is_manifest = address != argument or manifest.is_manifest(address)
        files = manifest.read_files(address, options, allowed) if is_manifest else globs.match_files(address, options)
        with contextlib.suppress(NoImagesError) if allow_empty else contextlib.nullcontext():
            yield from expand(files, options, root)


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
