"""Addresses of files: tells local from remote ones, and joins them, without access to any storage."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from urllib.parse import unquote

from pipeline.storage.errors import StorageError, UnavailableError

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*)://")


def scheme_of(address: str) -> str | None:
    """Returns the scheme of an address in lower case; None where it is a plain path.

    >>> scheme_of("S3://bucket/a.jpg"), scheme_of("photos/a.jpg")
    ('s3', None)
    """
    match = _SCHEME.match(address)
    return match[1].lower() if match else None


def is_remote(address: str) -> bool:
    """Returns whether an address is remote: it has a scheme other than `file`.

    >>> is_remote("s3://bucket/a.jpg"), is_remote("file:///a.jpg"), is_remote("photos/a.jpg")
    (True, False, False)
    """
    return scheme_of(address) not in (None, "file")


def local_path(address: str) -> Path:
    """Returns the path of a local address.

    Args:
        address: A plain path, or a `file://` one with percent escapes.

    Raises:
        StorageError: The address is remote, or a `file://` one that names another host.

    >>> local_path("file:///photos/a%20cat.jpg").as_posix()
    '/photos/a cat.jpg'
    """
    if is_remote(address):
        raise StorageError("a local path is needed here", where=address, remedy="copy the file to a local disk first")
    if scheme_of(address) is None:
        return Path(address)
    host, _, rest = address.split("://", 1)[1].partition("/")
    if host not in ("", "localhost"):
        raise StorageError(f"names the host {host!r}", where=address, remedy="write file:///path, with three slashes")
    return Path("/" + unquote(rest))


def check_encoding() -> None:
    """Checks that file names are read as UTF-8, so that an address does not depend on the locale.

    Raises:
        UnavailableError: They are not.
    """
    encoding = sys.getfilesystemencoding()
    if encoding.lower() != "utf-8":
        raise UnavailableError(
            f"this process reads file names as {encoding}, not as UTF-8",
            why="a file would have another address in the table than under a UTF-8 locale, and be scored again",
            remedy="set LC_ALL=C.UTF-8 or PYTHONUTF8=1 in the environment of every process that runs densecast",
        )


def absolute(path: str | os.PathLike[str]) -> str:
    """Returns a local path as an absolute one without `.` and `..`, which names what the path names.

    `..` after a symbolic link means the parent of the folder that the link leads to, as for the operating system. So
    such a link is resolved; all others stay.
    """
    text = os.fspath(path)
    found = "/"
    for name in (text if text.startswith("/") else f"{os.getcwd()}/{text}").split("/"):  # noqa: PTH109
        if name == "..":
            found = os.path.realpath(found) if os.path.islink(found) else found  # noqa: PTH114
            found = found[: found.rindex("/")] or "/"
        elif name not in ("", "."):
            found = f"{found.rstrip('/')}/{name}"
    return found


def join(folder: str, *names: str) -> str:
    """Returns the address of `names` below `folder`, with the separator of the folder's storage.

    >>> join("s3://bucket/maps", "_densecast", "runs")
    's3://bucket/maps/_densecast/runs'
    """
    if is_remote(folder):
        return "/".join([folder.rstrip("/"), *(name.strip("/") for name in names)])
    return str(local_path(folder).joinpath(*names))
