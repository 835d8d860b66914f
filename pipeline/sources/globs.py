"""Folders, files and patterns into references.

Patterns mean what they mean to a shell with `globstar` set: `*` and `?` stop at a slash, `**/` is any number of
folders, none included, and names that begin with a dot are matched only by a pattern that writes the dot; names of
folders that systems make, such as `lost+found`, only by one that writes them. Beam's own matcher differs (2.77, tried):
`**/` wants at least one folder, `?` matches a slash, hidden files match, a relative `*.jpg` matches nothing, a name
with a bracket cannot be asked for, and an unreadable folder is skipped without a word. So patterns are matched here,
and Beam lists what is behind `scheme://`.
"""

import itertools
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import SourceError
from pipeline.sources.file_types import (
    IMAGE_EXTENSIONS,
    SYSTEM_FOLDERS,
    container_kind,
    has_image_extension,
    is_image_below,
    is_web,
)
from pipeline.sources.listing import expand
from pipeline.sources.reference import ImageReference, resolve
from pipeline.storage.address import is_remote, scheme_of
from pipeline.storage.errors import StorageError
from pipeline.storage.factory import open_store
from pipeline.storage.local import local_facts
from pipeline.storage.options import StorageOptions, store_of
from pipeline.storage.store import Store

_MAGIC = re.compile(r"[*?\[]")


