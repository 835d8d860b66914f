"""What all HTTP clients of densecast share: sessions that remember and reveal nothing, and headers read with care.

Whatever a server sends, the functions of this module return a value or raise `HeaderError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.cookiejar import DefaultCookiePolicy
from urllib.parse import urljoin, urlsplit

import requests
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url

MOST_DIGITS = 18
"""The most digits of a number in a header: it then fits in 64 bits. Python itself refuses to read over 4,300."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})


class HeaderError(Exception):
    """A header cannot be read; the message says why, and does not quote it. Never leaves densecast's clients."""


def header_number(text: str) -> int | None:
    """Returns the whole number that the value of a header is, such as `Content-Length` or `Retry-After`.

    Returns None where the value is not a whole number of ASCII digits, or has more than `MOST_DIGITS`.

    >>> header_number(" 12 "), header_number("-1"), header_number("9" * 5000)
    (12, None, None)
    """
    digits = text.strip(" \t")
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) <= MOST_DIGITS else None


def redirect_target(response: requests.Response, url: str) -> str | None:
    """Returns the address that an answer redirects to; None where it does not redirect.

    Args:
        response: The answer.
        url: The address that was asked for, which a relative target is relative to.

    Raises:
        HeaderError: The target is not an address.
    """
    if response.status_code not in _REDIRECTS or "Location" not in response.headers:
        return None
    try:
        # http.client reads headers as Latin-1; servers write UTF-8 there.
        target = urljoin(url, response.headers["Location"].encode("latin-1").decode())
        parts = urlsplit(target)
        _ = parts.port  # raises for a port that is not a number, or too large
    except UnicodeError as error:
        raise HeaderError("the address that it redirects to is not UTF-8") from error
    except ValueError as error:
        raise HeaderError("it redirects to something that is not an address") from error
    if parts.scheme in ("http", "https") and not parts.hostname:
        raise HeaderError("it redirects to an address without a host")
    return target


class HttpSession(requests.Session):
    """A session that follows no redirect, keeps no cookies and takes no password from a `.netrc` file.

    Proxies and certificates come from the environment, as usual. A password in an address is sent to that address.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        # `requests` reads .netrc where a session has no authentication of its own.
        self.auth = _authenticate

    def resolve_redirects(self, *_: object, **__: object) -> Iterator[requests.Response]:
        """Yields nothing. `requests` reads the bodies of redirects, of any length, even if it does not follow."""
        return iter(())


def _authenticate(request: requests.PreparedRequest) -> requests.PreparedRequest:
    user, password = get_auth_from_url(request.url or "")
    return HTTPBasicAuth(user, password)(request) if user or password else request
