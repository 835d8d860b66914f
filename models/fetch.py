"""Downloads the published weights of a catalog entry: resumed, verified, and put in place complete or not at all.

Files beside `<file>` while they are needed: `<file>.partial`, the bytes that have arrived; `<file>.partial.version`,
the ETag or date of the version that they belong to, so that parts of two versions are never joined; `<file>.rejected`,
a file with a wrong digest, kept for inspection; `<file>.lock`, the lock of the one process that downloads. Where the
publisher states no digest, `<file>.sha256` keeps the digest of the first download, and later ones are compared with it.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import filelock
import platformdirs
import requests
import tenacity

from conversion import HeaderError, HttpSession, header_number, redirect_target
from models.entry import CatalogEntry
from models.errors import FetchError
from models.weights_file import WeightsFile, size_of

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
_MOST_REDIRECTS = 10
_LONGEST_VERSION = 1024
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
    allow_http: bool = False,
    sleep: Callable[[float], None] = time.sleep,
) -> Path:
    """Returns the path of the weights of `entry`, which it downloads unless they are present and intact.

    A broken download continues, in this call and in the next one. A present file is only read, so that the directory
    may be read-only. If the publisher states no digest, the file has to be the same as the first one that was used from
    the directory. Weights that are part of the package are never downloaded.

    Args:
        entry: The model.
        directory: The directory of the file; `default_directory()` if None. It is created if it is missing.
        session: A session with your proxies, certificates or headers, which stays open; by default a new one.
        progress: Called as bytes arrive.
        allow_http: Whether weights without a published digest may come over plain HTTP, where anybody on the way can
            replace them.
        sleep: Waits for so many seconds before the next attempt: 1, 2, 4 and 8.

    Raises:
        DigestError: The file has another digest than published, or than the first one; it was kept as
            `<file>.rejected`.
        FetchError: Plain HTTP is needed and not allowed. The server cannot be reached, refuses, or sends a web page
            instead of weights. The directory cannot be written. Another process kept the lock for `LOCK_TIMEOUT_S`.
    """
    if entry.published is None:
        return _shipped(entry)
    directory = default_directory() if directory is None else Path(directory)
    place = WeightsFile(entry, entry.published, directory / entry.published.filename)
    is_safe = allow_http or entry.published.sha1 is not None
    try:
        # Most calls end here, without a lock: they wait for no download and write nothing.
        if place.file.is_file() and place.is_intact(place.file):
            with contextlib.suppress(OSError):  # the directory may be read-only
                place.note(place.file)
            return place.file
        place.file.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(place.beside(".lock"), timeout=LOCK_TIMEOUT_S):
            if place.file.is_file():  # another process has downloaded it meanwhile
                place.accept(place.file)
            else:
                _download(place, session, progress, sleep, allow_http=is_safe)
                place.accept(place.partial)
    except filelock.Timeout as error:
        raise place.failure(f"another process has kept {error.lock_file} locked for {LOCK_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise place.failure(f"the file cannot be read or written: {error}") from error
    return place.file


def cautions(entry: CatalogEntry, directory: Path | str | None = None) -> tuple[str, ...]:
    """Returns what a user should know before `fetch` downloads something; empty where it downloads nothing.

    Args:
        entry: The model.
        directory: As for `fetch`.
    """
    if entry.published is None or entry.published.sha1 is not None:
        return ()
    file = (default_directory() if directory is None else Path(directory)) / entry.published.filename
    if file.is_file():
        return ()
    is_new = not file.with_name(f"{file.name}.sha256").is_file()
    first = (
        "nothing shows whether the download is the original; its SHA-256 is kept, and later downloads have to match it"
    )
    later = "the download has to match the SHA-256 of the first one"
    said = [f"the publisher states no digest of {file.name}: {first if is_new else later}"]
    if urlsplit(entry.published.url).scheme == "http":
        said.append(f"it is published over plain HTTP, where anybody on the way can replace it: {entry.published.url}")
    return tuple(said)


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


def _download(
    place: WeightsFile,
    session: requests.Session | None,
    progress: Progress | None,
    sleep: Callable[[float], None],
    *,
    allow_http: bool,
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
        with HttpSession() if session is None else contextlib.nullcontext(session) as web:
            retrying(_attempt, place, web, progress, allow_http=allow_http)
    except _AttemptError as error:
        raise place.failure(f"{error}, at the last of {ATTEMPTS} attempts") from error
    except (requests.RequestException, ValueError) as error:  # a session of the user's may follow redirects itself
        raise place.failure(f"the request failed: {error}") from error


def _attempt(place: WeightsFile, session: requests.Session, progress: Progress | None, *, allow_http: bool) -> None:
    """Makes one request: asks for what is missing of the partial file and appends it.

    Raises:
        _AttemptError: It failed, but another attempt may succeed.
        FetchError: It failed for good.
        requests.RequestException: No request can be made, for example for an invalid address.
    """
    offset, version = size_of(place.partial), place.version()
    if version is None and place.published.sha1 is None:
        offset = 0  # nothing could show afterwards whether the parts belong together
    # Encoded bytes could not be compared with ranges, nor hashed.
    headers = {"Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if version is not None:
            headers["If-Range"] = version
    try:
        with _request(place, session, headers, allow_http=allow_http) as response:
            if offset and response.status_code == 416 and _covers(response, offset):
                return
            total = _begin(place, response, offset, version)
            _append(place, response, total, progress)
    except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
        raise _AttemptError(f"the connection failed: {error}") from error


def _request(
    place: WeightsFile, session: requests.Session, headers: Mapping[str, str], *, allow_http: bool
) -> requests.Response:
    """Returns the answer after all redirects, with its body unread.

    Raises:
        FetchError: It is not allowed to ask there, or a redirect leads nowhere.
        requests.RequestException: There is no answer.
    """
    url = place.published.url
    for _ in range(_MOST_REDIRECTS + 1):
        if urlsplit(url).scheme == "http" and not allow_http:
            raise place.failure(
                "the publisher states no digest, and the download comes over plain HTTP, where anybody on the way can"
                " replace it; to take it all the same, give --allow-http (allow_http=True)"
            )
        response = session.get(url, headers=headers, stream=True, timeout=TIMEOUT_S, allow_redirects=False)
        try:
            target = redirect_target(response, url)
        except HeaderError as error:
            response.close()
            raise place.failure(str(error)) from error
        if target is None:
            return response
        response.close()
        url = target
    raise place.failure(f"the server redirects more than {_MOST_REDIRECTS} times")


def _covers(response: requests.Response, offset: int) -> bool:
    """Returns whether an answer 416 means that nothing is missing: a call ended between last byte and rename."""
    size = _UNSATISFIED_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    return size is not None and header_number(size[1]) == offset


def _begin(place: WeightsFile, response: requests.Response, offset: int, version: str | None) -> int | None:
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
    if status == 200:
        place.start(current)
        return header_number(response.headers.get("Content-Length", ""))
    span = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    total = header_number(span[3]) if span else None
    is_wanted = span and header_number(span[1]) == offset and (total is not None or span[3] == "*")
    if not is_wanted or (version and current and version != current):
        place.start(None)
        raise _AttemptError("the server sent another range or version than requested")
    return total


def _append(place: WeightsFile, response: requests.Response, total: int | None, progress: Progress | None) -> None:
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
    version = tag if tag.startswith('"') else headers.get("Last-Modified", "")
    # It is kept in a file and sent back: one that cannot be is worth nothing.
    return version if version.isprintable() and 0 < len(version) <= _LONGEST_VERSION else None
