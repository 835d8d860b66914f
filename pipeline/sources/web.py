"""Images by HTTP and HTTPS: complete, within limits of time and size, or rejected with a reason."""

from __future__ import annotations

import http
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import requests
import tenacity
import urllib3

from conversion import HeaderError, header_number, redirect_target
from pipeline.rejection import Reason, Rejected
from pipeline.settings import WebSettings
from pipeline.sources.file_types import is_web
from pipeline.sources.web_address import host_of, is_among
from pipeline.sources.web_connections import Exchange, exchange, explain, open_session
from pipeline.sources.web_content import check_encoding, decoded
from pipeline.sources.web_hosts import hosts_of
from pipeline.storage.options import StorageOptions, default_options

_T = TypeVar("_T")
_CHUNK = 64 * 2**10
_LONGEST_WAIT_S = 30.0
_LONGEST_VERSION = 1024  # characters: a table holds one of every image
_ETAG, _MODIFIED = "etag:", "modified:"
_WHOLE = frozenset({200, 203})  # 203: a proxy has changed the answer, and says so
_GONE = frozenset({404, 410})
_REFUSED = frozenset({401, 403, 407, 451})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_HEAD = frozenset({400, 405, 501})
_HEADERS = {"Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}


class Fetched(NamedTuple):
    """The content of an image.

    Attributes:
        data: The bytes of the file.
        version: The version of these bytes, as in `ImageReference.version`; empty where unknown.
    """

    data: bytes
    version: str


@dataclass(frozen=True)
class WebLimits:
    """Limits on time and attempts, and on where a fetched list and redirects may lead.

    Attributes:
        connect_s: The longest wait for a connection, in seconds.
        read_s: The longest wait for the next byte, in seconds.
        total_s: The longest time for an image with all attempts and redirects, in seconds.
        attempts: The number of attempts where another may help: no connection, 408, 425, 429, 5xx, a truncated body.
        redirects: The number of redirects to follow; only those to HTTP and HTTPS.
        first_wait_s: The wait before the second attempt, in seconds; it doubles for each further one. A longer
            `Retry-After` takes precedence.
        host_failures: The number of failures in a row after which a host is given up.
        host_s: The time that may be lost on a host in all, in seconds; then it is given up.
        allow_hosts: Hosts that may lead to an address that is not public, besides those that the user or a list's own
            address names; each as `HOST` or `HOST:PORT`.
        run: Names the run: its readers in a process share what they know of hosts. Empty: a reader knows its own.
    """

    connect_s: float = WebSettings.web_connect_timeout
    read_s: float = WebSettings.web_read_timeout
    total_s: float = WebSettings.web_timeout
    attempts: int = WebSettings.web_attempts
    redirects: int = 5
    first_wait_s: float = 0.5
    host_failures: int = WebSettings.web_host_failures
    host_s: float = WebSettings.web_host_timeout
    allow_hosts: tuple[str, ...] = ()
    run: str = ""


@dataclass
class _Visit:
    """One image that is asked for.

    Attributes:
        url: Its address.
        trusted: The host that may lead to any address: that of the user's address, or of the list that names it.
        deadline: When it has to be complete, by `time.monotonic`.
        hosts: The hosts that were asked in the last attempt, in order.
        failed: Whether the last host failed.
    """

    url: str
    trusted: str
    deadline: float
    hosts: list[str] = field(default_factory=list)
    failed: bool = False


class _Again(Exception):  # noqa: N818 - not an error yet
    """An attempt failed, but another one may succeed."""

    def __init__(self, rejected: Rejected, wait_s: float = 0.0) -> None:
        super().__init__(str(rejected))
        self.rejected, self.wait_s = rejected, wait_s


class Web:
    """Fetches images; thread-safe.

    Args:
        max_bytes: The largest image to fetch.
        limits: The limits on time and attempts.
        sleep: Waits a number of seconds between attempts.
        options: Names the User-Agent, see `StorageOptions.user_agent`.
    """

    def __init__(
        self,
        max_bytes: int,
        limits: WebLimits,
        sleep: Callable[[float], None] = time.sleep,
        options: StorageOptions | None = None,
    ) -> None:
        self._max_bytes, self._limits, self._sleep = max_bytes, limits, sleep
        self._options = options or default_options()
        # `requests` does not promise that a session is thread-safe, so each thread has its own.
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()
        self._hosts = hosts_of(limits.run, limits.host_failures, limits.host_s)

    def read(self, url: str, listed_by: str = "") -> Fetched:
        """Returns the image at `url`.

        Args:
            url: The address.
            listed_by: See `ImageReference.listed_by`.

        Raises:
            Rejected: MISSING (404, 410), UNREADABLE, TRUNCATED, TOO_MANY_BYTES, ADDRESS_NOT_ALLOWED.
        """
        return self._visit(url, listed_by, self._get)

    def probe(self, url: str, known: str, listed_by: str = "") -> str:
        """Returns the current version of the image at `url` by a conditional request; empty where unknown.

        Args:
            url: The address.
            known: The version that was read before; empty if none.
            listed_by: See `ImageReference.listed_by`.
        """
        try:
            return self._visit(url, listed_by, lambda visit: self._head(visit, known))
        except Rejected:  # `read` meets the failure again, and reports it
            return ""

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()
            self._local = threading.local()

    def _visit(self, url: str, listed_by: str, attempt: Callable[[_Visit], _T]) -> _T:
        """Asks for an image, and notes what its hosts did."""
        start = time.monotonic()
        visit = _Visit(url, host_of(listed_by or url), start + self._limits.total_s)
        try:
            result = self._try_often(attempt, visit)
        except Rejected:
            if visit.hosts:
                self._hosts.lost(visit.hosts[-1], time.monotonic() - start, failed=visit.failed)
            raise
        for host in visit.hosts:
            self._hosts.succeeded(host)
        return result

    def _try_often(self, attempt: Callable[[_Visit], _T], visit: _Visit) -> _T:
        first = self._limits.first_wait_s
        backoff = tenacity.wait_exponential(multiplier=first, max=_LONGEST_WAIT_S) + tenacity.wait_random(0, first / 4)

        def wait(state: tenacity.RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            return max(backoff(state), failure.wait_s if isinstance(failure, _Again) else 0.0)

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Again),
            stop=tenacity.stop_after_attempt(self._limits.attempts) | tenacity.stop_before_delay(self._limits.total_s),
            wait=wait,
            sleep=self._sleep,
            reraise=True,
        )
        try:
            return retrying(attempt, visit)
        except _Again as error:
            visit.failed = True
            raise error.rejected from error

    def _get(self, visit: _Visit) -> Fetched:
        with self._open("GET", visit, {}) as (response, current):
            _check_status(response)
            encoding = response.headers.get("Content-Encoding", "")
            check_encoding(encoding)
            announced = _length(response)
            if announced > self._max_bytes:
                raise Rejected(Reason.TOO_MANY_BYTES, f"{announced:,} bytes are announced")
            data = self._body(response, visit, current)
            if len(data) < announced:
                raise _Again(
                    Rejected(
                        Reason.TRUNCATED, f"{len(data):,} of {announced:,} bytes arrived, then the connection ended"
                    )
                )
            return Fetched(decoded(data, encoding, self._max_bytes), _version(response, len(data)))

    def _body(self, response: requests.Response, visit: _Visit, current: Exchange) -> bytes:
        data = bytearray()
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                data += chunk
                if len(data) > self._max_bytes:
                    raise Rejected(Reason.TOO_MANY_BYTES, f"more than {self._max_bytes:,} bytes arrived")
        except urllib3.exceptions.ReadTimeoutError as error:
            raise _Again(Rejected(Reason.UNREADABLE, f"no data arrived for {self._limits.read_s:g} s")) from error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            if current.late:
                raise self._late(visit) from error
            raise _Again(Rejected(Reason.TRUNCATED, f"the connection broke off after {len(data):,} bytes")) from error
        if current.late:  # what was cut off may look complete
            raise self._late(visit)
        return bytes(data)

    def _late(self, visit: _Visit) -> Rejected:
        visit.failed = True
        return Rejected(Reason.UNREADABLE, f"not complete after {self._limits.total_s:g} s (web-timeout)")

    def _head(self, visit: _Visit, known: str) -> str:
        condition = _condition(known)
        with self._open("HEAD", visit, condition) as (response, _):
            if response.status_code not in _NO_HEAD:
                return _probed(response, known)
        with self._open("GET", visit, condition) as (response, _):  # only its headers are read
            return _probed(response, known)

    @contextmanager
    def _open(
        self, method: str, visit: _Visit, headers: dict[str, str]
    ) -> Iterator[tuple[requests.Response, Exchange]]:
        """Yields the response after all redirects, with its body unread, and the exchange that it is part of."""
        session, url = self._session(), visit.url
        visit.hosts.clear()
        for _ in range(self._limits.redirects + 1):
            host = host_of(url)
            visit.hosts.append(host)
            self._hosts.check(host)
            remaining = visit.deadline - time.monotonic()
            if remaining <= 0:
                raise self._late(visit)
            public_only = host != visit.trusted and not is_among(host, self._limits.allow_hosts)
            with exchange(remaining, public_only=public_only) as current:
                response = self._send(session, method, url, headers, current=current, visit=visit)
                try:
                    target = redirect_target(response, url)
                    if target is None:
                        yield response, current
                        return
                except HeaderError as error:
                    raise Rejected(Reason.UNREADABLE, str(error)) from error
                finally:
                    response.close()
            url = target
            if not is_web(url):
                raise Rejected(Reason.UNREADABLE, "it redirects to an address that is not on the web")
        raise Rejected(Reason.UNREADABLE, f"it redirects more than {self._limits.redirects} times")

    def _send(
        self,
        session: requests.Session,
        method: str,
        url: str,
        headers: dict[str, str],
        *,
        current: Exchange,
        visit: _Visit,
    ) -> requests.Response:
        remaining = max(visit.deadline - time.monotonic(), 0.001)
        try:
            return session.request(
                method,
                url,
                headers={**_HEADERS, "User-Agent": self._options.user_agent(), **headers},
                timeout=(min(self._limits.connect_s, remaining), min(self._limits.read_s, remaining)),
                stream=True,
                allow_redirects=False,
            )
        except (requests.Timeout, requests.ConnectionError) as error:
            if current.late:
                raise self._late(visit) from error
            what = "no answer in time" if isinstance(error, requests.Timeout) else "no connection"
            raise _Again(Rejected(Reason.UNREADABLE, f"{what}: {explain(error)}")) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            # Such as an address that is malformed. The error quotes it.
            raise Rejected(Reason.UNREADABLE, f"the request failed: {type(error).__name__}") from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = open_session()
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    # In our words: what a server says about itself is not stored.
    phrase = next((known.phrase for known in http.HTTPStatus if known == status), "")
    status_line = f"HTTP {status} {phrase}".strip()
    if status in _WHOLE:
        return
    if status in _GONE:
        raise Rejected(Reason.MISSING, status_line)
    if status in _BUSY:
        raise _Again(Rejected(Reason.UNREADABLE, status_line), _retry_after(response))
    raise Rejected(Reason.UNREADABLE, f"{status_line}: access is refused" if status in _REFUSED else status_line)


