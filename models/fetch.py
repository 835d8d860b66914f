"""Downloads the published weights of a catalog entry: resumed, verified, and put in place complete or not at all.

Files beside `<file>` while they are needed: `<file>.partial`, the bytes that have arrived; `<file>.partial.version`,
the ETag or date of the version that they belong to, so that parts of two versions are never joined; `<file>.rejected`,
a file with a wrong digest, kept for inspection; `<file>.lock`, the lock of the one process that downloads.
"""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs
import requests
import tenacity

from models.catalog import CatalogEntry, PublishedWeights
from models.errors import DigestError, FetchError

# Called with the number of bytes so far, those of earlier attempts included, and the size of the file if it is known.
# The number falls if a download has to start over.
Progress = Callable[[int, int | None], object]

# Requests before giving up; the bytes that have arrived are kept for the next call.
ATTEMPTS = 5
# Seconds to wait for a connection, and for its next bytes.
TIMEOUT_S = (10.0, 60.0)
# Seconds to wait for another process that downloads the same file.
LOCK_TIMEOUT_S = 3600.0

_LONGEST_WAIT_S = 30.0
_CHUNK_BYTES = 1 << 16  # the bytes that a broken connection may lose
_RETRIED_STATUSES = {408, 425, 429}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")
_UNSATISFIED_RANGE = re.compile(r"bytes \*/(\d+)")