def match(pattern: str, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """The images that `pattern` names, in an order that does not change; those in containers, too.

    A folder means every file below it, at any depth, whose extension is an image's; hidden files and folders, files
    still being written (`.partial`) and folders of the system are left out, symbolic links to folders not followed. A
    pattern is taken at its word: what it matches is an image, whatever its extension, or a container if its extension
    says so; one that ends in a slash means the folders it matches. A file means itself, pattern characters in its name
    or not. So containers below a folder are left out, and named by a pattern: `shards/*.tar`.

    The listing is read as it is asked for; no more is held than the names in one local folder, and those in one
    container (70 bytes each); of S3, Google's and Azure's stores, a page of 1000. Other lists are held by Beam.

    Raises:
        SourceError: Nothing matches, a folder cannot be read, or the scheme is not known.
    """
    return expand(match_files(pattern, options), options)


def match_files(pattern: str, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """As `match`, but containers are not looked into: the references are to the files themselves."""
    address = resolve(pattern)
    folder = pattern.endswith("/")
    if is_web(address):
        return iter([ImageReference(address)])
    try:
        found = _find_remote(address, options) if is_remote(address) else _find_local(address, folder)
        first = next(found, None)
    except StorageError as error:
        raise SourceError(error.what, where=error.where or pattern, remedy=error.remedy) from error
    if first is None:
        raise _nothing(pattern, address)
    return itertools.chain([first], found)


def check(pattern: str) -> None:
    """Finds out cheaply, without listing anything, that `pattern` can match nothing.

    Raises:
        SourceError: The scheme is not known, the pattern is malformed, or a local path does not exist.
    """
    address = resolve(pattern)
    if is_web(address):
        return
    if is_remote(address):
        _check_scheme(address)
        _matcher(address, in_folder=address.endswith("/"))
    elif not Path(address).exists():
        _matcher(address, in_folder=pattern.endswith("/"))
        if not _MAGIC.search(address) or not Path(_root(address)).is_dir():
            raise _nothing(pattern, address)


def _find_local(address: str, folder: bool) -> Iterator[ImageReference]:
    if Path(address).is_file():
        yield from _regular(address)
    elif Path(address).is_dir():
        root = address.rstrip("/") + "/"
        for path in _walk(root):
            if is_image_below(path[len(root) :]):
                yield from _regular(path)
    elif _MAGIC.search(address) and Path(root := _root(address)).is_dir():
        accepts = _matcher(address + "/" * folder, folder)
        deep = folder or "**" in address
        levels = None if deep else address[len(root) :].count("/")
        for path in _walk(root, levels, address):
            if accepts(path):
                yield from _regular(path)


def _regular(path: str) -> Iterator[ImageReference]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path takes longer than the file system
    except OSError:
        # A link to nothing, or a file gone meanwhile: for the reader to reject, in a row of its own.
        yield ImageReference(path)
        return
    if stat.S_ISREG(status.st_mode):  # reading a pipe would never end
        facts = local_facts(status)
        yield ImageReference(path, size_bytes=facts.size_bytes, version=facts.version)


def _walk(root: str, levels: int | None = None, pattern: str = "") -> Iterator[str]:
    """Files below `root` (which ends in a slash), down to `levels` folders below it; sorted within each folder."""

    def fail(error: OSError) -> None:
        raise SourceError(
            f"a folder cannot be read: {error.strerror}",
            where=str(error.filename),
            why="its images would be missing without a word",
            remedy="give the user who runs densecast access to it, or name the other folders one by one",
        )

    skipped = _skipped(pattern)
    hidden = "/." in pattern[len(root) - 1 :]
    for folder, folders, names in os.walk(root, onerror=fail):
        if levels is not None and folder[len(root) :].strip("/").count("/") + (folder != root) >= levels:
            folders.clear()
        folders[:] = sorted(name for name in folders if name not in skipped and (hidden or not name.startswith(".")))
        for name in sorted(names):
            yield f"{folder.rstrip('/')}/{name}"


def _find_remote(address: str, options: StorageOptions | None) -> Iterator[ImageReference]:
    _check_scheme(address)
    store = open_store(address, options)
    if "*" in address:
        return _list_remote(store, address, _matcher(address, in_folder=address.endswith("/")))
    # Object stores have no folders, and Hadoop says of folders that they exist: the name decides what is tried first.
    attempts: list[Callable[[Store, str], Iterator[ImageReference]]] = [_remote_file, _below_remote]
    if not has_image_extension(address) and container_kind(address) is None:
        attempts.reverse()
    if _MAGIC.search(address) and not address.endswith("/"):
        attempts = [_remote_file, lambda store, uri: _list_remote(store, uri, _matcher(uri, in_folder=False))]
    return _first_that_finds(attempts, store, address)


def _first_that_finds(
    attempts: list[Callable[[Store, str], Iterator[ImageReference]]], store: Store, address: str
) -> Iterator[ImageReference]:
    for attempt in attempts:
        found = attempt(store, address)
        first = next(found, None)
        if first is not None:
            yield first
            yield from found
            return


def _remote_file(store: Store, address: str) -> Iterator[ImageReference]:
    facts = None if address.endswith("/") else store.facts(address)
    if facts is not None:
        yield ImageReference(address, size_bytes=facts.size_bytes, version=facts.version)


def _below_remote(store: Store, address: str) -> Iterator[ImageReference]:
    folder = address.rstrip("/") + "/"
    return _list_remote(
        store,
        folder,
        lambda uri: uri.startswith(folder) and not uri.endswith("/") and is_image_below(uri[len(folder) :]),
    )


def _list_remote(store: Store, address: str, accepts: Callable[[str], bool]) -> Iterator[ImageReference]:
    # No storage quotes pattern characters: all that begins as the pattern does is listed, and the rest left out here.
    for entry in store.list_below(_MAGIC.split(address, maxsplit=1)[0]):
        if accepts(entry.path):
            yield ImageReference(entry.path, size_bytes=entry.size_bytes, version=entry.version)


def _root(address: str) -> str:
    """The folder that all matches of a pattern are below, with its slash."""
    beginning = _MAGIC.split(address, maxsplit=1)[0]
    return beginning[: beginning.rindex("/") + 1]


def _matcher(pattern: str, in_folder: bool) -> Callable[[str], bool]:
    """What tells whether an address matches `pattern`; `in_folder`: whether it is an image below a folder that does.

    Raises:
        SourceError: The pattern has a malformed range.
    """
    try:
        compiled = re.compile(_expression(pattern) + ("(?P<below>.+)" if in_folder else ""), re.DOTALL)
    except re.error as error:
        raise SourceError(f"no pattern: {error}", where=pattern, remedy="write ranges as [a-z]") from error

    skipped = _skipped(pattern)
    start = len(_MAGIC.split(pattern, maxsplit=1)[0])

    def accepts(uri: str) -> bool:
        found = compiled.fullmatch(uri)
        if found is None or skipped.intersection(uri[start:].split("/")[:-1]):
            return False
        return not in_folder or is_image_below(found["below"])

    return accepts


_PIECE = re.compile(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
_NOT_HIDDEN = r"(?!\.)"
_WILD = {
    "**/": rf"(?:{_NOT_HIDDEN}[^/]+/)*",
    "**": rf"[^/]*(?:/{_NOT_HIDDEN}[^/]*)*",
    "*": "[^/]*",
    "?": "[^/]",
}


def _skipped(pattern: str) -> frozenset[str]:
    """The folders of the system that a pattern does not name."""
    return frozenset(name for name in SYSTEM_FOLDERS if name not in pattern)


def _expression(pattern: str) -> str:
    """The regular expression of a pattern.

    >>> [path for path in ("a.jpg", "b/a.jpg", "b/c/a.jpg", ".b/a.jpg") if re.fullmatch(_expression("**/?.jpg"), path)]
    ['a.jpg', 'b/a.jpg', 'b/c/a.jpg']
    """
    parts = []
    at_start = True  # of a name
    for piece in _PIECE.findall(pattern):
        if piece == "**/" and not at_start:
            parts += [_WILD["**"], "/"]
        elif piece in _WILD:
            parts += [_NOT_HIDDEN if at_start and piece != "**/" else "", _WILD[piece]]
        elif len(piece) > 1:
            negated = piece[1] == "!"
            members = re.sub(r"([\\\[&~|^\]])", r"\\\1", piece[1 + negated : -1])
            parts.append(rf"(?![/{'.' * at_start}])[{'^' * negated}{members}]")
        else:
            parts.append(re.escape(piece))
        at_start = piece.endswith("/")
    return "".join(parts)


def _nothing(pattern: str, address: str) -> SourceError:
    if not is_remote(address) and Path(address).is_dir():
        return SourceError(
            "no image is below this folder",
            where=address,
            why=f"images are files that end in {', '.join(sorted(IMAGE_EXTENSIONS))}",
            remedy=f"name images without an extension by a pattern: '{address.rstrip('/')}/**'",
        )
    if _MAGIC.search(address):
        return SourceError(
            "no file matches this pattern",
            where=pattern,
            remedy="look at its folder; **/ stands for any number of folders, and upper and lower case differ",
        )
    return SourceError("there is no such file or folder", where=address, remedy="check the address for a typing error")


def _check_scheme(address: str) -> None:
    if store_of(address) is not None:
        return
    from pipeline.storage.beam import check_scheme  # takes seconds to import

    try:
        check_scheme(address)
    except (ValueError, OSError) as error:
        raise SourceError(
            f"nothing here reads {scheme_of(address)}://",
            where=address,
            remedy="s3://, gs://, abfs:// and az:// are read, and what Beam has a file system for",
        ) from error
