"""Turns folders, files and patterns into references.

Patterns have the meaning of a shell with `globstar` set. `*` and `?` do not match a slash. `**/` matches any number of
folders, including none. A name that begins with a dot matches only a pattern that spells the dot. A folder that the
operating system creates, such as `lost+found`, matches only a pattern that names it.

This module matches patterns itself, because Beam's matcher differs (as of 2.77, by test): there, `**/` needs at least
one folder, `?` matches a slash, hidden files match, a relative `*.jpg` does not match anything, a name with a bracket
cannot be written, and an unreadable folder is skipped silently.
"""

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
from pipeline.sources.file_types import (
    IMAGE_EXTENSIONS,
    SYSTEM_FOLDERS,
    container_kind,
    has_image_extension,
    is_image_below,
    is_web,
    left_out,
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
OnLeftOut: TypeAlias = Callable[[str], None]
"""Is called with the extension of every file of a listed folder that is not an image by its name."""


def _ignore(extension: str) -> None:
    """Takes no notice of a file that is left out."""


def match(pattern: str, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """Returns the images that `pattern` names, including those in containers, in a fixed order.

    - A folder stands for all files below it, at any depth, that have the extension of an image. Hidden files and
      folders, files that are still being written (`.partial`), system folders and containers are left out. Symbolic
      links to folders are not followed.
    - A pattern stands for every file it matches. A match is a container if its extension says so, and otherwise an
      image, whatever its extension: `shards/*.tar` names containers. A pattern that ends in a slash stands for the
      folders it matches.
    - A file stands for itself, even if its name contains pattern characters.

    The listing is lazy. It holds in memory the names in one local folder and in one container (70 bytes each), and a
    page of 1000 entries for S3, Google's and Azure's stores. Beam holds the whole list for other schemes.

    Raises:
        SourceError: Nothing matches, a folder cannot be read, or the scheme is not known.
    """
    return expand(match_files(pattern, options), options)


def match_files(
    pattern: str, options: StorageOptions | None = None, on_left_out: OnLeftOut = _ignore
) -> Iterator[ImageReference]:
    """Returns the files that `pattern` names, like `match`, but does not open containers: they count as files.

    Args:
        pattern: The pattern.
        options: How object stores are opened.
        on_left_out: Is called with the extension of every file of a listed folder that is not an image by its name.
    """
    extensions: Counter[str] = Counter()

    def is_image(path: str) -> bool:
        if is_image_below(path):
            return True
        if extension := left_out(path):
            extensions[extension] += 1
            on_left_out(extension)
        return False

    address = resolve(pattern)
    folder = pattern.endswith("/")
    if is_web(address):
        return iter([ImageReference(address)])
    try:
        references = (
            _find_remote(address, options, is_image) if is_remote(address) else _find_local(address, folder, is_image)
        )
        first = next(references, None)
    except StorageError as error:
        raise SourceError(error.what, where=error.where or pattern, remedy=error.remedy) from error
    if first is None:
        raise _nothing(pattern, address, extensions)
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
        _matcher(address, in_folder=address.endswith("/"))
    elif not Path(address).exists():
        _matcher(address, in_folder=pattern.endswith("/"))
        if not _MAGIC.search(address) or not Path(_root(address)).is_dir():
            raise _nothing(pattern, address)


def _find_local(address: str, folder: bool, is_image: Callable[[str], bool]) -> Iterator[ImageReference]:
    if Path(address).is_file():
        yield from _regular(address)
    elif Path(address).is_dir():
        root = address.rstrip("/") + "/"
        for path in _walk(root):
            if is_image(path[len(root) :]):
                yield from _regular(path)
    elif _MAGIC.search(address) and Path(root := _root(address)).is_dir():
        accepts = _matcher(address + "/" * folder, folder, is_image)
        deep = folder or "**" in address
        levels = None if deep else address[len(root) :].count("/")
        for path in _walk(root, levels, address):
            if accepts(path):
                yield from _regular(path)


def _regular(path: str) -> Iterator[ImageReference]:
    try:
        status = os.stat(path)  # noqa: PTH116 - a Path takes longer than the file system
    except OSError:
        # A broken link, or a file that was deleted meanwhile: the reader rejects it.
        yield ImageReference(path)
        return
    if stat.S_ISREG(status.st_mode):  # reading a pipe would never end
        facts = local_facts(status)
        yield ImageReference(path, size_bytes=facts.size_bytes, version=facts.version)


def _walk(root: str, levels: int | None = None, pattern: str = "") -> Iterator[str]:
    """Yields the files below `root` (which ends in a slash), at most `levels` folders deep; sorted in each folder."""

    def fail(error: OSError) -> None:
        raise SourceError(
            f"a folder cannot be read: {error.strerror}",
            where=str(error.filename),
            why="its images would be missing without notice",
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


def _find_remote(
    address: str, options: StorageOptions | None, is_image: Callable[[str], bool]
) -> Iterator[ImageReference]:
    _check_scheme(address)
    store = open_store(address, options)
    if "*" in address:
        return _list_remote(store, address, _matcher(address, address.endswith("/"), is_image))
    # Object stores have no folders, and Hadoop reports folders as files. So the name decides what is tried first.
    attempts: list[Callable[[Store, str], Iterator[ImageReference]]] = [
        _remote_file,
        functools.partial(_below_remote, is_image=is_image),
    ]
    if not has_image_extension(address) and container_kind(address) is None:
        attempts.reverse()
    if _MAGIC.search(address) and not address.endswith("/"):
        attempts = [_remote_file, lambda store, uri: _list_remote(store, uri, _matcher(uri, in_folder=False))]
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
    for entry in store.list_below(_MAGIC.split(address, maxsplit=1)[0]):
        if accepts(entry.path):
            yield ImageReference(entry.path, size_bytes=entry.size_bytes, version=entry.version)


def _root(address: str) -> str:
    """Returns the folder that contains all matches of a pattern, with its trailing slash."""
    beginning = _MAGIC.split(address, maxsplit=1)[0]
    return beginning[: beginning.rindex("/") + 1]


def _matcher(pattern: str, in_folder: bool, is_image: Callable[[str], bool] = is_image_below) -> Callable[[str], bool]:
    """Returns a function that tests whether an address matches `pattern`.

    Args:
        pattern: The pattern.
        in_folder: Whether the pattern matches folders, so that the address has to be an image below one of them.
        is_image: Tests the path of a file below such a folder, relative to it.

    Raises:
        SourceError: The pattern has a malformed range.
    """
    try:
        compiled = re.compile(_expression(pattern) + ("(?P<below>.+)" if in_folder else ""), re.DOTALL)
    except re.error as error:
        raise SourceError(f"not a pattern: {error}", where=pattern, remedy="write ranges as [a-z]") from error

    skipped = _skipped(pattern)
    start = len(_MAGIC.split(pattern, maxsplit=1)[0])

    def accepts(uri: str) -> bool:
        full_match = compiled.fullmatch(uri)
        if full_match is None or skipped.intersection(uri[start:].split("/")[:-1]):
            return False
        return not in_folder or is_image(full_match["below"])

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
    """Returns the system folders that a pattern does not name."""
    return frozenset(name for name in SYSTEM_FOLDERS if name not in pattern)


def _expression(pattern: str) -> str:
    """Returns the regular expression of a pattern.

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


def _nothing(pattern: str, address: str, extensions: Counter[str] | None = None) -> SourceError:
    if not is_remote(address) and Path(address).is_dir():
        others = f"; it has {format_left_out(extensions)}" if extensions else ""
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
    if _MAGIC.search(address):
        return NoImagesError(
            "no file matches this pattern",
            where=pattern,
            remedy="look at its folder; **/ stands for any number of folders, and upper and lower case differ",
        )
    is_file = has_image_extension(address) or container_kind(address) is not None
    return (SourceError if is_file else NoImagesError)(
        "there is no such file or folder", where=address, remedy="check the address for a typing error"
    )


def format_left_out(extensions: Mapping[str, int]) -> str:
    """Returns counts of files by their extension as text.

    >>> format_left_out({".txt": 2, ".heic": 10})
    '10 .heic, 2 .txt'
    """
    return ", ".join(
        f"{count:,} {name}" for name, count in sorted(extensions.items(), key=lambda item: (-item[1], item[0]))
    )


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
