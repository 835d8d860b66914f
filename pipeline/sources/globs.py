"""Turns folders, files and patterns into references."""

import functools
import itertools
import os
import re
import stat
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from pipeline.errors import NoImagesError, SourceError
from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import (
    IMAGE_EXTENSIONS,
    NO_FILES,
    container_kind,
    has_image_extension,
    is_image_below,
    is_web,
    left_out,
)
from pipeline.sources.folders import Walk
from pipeline.sources.listing import Listing, expand
from pipeline.sources.patterns import MAGIC, matcher, may_hold, root_of, skipped
from pipeline.sources.reference import ImageReference, resolve
from pipeline.storage.address import is_remote, scheme_of
from pipeline.storage.errors import StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.local import local_facts
from pipeline.storage.options import StorageOptions, store_of
from pipeline.storage.store import Store

OnLeftOut: TypeAlias = Callable[[str], None]
"""Is called for every file, link and folder that a listed folder leaves out, with its extension or its kind."""


def _ignore(kind: str) -> None:
    """Takes no notice of what is left out."""


def match(pattern: str, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """Returns the images that `pattern` names, including those in containers, in a fixed order.

    - A folder stands for all files below it, at any depth, that have the extension of an image. Hidden files and
      folders, files that are still being written (`.partial`), system folders and containers are left out.
    - A symbolic link below a folder, or below the folder that a pattern begins with, is followed if it stays there; a
      link that leads out of it is a reference with a fault. A link that is named itself may lead anywhere.
    - A pattern stands for every file it matches. A match is a container if its extension says so, and otherwise an
      image, whatever its extension: `shards/*.tar` names containers. A pattern that ends in a slash stands for the
      folders it matches.
    - A file stands for itself, even if its name contains pattern characters.

    The listing is lazy. It holds in memory the names in one local folder and in one container (70 bytes each), and a
    page of 1000 entries for S3, Google's and Azure's stores. Beam holds the whole list for other schemes.

    Raises:
        SourceError: Nothing matches, a folder cannot be read, or the scheme is not known.
    """
    return expand(match_files(pattern, options), Listing(options))


def match_files(
    pattern: str, options: StorageOptions | None = None, on_left_out: OnLeftOut = _ignore
) -> Iterator[ImageReference]:
    """Returns the files that `pattern` names, like `match`, but does not open containers: they count as files.

    Args:
        pattern: The pattern.
        options: How object stores are opened.
        on_left_out: Is called for every file, link and folder that a listed folder leaves out.
    """
    kinds: Counter[str] = Counter()

    def leave_out(kind: str) -> None:
        kinds[kind] += 1
        on_left_out(kind)

    def is_image(path: str) -> bool:
        if is_image_below(path):
            return True
        leave_out(left_out(path))
        return False

    address = resolve(pattern)
    folder = pattern.endswith("/")
    if is_web(address):
        return iter([ImageReference(address)])
    try:
        references = (
            _find_remote(address, options, is_image)
            if is_remote(address)
            else _find_local(address, folder, is_image, leave_out)
        )
        first = next(references, None)
    except StorageError as error:
        raise SourceError(error.what, where=error.where or pattern, remedy=error.remedy) from error
    if first is None:
        raise _nothing(pattern, address, kinds)
    return itertools.chain([first], references)


def check(pattern: str) -> None:
    """Checks cheaply, without listing anything, whether `pattern` can match a file.

    Raises:
        SourceError: The scheme is not known, the pattern is malformed, or a local path does not exist.
    """
    address = resolve(pattern)
    if is_web(address):
        return
    if is_remote(address):
        _check_scheme(address)
        matcher(address, in_folder=address.endswith("/"))
    elif not Path(address).exists():
        matcher(address, in_folder=pattern.endswith("/"))
        if not MAGIC.search(address) or not Path(root_of(address)).is_dir():
            raise _nothing(pattern, address)


def _find_local(
    address: str, folder: bool, is_image: Callable[[str], bool], leave_out: OnLeftOut
) -> Iterator[ImageReference]:
    if Path(address).is_file():
        file = _regular(address)
        yield from (file,) if file else ()
        return
    accepts: Callable[[str], bool]
    lists: Callable[[str], bool]  # whether what lies there would be left out of a folder
    may_enter: Callable[[str], bool]
    if Path(address).is_dir():
        root, pattern = address.rstrip("/") + "/", ""
        accepts, lists, may_enter = (lambda path: is_image(path[len(root) :])), _always, _always
    elif MAGIC.search(address) and Path(root_of(address)).is_dir():
        root, pattern = root_of(address), address
        accepts = matcher(address + "/" * folder, folder, is_image)
        lists = matcher(address + "/", True, _always) if folder else _never
        may_enter = may_hold(address, root, deep=folder)
    else:
        return
    walk = Walk(
        root,
        may_enter,
        hidden="/." in pattern[len(root) - 1 :],
        skipped=skipped(pattern),
        on_left_out=lambda path, kind: leave_out(kind) if lists(path) else None,
    )
    for found in walk:
        if not found.is_folder and not accepts(found.path):
            continue
        if found.leads_out:
            yield ImageReference(found.path).rejected(Rejected(Reason.UNSAFE_NAME, f"a link that leads out of {root}"))
            continue
        if reference := _regular(found.path):
            yield reference
        elif lists(found.path):
            leave_out(NO_FILES)


def _always(_: str) -> bool:
    return True


def _never(_: str) -> bool:
    return False


def _regular(path: str) -> ImageReference | None:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path takes longer than the file system
    except OSError:
        # A broken link, or a file that was deleted meanwhile: the reader rejects it.
        return ImageReference(path)
    if not stat.S_ISREG(status.st_mode):  # reading a pipe would never end
        return None
    facts = local_facts(status)
    return ImageReference(path, size_bytes=facts.size_bytes, version=facts.version)


def _find_remote(
    address: str, options: StorageOptions | None, is_image: Callable[[str], bool]
) -> Iterator[ImageReference]:
    _check_scheme(address)
    store = open_store(address, options)
    if "*" in address:
        return _list_remote(store, address, matcher(address, address.endswith("/"), is_image))
    # Object stores have no folders, and Hadoop reports folders as files. So the name decides what is tried first.
    attempts: list[Callable[[Store, str], Iterator[ImageReference]]] = [
        _remote_file,
        functools.partial(_below_remote, is_image=is_image),
    ]
    if not has_image_extension(address) and container_kind(address) is None:
        attempts.reverse()
    if MAGIC.search(address) and not address.endswith("/"):
        attempts = [_remote_file, lambda store, uri: _list_remote(store, uri, matcher(uri, in_folder=False))]
    return _first_match(attempts, store, address)


def _first_match(
    attempts: list[Callable[[Store, str], Iterator[ImageReference]]], store: Store, address: str
) -> Iterator[ImageReference]:
    for attempt in attempts:
        references = attempt(store, address)
        first = next(references, None)
        if first is not None:
            yield first
            yield from references
            return


def _remote_file(store: Store, address: str) -> Iterator[ImageReference]:
    facts = None if address.endswith("/") else store.facts(address)
    if facts is not None:
        yield ImageReference(address, size_bytes=facts.size_bytes, version=facts.version)


def _below_remote(store: Store, address: str, is_image: Callable[[str], bool]) -> Iterator[ImageReference]:
    folder = address.rstrip("/") + "/"
    return _list_remote(
        store,
        folder,
        lambda uri: uri.startswith(folder) and not uri.endswith("/") and is_image(uri[len(folder) :]),
    )


def _list_remote(store: Store, address: str, accepts: Callable[[str], bool]) -> Iterator[ImageReference]:
    # The stores list by prefix. So everything that begins like the pattern is listed, then filtered here.
    for entry in store.list_below(MAGIC.split(address, maxsplit=1)[0]):
        if accepts(entry.path):
            yield ImageReference(entry.path, size_bytes=entry.size_bytes, version=entry.version)


def _nothing(pattern: str, address: str, kinds: Counter[str] | None = None) -> SourceError:
    if not is_remote(address) and Path(address).is_dir():
        others = f"; it has {format_left_out(kinds)}" if kinds else ""
        return NoImagesError(
            f"this folder contains no images{others}",
            where=address,
            why=f"images are files that end in {', '.join(sorted(IMAGE_EXTENSIONS))}",
            remedy=f"name images without an extension by a pattern: '{address.rstrip('/')}/**'; --allow-empty, or"
            " allow-empty in a job, accepts a folder without images",
        )
    if "[" in address:
        return NoImagesError(
            "no file matches this pattern",
            where=pattern,
            why="[ ] stands for one of the characters between the brackets, as [0-9]",
            remedy=f"look at its folder; for a bracket in a name write [[]: '{_with_brackets(address)}'",
        )
    if MAGIC.search(address):
        return NoImagesError(
            "no file matches this pattern",
            where=pattern,
            remedy="look at its folder; **/ stands for any number of folders, and upper and lower case differ",
        )
    is_file = has_image_extension(address) or container_kind(address) is not None
    return (SourceError if is_file else NoImagesError)(
        "there is no such file or folder", where=address, remedy="check the address for a typing error"
    )


def format_left_out(kinds: Mapping[str, int]) -> str:
    """Returns counts of what folders leave out as text.

    >>> format_left_out({".txt": 2, ".heic": 10, "hidden files": 1, "links to a folder above": 2})
    '10 .heic, 2 .txt, 2 links to a folder above, 1 hidden file'
    """
    ordered = sorted(kinds.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{count:,} {_singular(name) if count == 1 else name}" for name, count in ordered)


def _singular(kind: str) -> str:
    return re.sub(r"^(\w+ )?(file|folder|link)s\b", r"\1\2", kind)


def _with_brackets(address: str) -> str:
    """Returns a pattern in which the names that exist are matched as they are; all names where none of them does."""
    names = address.split("/")
    exists = [
        not is_remote(address) and "[" in name and Path("/".join(names[: i + 1])).exists()
        for i, name in enumerate(names)
    ]
    wanted = exists if any(exists) else [True] * len(names)
    return "/".join(re.sub(r"\[", "[[]", name) if chosen else name for name, chosen in zip(names, wanted, strict=True))


def _check_scheme(address: str) -> None:
    if store_of(address) is not None:
        return
    from pipeline.storage.beam import check_scheme  # takes seconds to import

    try:
        check_scheme(address)
    except (ValueError, OSError) as error:
        raise SourceError(
            f"{scheme_of(address)}:// is not supported",
            where=address,
            remedy="use s3://, gs://, abfs:// or az://, or a scheme that Beam has a file system for",
        ) from error
