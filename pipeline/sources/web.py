"""Images by HTTP and HTTPS: complete, within limits of time and size, or rejected with a reason."""

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
from pipeline.sources.web_content import check_encoding, decoded
from pipeline.storage.options import StorageOptions, default_options

_T = TypeVar("_T")
_CHUNK = 64 * 2**10
_LONGEST_WAIT_S = 30.0
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
    """Limits on time and attempts.

    Attributes:
        connect_s: The longest wait for a connection, in seconds.
        read_s: The longest wait for the next byte, in seconds.
        total_s: The longest time for an image with all attempts, in seconds.
        attempts: The number of attempts where another may help: no connection, 408, 425, 429, 5xx, a truncated body.
        redirects: The number of redirects to follow; only those to HTTP and HTTPS.
        first_wait_s: The wait before the second attempt, in seconds; it doubles for each further one. A longer
            `Retry-After` takes precedence.
    """

    connect_s: float = 10.0
    read_s: float = 30.0
    total_s: float = 300.0
    attempts: int = 4
    redirects: int = 5
    first_wait_s: float = 0.5


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

    def read(self, url: str) -> Fetched:
        """Returns the image at `url`.

        Raises:
            Rejected: MISSING (404, 410), UNREADABLE, TRUNCATED, TOO_MANY_BYTES.
        """
        return self._try_often(lambda deadline: self._get(url, deadline))

    def probe(self, url: str, known: str) -> str:
        """Returns the current version of the image at `url` by a conditional request; empty where unknown.

        Args:
            url: The address.
            known: The version that was read before; empty if none.
        """
        try:
            return self._try_often(lambda deadline: self._head(url, known, deadline))
        except Rejected:  # `read` meets the failure again, and reports it
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
            encoding = response.headers.get("Content-Encoding", "")
            check_encoding(encoding)
            announced = _length(response)
            if announced > self._max_bytes:
                raise Rejected(Reason.TOO_MANY_BYTES, f"{announced:,} bytes are announced")
            data = self._body(response, deadline)
            if len(data) < announced:
                raise _Again(
                    Rejected(
                        Reason.TRUNCATED, f"{len(data):,} of {announced:,} bytes arrived, then the connection ended"
                    )
                )
            return Fetched(decoded(data, encoding, self._max_bytes), _version(response, len(data)))

    def _body(self, response: requests.Response, deadline: float) -> bytes:
        """Returns the body. Reads packet by packet, so that a slow server cannot exceed the deadline."""
        data = bytearray()
        try:
            while chunk := response.raw.read1(_CHUNK, decode_content=False):
                data += chunk
                if len(data) > self._max_bytes:
                    raise Rejected(Reason.TOO_MANY_BYTES, f"more than {self._max_bytes:,} bytes arrived")
                if time.monotonic() > deadline:
                    raise Rejected(Reason.UNREADABLE, f"not complete after {self._limits.total_s:g} s")
        except urllib3.exceptions.ReadTimeoutError as error:
            raise _Again(Rejected(Reason.UNREADABLE, f"no data arrived for {self._limits.read_s:g} s")) from error
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
        """Yields the response after all redirects, with its body unread."""
        session = self._session()
        for _ in range(self._limits.redirects + 1):
            response = self._send(session, method, url, headers, deadline=deadline)
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
        self, session: requests.Session, method: str, url: str, headers: dict[str, str], *, deadline: float
    ) -> requests.Response:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise Rejected(Reason.UNREADABLE, f"not complete after {self._limits.total_s:g} s")
        _header_timeout.seconds = remaining
        try:
            return session.request(
                method,
                url,
                headers={**_HEADERS, "User-Agent": self._options.user_agent(), **headers},
                timeout=(min(self._limits.connect_s, remaining), min(self._limits.read_s, remaining)),
                stream=True,
                allow_redirects=False,
            )
        except requests.Timeout as error:
            raise _Again(Rejected(Reason.UNREADABLE, f"no answer in time: {error}")) from error
        except requests.ConnectionError as error:
            raise _Again(Rejected(Reason.UNREADABLE, f"no connection: {error}")) from error
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            ValueError,
        ) as error:  # such as an invalid address
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
    status_line = f"HTTP {status} {response.reason or ''}".strip()
    if status in _WHOLE:
        return
    if status in _GONE:
        raise Rejected(Reason.MISSING, status_line)
    if status in _BUSY:
        raise _Again(Rejected(Reason.UNREADABLE, status_line), _retry_after(response))
    raise Rejected(Reason.UNREADABLE, f"{status_line}: access is refused" if status in _REFUSED else status_line)


def _retry_after(response: requests.Response) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_WAIT_S) if text.isascii() and text.isdigit() else 0.0


def _length(response: requests.Response) -> int:
    """Returns the declared length of the body in bytes; -1 where there is none, as for a chunked body."""
    text = response.headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() and "Transfer-Encoding" not in response.headers else -1


def _version(response: requests.Response, length: int) -> str:
    """Returns the version: a strong entity tag, or else time of change and length; empty where neither is given."""
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


_header_timeout = threading.local()
"""`seconds`: the longest time until the headers of the response to the current thread's request are complete."""


class _HeaderTimeout:
    """A connection that closes when the headers of a response are not complete in time, even if bytes keep arriving."""

    sock: socket.socket | None

    def getresponse(self) -> Any:
        """Returns the response.

        Raises:
            TimeoutError: The headers were not complete in time.
        """
        late = threading.Event()
        connection = self.sock

        def cut() -> None:
            late.set()
            if connection is not None:
                with suppress(OSError):  # the connection has ended already
                    connection.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(_header_timeout.seconds, cut)
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
                raise TimeoutError("the headers were not complete in time")
        return response


class _Connection(_HeaderTimeout, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_HeaderTimeout, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Session(requests.Session):
    def resolve_redirects(self, *_: object, **__: object) -> Iterator[requests.Response]:
        """Yields nothing. `requests` reads the bodies of redirects, of any length, even if it does not follow."""
        return iter(())


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # the arguments pass through
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager
