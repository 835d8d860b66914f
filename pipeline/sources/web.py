"""Images behind HTTP and HTTPS: within a time, within a size, whole, or a typed rejection."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urljoin

import requests
import tenacity
import urllib3
from requests.adapters import HTTPAdapter

from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import is_web

_T = TypeVar("_T")
_CHUNK = 64 * 2**10
_LONGEST_WAIT_S = 30.0
_ETAG, _MODIFIED = "etag:", "modified:"
_GONE = frozenset({404, 410})
_REFUSED = frozenset({401, 403, 407, 451})
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
_NO_HEAD = frozenset({400, 405, 501})
_HEADERS = {"User-Agent": "densecast", "Accept": "image/*, */*;q=0.5", "Accept-Encoding": "identity"}


class Fetched(NamedTuple):
    """What was read of an image.

    Attributes:
        data: The bytes of the file.
        version: Of what was read, as in `ImageReference.version`; empty where nothing is known.
    """

    data: bytes
    version: str


@dataclass(frozen=True)
class WebLimits:
    """How long to wait, and how often to try.

    Attributes:
        connect_s: Seconds until a server takes the connection.
        read_s: Seconds without a single byte.
        total_s: Seconds for an image, all attempts together, however slowly and steadily it comes.
        attempts: How often to try where trying again may help: no connection, 408, 425, 429, 5xx, a body cut short.
        redirects: How many to follow; to HTTP and HTTPS only.
        first_wait_s: Seconds before the second attempt; doubled for each further one. `Retry-After` is heeded.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    total_s: float = 300.0
    attempts: int = 4
    redirects: int = 5
    first_wait_s: float = 0.5


class _Again(Exception):  # noqa: N818 - not an error yet
    """An attempt failed in a way that another may not."""

    def __init__(self, rejected: Rejected, wait_s: float = 0.0) -> None:
        super().__init__(str(rejected))
        self.rejected, self.wait_s = rejected, wait_s


