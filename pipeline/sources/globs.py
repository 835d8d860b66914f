"""Folders, files and patterns into references.

Patterns mean what they mean to a shell with `globstar` set: `*` and `?` stop at a slash, `**/` is any number of
folders, none included, and names that begin with a dot are matched only by a pattern that writes the dot; names of
folders that systems make, such as `lost+found`, only by one that writes them. Beam's own matcher differs (2.77, tried):
`**/` wants at least one folder, `?` matches a slash, hidden files match, a relative `*.jpg` matches nothing, a name
with a bracket cannot be asked for, and an unreadable folder is skipped without a word. So patterns are matched here,
and Beam lists what is behind `scheme://`.
"""

import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from apache_beam.io.filesystems import FileSystems

from conversion.files import PARTIAL_SUFFIX
from pipeline import storage
from pipeline.errors import SourceError
from pipeline.sources.reference import ImageReference, resolve

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .webp .bmp .gif .tif .tiff .ppm .pgm .pbm .pnm".split()  # noqa: SIM905
)
"""Of the formats that `pipeline.decoding` decodes; compared without regard to case."""

_MAGIC = re.compile(r"[*?\[]")
_SYSTEM_FOLDERS = frozenset({"lost+found", "$RECYCLE.BIN", "System Volume Information", "@eaDir", "__MACOSX"})
"""What systems leave in collections: unreadable, or full of thumbnails."""


def match(pattern: str) -> Iterator[ImageReference]:
    """The images that `pattern` names, sorted by address.

    A folder means every file below it, at any depth, whose extension is an image's; hidden files and folders, files
    still being written (`.partial`) and folders of the system are left out, symbolic links to folders not followed. A
    pattern is taken at its word: what it matches is an image, whatever its extension; one that ends in a slash means
    the folders it matches. A file means itself, pattern characters in its name or not.

    The listing is held in memory (about 300 bytes a file); name larger collections by manifest, or by several patterns.

    Raises:
        SourceError: Nothing matches, a folder cannot be read, or the scheme is not known.
    """
    address = resolve(pattern)
    folder = pattern.endswith("/")
    try:
        found = sorted(_find_remote(address) if storage.is_remote(address) else _find_local(address, folder))
    except storage.StorageError as error:
        raise SourceError(error.what, where=error.where or pattern, remedy=error.remedy) from error
    if not found:
        raise _nothing(pattern, address)
    return iter(found)


def check(pattern: str) -> None:
    """Finds out cheaply, without listing anything, that `pattern` can match nothing.

    Raises:
        SourceError: The scheme is not known, the pattern is malformed, or a local path does not exist.
    """
    address = resolve(pattern)
    if storage.is_remote(address):
        try:
            FileSystems.get_filesystem(address)
        except (ValueError, OSError) as error:
            raise _no_filesystem(address) from error
        _matcher(address, in_folder=address.endswith("/"))
    elif not Path(address).exists():
        _matcher(address, in_folder=pattern.endswith("/"))
        if not _MAGIC.search(address) or not Path(_root(address)).is_dir():
            raise _nothing(pattern, address)


def _find_local(address: str, folder: bool) -> Iterable[ImageReference]:
    if Path(address).is_file():
        return [ImageReference(address, size_bytes=Path(address).stat().st_size)]
    if Path(address).is_dir():
        root = address.rstrip("/") + "/"
        return (reference for reference in _walk(root) if _is_image_below(reference.uri[len(root) :]))
    if not _MAGIC.search(address):
        return ()
    if not Path(_root(address)).is_dir():
        return ()
    accepts = _matcher(address + "/" * folder, folder)
    deep = folder or "**" in address
    levels = None if deep else address[len(_root(address)) :].count("/")
    return (reference for reference in _walk(_root(address), levels, address) if accepts(reference.uri))


def _walk(root: str, levels: int | None = None, pattern: str = "") -> Iterator[ImageReference]:
    """Files below `root` (which ends in a slash), down to `levels` folders below it."""

    def fail(error: OSError) -> None:
        raise SourceError(
            f"a folder cannot be read: {error.strerror}",
            where=str(error.filename),
            why="its images would be missing without a word",
            remedy="give the user who runs densecast access to it, or name the other folders one by one",
        )

    skipped = _skipped(pattern)
    hidden = "/." in pattern[len(root) - 1 :]
    for folder, folders, files in os.walk(root, onerror=fail):
        if levels is not None and folder[len(root) :].strip("/").count("/") + (folder != root) >= levels:
            folders.clear()
        folders[:] = [name for name in folders if name not in skipped and (hidden or not name.startswith("."))]
        for name in files:
            path = f"{folder.rstrip('/')}/{name}"
            try:
                status = Path(path).stat()
            except OSError:
                # A link to nothing, or a file gone meanwhile: for the reader to reject, in a row of its own.
                yield ImageReference(path)
                continue
            if stat.S_ISREG(status.st_mode):  # reading a pipe would never end
                yield ImageReference(path, size_bytes=status.st_size)


def _find_remote(address: str) -> Iterable[ImageReference]:
    if "*" in address:
        return _list_remote(address, _matcher(address, in_folder=address.endswith("/")))
    # Object stores have no folders, and Hadoop says of folders that they exist: the name decides what is tried first.
    attempts: list[Callable[[str], list[ImageReference]]] = [_remote_file, _below_remote]
    if not _has_image_extension(address):
        attempts.reverse()
    if _MAGIC.search(address) and not address.endswith("/"):
        attempts = [_remote_file, lambda pattern: _list_remote(pattern, _matcher(pattern, in_folder=False))]
    return next((found for attempt in attempts if (found := attempt(address))), [])


def _remote_file(address: str) -> list[ImageReference]:
    size = None if address.endswith("/") else storage.size_of(address)
    return [] if size is None else [ImageReference(address, size_bytes=size)]


def _below_remote(address: str) -> list[ImageReference]:
    folder = address.rstrip("/") + "/"
    return _list_remote(
        folder, lambda uri: uri.startswith(folder) and not uri.endswith("/") and _is_image_below(uri[len(folder) :])
    )


def _list_remote(address: str, accepts: Callable[[str], bool]) -> list[ImageReference]:
    # Beam cannot quote pattern characters, so it lists all that begins as the pattern does.
    beginning = _MAGIC.split(address, maxsplit=1)[0]
    try:
        listed = FileSystems.match([beginning + "**"])[0].metadata_list
    except ValueError as error:
        raise _no_filesystem(address) from error
    except OSError as error:  # Beam's own, which holds the client library's
        raise SourceError(
            f"cannot be listed: {error}",
            where=address,
            remedy="check the credentials, the bucket and the network, then try again",
        ) from error
    return [ImageReference(file.path, size_bytes=file.size_in_bytes) for file in listed if accepts(file.path)]


def _root(address: str) -> str:
    """The folder that all matches of a pattern are below, with its slash."""
    beginning = _MAGIC.split(address, maxsplit=1)[0]
    return beginning[: beginning.rindex("/") + 1]


def _is_image_below(path: str) -> bool:
    """Whether the file at `path`, relative to a folder that was asked for, is one of its images."""
    if not _has_image_extension(path):
        return False
    names = path.split("/")
    return not (
        any(name.startswith(".") or name.endswith(PARTIAL_SUFFIX) for name in names)
        or _SYSTEM_FOLDERS.intersection(names[:-1])
    )


def _has_image_extension(path: str) -> bool:
    return posixpath.splitext(path)[1].lower() in IMAGE_EXTENSIONS


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
        return not in_folder or _is_image_below(found["below"])

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
    return frozenset(name for name in _SYSTEM_FOLDERS if name not in pattern)


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
    if not storage.is_remote(address) and Path(address).is_dir():
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


def _no_filesystem(address: str) -> SourceError:
    scheme = FileSystems.get_scheme(address)
    return SourceError(
        f"nothing here reads {scheme}://",
        where=address,
        remedy="install the extra for it: densecast[gcp] for gs://, densecast[aws] for s3://; "
        "download what is behind http:// first",
    )