def default_directory() -> Path:
    """Returns the directory of weights: `$DENSECAST_HOME`, or the platform's cache directory of this user."""
    home = os.environ.get("DENSECAST_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("densecast"))


def fetch(
    entry: CatalogEntry,
    directory: Path | str | None = None,
    *,
    session: requests.Session | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Returns the path of the weights of `entry`, which it downloads unless they are present and intact.

    A broken download continues, in this call and in the next one. A present file is only read, so that the directory
    may be read-only. If the publisher states no digest, a present file is used as it is. Weights that are part of the
    package are never downloaded.

    Args:
        entry: The model.
        directory: The directory of the file; `default_directory()` if None. It is created if it is missing.
        session: A session with your proxies, certificates or headers, which stays open; by default a new one.
        progress: Called as bytes arrive.
        sleep: Waits for so many seconds before the next attempt: 1, 2, 4 and 8.

    Raises:
        DigestError: The file has another SHA-1 than published; it was kept as `<file>.rejected`.
        FetchError: The server cannot be reached, refuses, or sends a web page instead of weights; the directory cannot
            be written; or another process kept the lock for `LOCK_TIMEOUT_S`.
    """
    if entry.published is None:
        return _shipped(entry)
    directory = default_directory() if directory is None else Path(directory)
    place = _Place(entry, entry.published, directory / entry.published.filename)
    try:
        # Most calls end here, without a lock: they wait for no download and write nothing.
        if place.file.is_file() and place.is_intact(place.file):
            return place.file
        place.file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place.beside(".lock"), timeout=LOCK_TIMEOUT_S):
            if place.file.is_file():  # another process has downloaded it meanwhile
                place.accept(place.file)
            else:
                _download(place, session, progress, sleep)
                place.accept(place.partial)
    except filelock.Timeout as error:
        raise place.failure(f"another process has kept {error.lock_file} locked for {LOCK_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise place.failure(f"the file cannot be read or written: {error}") from error
    return place.file


def _shipped(entry: CatalogEntry) -> Path:
    """Returns the path of weights that are part of the package; raises FetchError if they are missing."""
    file = entry.shipped_weights
    if file is None or not file.is_file():
        raise FetchError(
            f"the weights of {entry.name} are missing",
            where=str(file),
            why="they are part of densecast and published nowhere else",
            remedy="install densecast again: its files are incomplete",
        )
    return file


class _AttemptError(Exception):
    """An attempt failed, but the next one may succeed; never leaves this module."""


@dataclass(frozen=True, slots=True)
class _Place:
    """The wanted file, and the files beside it."""

    entry: CatalogEntry
    published: PublishedWeights
    file: Path

    @property
    def partial(self) -> Path:
        return self.beside(".partial")

    def beside(self, suffix: str) -> Path:
        return self.file.with_name(self.file.name + suffix)

    def failure(self, why: str) -> FetchError:
        """Returns the error to raise, with all that a user needs to get the file by hand."""
        by_hand = f"download {self.published.url} by hand and put it at {self.file}"
        if self.published.sha1:
            by_hand += f" (SHA-1 {self.published.sha1})"
        kept = (
            f"call again to continue after the {_size(self.partial)} bytes that arrived; or "
            if _size(self.partial)
            else ""
        )
        return FetchError(
            f"the weights of {self.entry.name} could not be fetched",
            where=self.published.url,
            why=why,
            remedy=f"{kept}{by_hand}",
        )

    def not_weights(self, kept: str = "") -> FetchError:
        """Returns the error for a web page instead of weights."""
        return self.failure(
            f"the server sent a web page (HTML) instead of weights{kept}: from a proxy or a login, or the file moved"
        )

    def is_intact(self, file: Path) -> bool:
        """Returns whether the file has the published SHA-1; if there is none, whether it is not a web page."""
        if self.published.sha1 is None:
            return not _is_html(_first_bytes(file))
        return _sha1(file) == self.published.sha1.lower()

    def accept(self, file: Path) -> None:
        """Moves `file` to its final name if it is intact, and to `<file>.rejected` if not.

        Raises:
            DigestError: The file has another SHA-1 than published.
            FetchError: The file is a web page.
        """
        if self.is_intact(file):
            if file != self.file:
                # The bytes are written before the name: a crash in between must not leave the name with other bytes.
                with file.open("r+b") as stream:
                    os.fsync(stream.fileno())
                file.replace(self.file)
                _sync_directory(self.file.parent)
            self._forget_version()
            return
        digest = _sha1(file)
        kept = self._rejected(digest)
        file.replace(kept)
        self._forget_version()
        if _is_html(_first_bytes(kept)):
            raise self.not_weights(f" (kept at {kept})")
        raise DigestError(
            f"not the weights of {self.entry.name} as published: expected SHA-1 {self.published.sha1}, got {digest}",
            where=str(self.file),
            why=f"the file is damaged, or another file; its {_size(kept)} bytes were moved to {kept}",
            remedy=f"call again to download it once more; if it has the SHA-1 {digest} again, the file at "
            f"{self.published.url} has changed: get the original elsewhere and put it at {self.file}",
        )

    def _rejected(self, digest: str) -> Path:
        """Returns a name for a rejected file that replaces no file of other content."""
        number, name = 1, self.beside(".rejected")
        while name.exists() and _sha1(name) != digest:
            number += 1
            name = self.beside(f".rejected-{number}")
        return name

    def version(self) -> str | None:
        """Returns the version that the partial file belongs to, in the form of an If-Range header."""
        try:
            return self.beside(".partial.version").read_text(encoding="latin-1") or None
        except FileNotFoundError:
            return None

    def start(self, version: str | None) -> None:
        """Empties the partial file, and notes the version that it will belong to."""
        self.partial.write_bytes(b"")
        self._forget_version()
        if version is not None:
            self.beside(".partial.version").write_text(version, encoding="latin-1")

    def _forget_version(self) -> None:
        self.beside(".partial.version").unlink(missing_ok=True)


def _download(
    place: _Place, session: requests.Session | None, progress: Progress | None, sleep: Callable[[float], None]
) -> None:
    """Completes the partial file.

    Raises:
        FetchError: It could not be completed.
    """
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(ATTEMPTS),
        wait=tenacity.wait_exponential(multiplier=1, max=_LONGEST_WAIT_S),
        retry=tenacity.retry_if_exception_type(_AttemptError),
        sleep=sleep,
        reraise=True,
    )
    try:
        with requests.Session() if session is None else contextlib.nullcontext(session) as web:
            retrying(_attempt, place, web, progress)
    except _AttemptError as error:
        raise place.failure(f"{error}, at the last of {ATTEMPTS} attempts") from error
    except requests.RequestException as error:
        raise place.failure(f"the request failed: {error}") from error


def _attempt(place: _Place, session: requests.Session, progress: Progress | None) -> None:
    """Makes one request: asks for what is missing of the partial file and appends it.

    Raises:
        _AttemptError: It failed, but another attempt may succeed.
        FetchError: It failed for good.
        requests.RequestException: No request can be made, for example for an invalid address.
    """
    offset, version = _size(place.partial), place.version()
    if version is None and place.published.sha1 is None:
        offset = 0  # nothing could show afterwards whether the parts belong together
    # Encoded bytes could not be compared with ranges, nor hashed.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if version is not None:
            headers["If-Range"] = version
    try:
        with session.get(place.published.url, headers=headers, stream=True, timeout=TIMEOUT_S) as response:
            if offset and response.status_code == 416 and _covers(response, offset):
                return
            total = _begin(place, response, offset, version)
            _append(place, response, total, progress)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _AttemptError(f"the connection failed: {error}") from error


def _covers(response: requests.Response, offset: int) -> bool:
    """Returns whether an answer 416 means that nothing is missing: a call ended between last byte and rename."""
    size = _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return size is not None and int(size[1]) == offset


def _begin(place: _Place, response: requests.Response, offset: int, version: str | None) -> int | None:
    """Checks the answer's head, and empties the partial file unless the body continues it.

    Returns:
        The size of the whole file in bytes, or None if the server does not state it.

    Raises:
        _AttemptError: The server may answer differently later, or the partial file was emptied.
        FetchError: The answer is final.
    """
    status = response.status_code
    answer = f"the server answered {status} {response.reason}".rstrip()
    if status in _RETRIED_STATUSES or status >= 500:
        raise _AttemptError(answer)
    if status not in ((200, 206, 416) if offset else (200,)):
        raise place.failure(answer)
    current = _version(response.headers)
    if status == 416:
        place.start(None)
        raise _AttemptError(f"{answer}: the file has fewer than the {offset} bytes that arrived before")
    if response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml")):
        raise place.not_weights()  # before the partial file is emptied for it
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise place.failure(
            f"the server sends the file compressed ({response.headers['Content-Encoding']}), which was not requested"
        )
    length = response.headers.get("Content-Length", "")
    if status == 200:
        place.start(current)
        return int(length) if length.isdigit() else None
    span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if span is None or int(span[1]) != offset or (version and current and version != current):
        place.start(None)
        raise _AttemptError("the server sent another range or version than requested")
    return int(span[3]) if span[3].isdigit() else None


def _append(place: _Place, response: requests.Response, total: int | None, progress: Progress | None) -> None:
    """Writes the body to the partial file.

    Raises:
        _AttemptError: It ended early, or was longer than announced.
    """
    with place.partial.open("ab") as stream:
        done = stream.tell()
        if progress:
            progress(done, total)
        for chunk in response.iter_content(_CHUNK_BYTES):
            stream.write(chunk)
            done += len(chunk)
            if progress:
                progress(done, total)
    if done == 0:
        raise _AttemptError("the server sent an empty file")
    if total is not None and done > total:
        place.start(None)
        raise _AttemptError(f"the server announced {total} bytes and sent {done}")
    if total is not None and done < total:
        raise _AttemptError(f"the connection ended after {done} of {total} bytes")


def _version(headers: Mapping[str, str]) -> str | None:
    """Returns a value for If-Range (RFC 9110, 13.1.5): a strong ETag, or else the date of modification."""
    tag = headers.get("ETag", "")
    return tag if tag.startswith('"') else headers.get("Last-Modified")


def _size(file: Path) -> int:
    """Returns the size in bytes; 0 for a missing or inaccessible file, since the next access reports that."""
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _sha1(file: Path) -> str:
    with file.open("rb") as stream:
        # Publishers state SHA-1. It detects damage, and nobody knows how to make a second file of a given SHA-1.
        return hashlib.file_digest(stream, lambda: hashlib.sha1(usedforsecurity=False)).hexdigest()


def _first_bytes(file: Path) -> bytes:
    with file.open("rb") as stream:
        return stream.read(1024)


def _is_html(first: bytes) -> bool:
    return first.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith((b"<!doctype html", b"<html"))


def _sync_directory(directory: Path) -> None:
    """Makes a rename durable; Windows has no such call and needs none."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
