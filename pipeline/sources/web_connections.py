"""Connections to web servers that are cut off in time, and that lead to public addresses where they have to."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy

from conversion import HttpSession
from pipeline.rejection import Reason, Rejected
from pipeline.sources.permissions import is_public

_SECURED = "https"


class Exchange:
    """One request and its answer, by the thread that made it.

    Attributes:
        public_only: Whether connections may lead to public addresses only.
    """

    def __init__(self, seconds: float, *, public_only: bool) -> None:
        self.public_only = public_only
        self._late = threading.Event()
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True
        self._timer.start()

    @property
    def late(self) -> bool:
        """Whether the time was over and the connection was cut off."""
        return self._late.is_set()

    def watch(self, connection: socket.socket) -> None:
        """Cuts a connection off when the time is over."""
        self._sockets.append(connection)
        if self.late:
            self._cut()

    def end(self) -> None:
        """Watches no longer."""
        self._timer.cancel()

    def _cut(self) -> None:
        self._late.set()
        for connection in self._sockets:
            with suppress(OSError):  # the connection has ended already
                connection.shutdown(socket.SHUT_RDWR)


_current = threading.local()
"""`exchange`: the exchange of the current thread."""


def _is_of_others(record: logging.LogRecord) -> bool:
    """Returns whether a warning is not about an answer of our exchanges.

    urllib3 warns of damaged headers, and quotes the address, which may hold a secret, and what the server sent.
    """
    return record.levelno < logging.WARNING or not hasattr(_current, "exchange")


logging.getLogger("urllib3.connection").addFilter(_is_of_others)


@contextmanager
def exchange(seconds: float, *, public_only: bool = False) -> Iterator[Exchange]:
    """Limits what the current thread does with a session of `open_session`, however slowly a server sends.

    Timeouts of `requests` limit the wait for the next byte. A server that sends a byte now and then, in the headers,
    the body or the trailers, would never exceed them.

    Args:
        seconds: The time from now to the end of the body.
        public_only: Whether connections may lead to public addresses only; a connection raises Rejected otherwise.
    """
    _current.exchange = current = Exchange(max(seconds, 0.0), public_only=public_only)
    try:
        yield current
    finally:
        current.end()
        del _current.exchange


def open_session() -> requests.Session:
    """Returns a session for one thread, whose requests are made within an `exchange`."""
    session = HttpSession()
    for scheme in ("http://", f"{_SECURED}://"):
        session.mount(scheme, _Adapter())
    return session


def explain(error: BaseException) -> str:
    """Returns why a request failed, without the address, which may hold secrets, and without what the server sent."""
    cause: BaseException | None = error
    for _ in range(8):
        if isinstance(cause, urllib3.exceptions.NameResolutionError):
            return "the name of the host cannot be resolved"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {getattr(cause, 'verify_message', '') or cause.reason or 'it failed'}"
        if isinstance(cause, OSError) and cause.strerror and not isinstance(cause, requests.RequestException):
            return cause.strerror
        inner = getattr(cause, "reason", None) or next(
            (arg for arg in getattr(cause, "args", ()) if _is_error(arg)), None
        )
        following = inner if _is_error(inner) else cause.__cause__ or cause.__context__ if cause else None
        if following is None:
            break
        cause = following
    return type(cause).__name__


def _is_error(value: object) -> bool:
    return isinstance(value, BaseException)


def _connect(connection: urllib3.connection.HTTPConnection) -> socket.socket:
    """Opens the socket of a connection, within its time for connecting however many addresses its host has.

    Raises:
        Rejected: The host has no address that is allowed.
    """
    # Not `connection.host`: a trailing dot tells the resolver not to search other domains.
    name, seconds = connection._dns_host.strip("[]"), connection.timeout
    deadline = time.monotonic() + float(seconds) if isinstance(seconds, int | float) else None
    try:
        found = socket.getaddrinfo(
            name, connection.port, urllib3.util.connection.allowed_gai_family(), socket.SOCK_STREAM
        )
    except UnicodeError as error:
        raise urllib3.exceptions.LocationParseError("the host") from error
    except socket.gaierror as error:
        raise urllib3.exceptions.NameResolutionError(connection.host, connection, error) from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if _current.exchange.public_only and connection.proxy is None:
        addresses = [address for address in addresses if is_public(address)]
        if not addresses:
            raise _not_public(connection.host)
    failure: OSError = OSError("the host has no address")
    for address in addresses:
        remaining = None if deadline is None else deadline - time.monotonic()
        if remaining is not None and remaining <= 0:
            failure = TimeoutError("no connection in time")
            break
        try:
            return urllib3.util.connection.create_connection(
                (address, connection.port),
                remaining,
                source_address=connection.source_address,
                socket_options=connection.socket_options,
            )
        except OSError as error:
            failure = error
    if isinstance(failure, TimeoutError):
        raise urllib3.exceptions.ConnectTimeoutError(connection, "no connection in time") from failure
    raise urllib3.exceptions.NewConnectionError(connection, str(failure)) from failure


def _not_public(host: str) -> Rejected:
    return Rejected(
        Reason.ADDRESS_NOT_ALLOWED,
        f"{host} leads to a loopback, private, link-local or reserved address; allow it with allow-host",
    )


class _Watched:
    """A connection of the current thread's exchange."""

    sock: socket.socket | None
    proxy: urllib3.util.Url | None
    host: str

    def _new_conn(self) -> socket.socket:
        opened = _connect(self)  # type: ignore[arg-type] # mixed into urllib3's connections below
        _current.exchange.watch(opened)
        return opened

    def request(self, *args: Any, **options: Any) -> None:  # the arguments pass through
        """Sends a request.

        Raises:
            Rejected: The connection is one that an earlier exchange opened, to an address that this one may not reach.
        """
        if self.sock is not None and self.proxy is None and _current.exchange.public_only:
            peer = self.sock.getpeername()
            if not is_public(str(peer[0])):
                raise _not_public(self.host)
        super().request(*args, **options)  # type: ignore[misc] # mixed in

    def getresponse(self) -> Any:
        """Returns the response.

        Raises:
            TimeoutError: The headers were not complete in time.
        """
        current: Exchange = _current.exchange
        if self.sock is not None:
            current.watch(self.sock)
        response = None
        try:
            response = super().getresponse()  # type: ignore[misc] # mixed in
        finally:
            if current.late:  # headers that were cut off look complete
                if response is not None:
                    response.close()
                raise TimeoutError("the headers were not complete in time")
        return response


class _Connection(_Watched, urllib3.connection.HTTPConnection):
    pass


class _SecureConnection(_Watched, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **options: Any) -> None:  # the arguments pass through
        super().init_poolmanager(*args, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, _SECURED: _SecurePool}

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        manager.pool_classes_by_scheme = {"http": _Pool, _SECURED: _SecurePool}
        return manager

    def send(self, request: requests.PreparedRequest, *args: Any, **options: Any) -> requests.Response:
        """Sends a request; through a proxy, which opens the connection, only to a host whose name is allowed."""
        if _current.exchange.public_only and select_proxy(request.url or "", options.get("proxies")):
            _check_name(request.url or "")
        return super().send(request, *args, **options)


def _check_name(url: str) -> None:
    host = urllib3.util.parse_url(url).host or ""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # the proxy may know the name
        return
    if not all(is_public(str(entry[4][0])) for entry in found):
        raise _not_public(host)