class Web:
    """Fetches images; may be used by many threads.

    Args:
        max_bytes: Larger images are not fetched.
        limits: Of time and attempts.
        sleep: Waits between attempts.
    """

    def __init__(self, max_bytes: int, limits: WebLimits, sleep: Callable[[float], None] = time.sleep) -> None:
        self._max_bytes, self._limits, self._sleep = max_bytes, limits, sleep
        # A session is not promised to be safe for threads, so each has its own.
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    def read(self, url: str) -> Fetched:
        """The image at `url`.

        Raises:
            Rejected: MISSING (404, 410), UNREADABLE, TRUNCATED, TOO_MANY_BYTES.
        """
        return self._try_often(lambda deadline: self._get(url, deadline))

    def probe(self, url: str, known: str) -> str:
        """The version of what is at `url` now, by a conditional request without the image; empty where unknown.

        Args:
            url: The address.
            known: The version that was read before; empty if none was.
        """
        try:
            return self._try_often(lambda deadline: self._head(url, known, deadline))
        except Rejected:  # the reader finds out again, and says why
            return ""

    def close(self) -> None:
        """Closes all connections."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()
            self._local = threading.local()

    def _try_often(self, attempt: Callable[[float], _T]) -> _T:
        deadline = time.monotonic() + self._limits.total_s
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
            return retrying(attempt, deadline)
        except _Again as error:
            raise error.rejected from error

    def _get(self, url: str, deadline: float) -> Fetched:
        with self._open("GET", url, {}, deadline) as response:
            _check_status(response)
            encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
            if encoding not in ("", "identity"):
                raise Rejected(Reason.UNREADABLE, f"it comes in the encoding {encoding}, which was not asked for")
            announced = _length(response)
            if announced > self._max_bytes:
                raise Rejected(Reason.TOO_MANY_BYTES, f"{announced:,} bytes are announced")
            data = self._body(response, deadline)
            if len(data) < announced:
                raise _Again(
                    Rejected(Reason.TRUNCATED, f"{len(data):,} of {announced:,} bytes came, then the connection ended")
                )
            return Fetched(data, _version(response, len(data)))

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        """All bytes; what comes in any one packet, so that slow ones cannot outlast the deadline."""
        data = bytearray()
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                data += chunk
                if len(data) > self._max_bytes:
                    raise Rejected(Reason.TOO_MANY_BYTES, f"more than {self._max_bytes:,} bytes came")
                if time.monotonic() > deadline:
                    raise Rejected(Reason.UNREADABLE, f"not complete after {self._limits.total_s:g} s")
        except urllib3.exceptions.ReadTimeoutError as error:
            raise _Again(Rejected(Reason.UNREADABLE, f"nothing came for {self._limits.read_s:g} s")) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _Again(Rejected(Reason.TRUNCATED, f"the connection broke off after {len(data):,} bytes")) from error
        return bytes(data)

    def _head(self, url: str, known: str, deadline: float) -> str:
        condition = _condition(known)
        with self._open("HEAD", url, condition, deadline) as response:
            if response.status_code not in _NO_HEAD:
                return _probed(response, known)
        with self._open("GET", url, condition, deadline) as response:  # only its headers are read
            return _probed(response, known)

    @contextmanager
    def _open(self, method: str, url: str, headers: dict[str, str], deadline: float) -> Iterator[requests.Response]:
        """The answer at the end of all redirects, its body unread."""
        session = self._session()
        for _ in range(self._limits.redirects + 1):
            response = self._send(session, method, url, headers, deadline)
            try:
                target = session.get_redirect_target(response)
                if target is None:
                    yield response
                    return
            finally:
                response.close()
            url = urljoin(url, target)
            if not is_web(url):
                raise Rejected(Reason.UNREADABLE, f"it redirects to {url}")
        raise Rejected(Reason.UNREADABLE, f"it redirects more than {self._limits.redirects} times")

    def _send(
        self, session: requests.Session, method: str, url: str, headers: dict[str, str], deadline: float
    ) -> requests.Response:
        left = deadline - time.monotonic()
        if left <= 0:
            raise Rejected(Reason.UNREADABLE, f"not complete after {self._limits.total_s:g} s")
        _patience.seconds = left
        try:
            return session.request(
                method,
                url,
                headers={**_HEADERS, **headers},
                timeout=(min(self._limits.connect_s, left), min(self._limits.read_s, left)),
                stream=True,
                allow_redirects=False,
            )
        except requests.Timeout as error:
            raise _Again(Rejected(Reason.UNREADABLE, f"no answer in time: {error}")) from error
        except requests.ConnectionError as error:
            raise _Again(Rejected(Reason.UNREADABLE, f"no connection: {error}")) from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:  # no address, for one
            raise Rejected(Reason.UNREADABLE, str(error)) from error

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = _Session()
            for scheme in ("http://", "https://"):
                session.mount(scheme, _Adapter())
            self._local.session = session
            with self._lock:
                self._sessions.append(session)
        return session


def _check_status(response: requests.Response) -> None:
    status = response.status_code
    said = f"HTTP {status} {response.reason or ''}".strip()
    if status == 200:
        return
    if status in _GONE:
        raise Rejected(Reason.MISSING, said)
    if status in _BUSY:
        raise _Again(Rejected(Reason.UNREADABLE, said), _retry_after(response))
    raise Rejected(Reason.UNREADABLE, f"{said}: access is refused" if status in _REFUSED else said)


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isascii() and text.isdigit() else 0.0


def _length(response: requests.Response) -> int:
    """What is announced, or -1; a chunked body tells its end by itself."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and "Transfer-Encoding" not in response.headers else -1


def _version(response: requests.Response, length: int) -> str:
    """By the entity tag if it is a strong one, else by time of change and length; empty where neither is said."""
    tag = response.headers.get("ETag", "").strip()
    if tag.startswith('"') and tag.endswith('"') and len(tag) > 2:
        return _ETAG + tag
    modified = response.headers.get("Last-Modified", "").strip()
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


_patience = threading.local()
"""Seconds that the answer to the current thread's request may take, headers included."""


class _Impatient:
    """A connection that ends when the headers of an answer do not come in time, however steadily they drip."""

    sock: socket.socket | None

    def getresponse(self) -> Any:
        """The answer.

        Raises:
            TimeoutError: It did not come in time.
        """
        late = threading.Event()
        connection = self.sock

        def cut() -> None:
            late.set()
            if connection is not None:
                with suppress(OSError):  # it ended by itself
                    connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(_patience.seconds, cut)
        timer.daemon = True
        timer.start()
        response = None
        try:
            response = super().getresponse()  # type: ignore[misc] # mixed into urllib3's connections below
        finally:
            timer.cancel()
            if late.is_set():
                if response is not None:
                    response.close()
                raise TimeoutError("its headers did not end in time")
        return response


class _Connection(_Impatient, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_Impatient, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Session(requests.Session):
    def resolve_redirects(self, *_: Any, **__: Any) -> Iterator[Any]:
        """None: even where it is told not to follow them, `requests` reads their bodies, however long."""
        return iter(())


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager
