"""Headers that servers send, and sessions that remember and reveal nothing."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from conversion.http import MOST_DIGITS, HeaderError, HttpSession, header_number, redirect_target


@given(st.text())
def test_a_header_is_a_bounded_number_or_none(text: str):
    number = header_number(text)
    assert number is None or 0 <= number < 10**MOST_DIGITS


@pytest.mark.parametrize(
    ("text", "number"),
    [("0", 0), ("007", 7), (" 5\t", 5), ("9" * MOST_DIGITS, 10**MOST_DIGITS - 1)]
    + [(text, None) for text in ("", "-1", "+1", "1.5", "1_0", "٣", "²", "1, 1", "9" * 5000, "0" * 5000, "1e3")],
)
def test_numbers(text: str, number: int | None):
    assert header_number(text) == number


def answer(location: bytes, status: int = 302) -> requests.Response:
    response = requests.Response()
    response.status_code = status
    response.headers["Location"] = location.decode("latin-1")
    return response


@pytest.mark.parametrize(
    ("location", "target"),
    [
        (b"/b.jpg", "https://host/b.jpg"),
        (b"//other/b", "https://other/b"),
        ("caf\xe9".encode(), "https://host/lists/caf\xe9"),
        (b"file:///etc/passwd", "file:///etc/passwd"),
        (b"", "https://host/lists/a"),
    ],
)
def test_redirects(location: bytes, target: str):
    assert redirect_target(answer(location), "https://host/lists/a") == target


@pytest.mark.parametrize(
    "location",
    [b"http://[::1/x", b"/caf\xe9", b"http://host:port/", b"http://host:" + b"9" * 5000, b"http://", b"http:///x"],
)
def test_redirects_to_nothing(location: bytes):
    with pytest.raises(HeaderError):
        redirect_target(answer(location), "https://host/lists/a")


@given(st.binary(max_size=80))
def test_any_location_is_an_address_or_an_error(location: bytes):
    try:
        assert isinstance(redirect_target(answer(b"http:" + location), "https://host/"), str)
    except HeaderError:
        return


def test_an_answer_that_does_not_redirect():
    assert redirect_target(answer(b"/b", status=200), "https://host/") is None
    response = requests.Response()
    response.status_code = 302
    assert redirect_target(response, "https://host/") is None


def test_a_password_is_sent_from_the_address_alone(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "netrc").write_text("machine host login me password tell-nobody\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with HttpSession() as session:
        plain = session.prepare_request(requests.Request("GET", "http://host/a.jpg"))
        named = session.prepare_request(requests.Request("GET", "http://me:mine@host/a.jpg"))
    assert "Authorization" not in plain.headers
    assert named.headers["Authorization"] == requests.auth._basic_auth_str("me", "mine")