def _retry_after(response: requests.Response) -> float:
    return min(header_number(response.headers.get("Retry-After", "")) or 0.0, _LONGEST_WAIT_S)


def _length(response: requests.Response) -> int:
    """Returns the declared length of the body in bytes; -1 where there is none, as for a chunked body."""
    length = header_number(response.headers.get("Content-Length", ""))
    return -1 if length is None or "Transfer-Encoding" in response.headers else length


def _version(response: requests.Response, length: int) -> str:
    """Returns the version: a strong entity tag, or else time of change and length; empty where neither is given."""
    tag = response.headers.get("ETag", "").strip()
    modified = response.headers.get("Last-Modified", "").strip()
    if max(len(tag), len(modified)) > _LONGEST_VERSION:
        return ""
    if tag.startswith('"') and tag.endswith('"') and len(tag) > 2:
        return _ETAG + tag
    return f"{_MODIFIED}{modified};{length}" if modified and length >= 0 else ""


def _condition(known: str) -> dict[str, str]:
    if known.startswith(_ETAG):
        return {"If-None-Match": known.removeprefix(_ETAG)}
    if known.startswith(_MODIFIED):
        return {"If-Modified-Since": known.removeprefix(_MODIFIED).rpartition(";")[0]}
    return {}


def _probed(response: requests.Response, known: str) -> str:
    if response.status_code == 304:
        return known
    _check_status(response)
    return _version(response, _length(response))
