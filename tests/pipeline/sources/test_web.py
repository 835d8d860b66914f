"""Images behind HTTP: a server on loopback that does everything wrong in turn."""

from __future__ import annotations

import contextlib
import gzip
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.rejection import Rejected
from pipeline.sources import Fetched, ImageReference, Reader, WebLimits, list_images
from pipeline.storage.options import CredentialsError, StorageOptions
from tests.support.listing import fate

BODY = b"\xff\xd8" + bytes(5000)
MODIFIED = "Wed, 21 Oct 2015 07:28:00 GMT"


PACKED = gzip.compress(BODY)
ENCODED = {
    **{f"plain-{number}": (BODY, name) for number, name in enumerate(
        ("aws-chunked", "UTF-8", "binary", "none", "identity", "gzip", "x-gzip", "aws-chunked, utf-8", "")
    )},
    "gzip": (PACKED, "gzip"),
    "s3-gzip": (PACKED, "aws-chunked,GZIP"),
    "gzip-twice": (gzip.compress(PACKED), "gzip, gzip"),
    "br": (BODY, "br"),
    "half": (PACKED[:-9], "gzip"),
    "damaged": (PACKED[:12] + b"\xff" * 9 + PACKED[21:], "gzip"),
    "bomb": (gzip.compress(bytes(10**6)), "gzip"),
}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """The path says how to behave."""

    protocol_version = "HTTP/1.1"
    requests: ClassVar[Counter[str]] = Counter()
    given_up = threading.Event()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].strip("/")
        type(self).requests[f"{self.command} {name}"] += 1
        with contextlib.suppress(OSError):  # the client has left
            self.behave(name, type(self).requests[f"{self.command} {name}"])

    do_HEAD = do_GET  # noqa: N815 - the name that http.server asks for

    def log_message(self, *_: object) -> None: ...

    def answer(self, status: int, body: bytes = b"", length: int | None = None, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        if status != 304:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def behave(self, name: str, count: int) -> None:
        known: dict[str, Any] = {"good": {}, "weak": {"ETag": 'W/"v1"'}}
        redirects = {"loop": "/loop", "moved": "/good?size=1", "to-a-file": "file:///etc/passwd"}
        if name.isdigit():
            self.answer(int(name), b"no")
        elif name.startswith("encoding-"):
            body, encoding = ENCODED[name.removeprefix("encoding-")]
            self.answer(200, body, Content_Encoding=encoding, Last_Modified=MODIFIED)
        elif name == "proxied":
            self.answer(203, BODY)
        elif name == "agent":
            self.answer(200, (self.headers["User-Agent"] or "").encode())
        elif name in known:
            self.answer(200, BODY, **known[name])
        elif name in redirects:
            self.answer(302, b"x" * 100, Location=redirects[name])
        elif name.startswith("recovers-") and count < 3:
            self.answer(int(name.removeprefix("recovers-")), Retry_After="7")
        elif name.startswith("recovers-"):
            self.answer(200, BODY)
        else:
            self.close_connection = name not in ("etag", "modified", "chunked", "cookies")
            getattr(self, name.replace("-", "_"))(count)

    def etag(self, _: int) -> None:
        same = self.headers.get("If-None-Match") == '"v1"'
        self.answer(304 if same else 200, b"" if same else BODY, ETag='"v1"')

    def modified(self, _: int) -> None:
        same = self.headers.get("If-Modified-Since") == MODIFIED
        self.answer(304 if same else 200, b"" if same else BODY, Last_Modified=MODIFIED)

    def no_head(self, _: int) -> None:
        self.answer(405 if self.command == "HEAD" else 200, BODY, ETag='"v2"')

    def half_then_whole(self, count: int) -> None:
        self.answer(200, BODY if count > 1 else BODY[:100], len(BODY))

    def half(self, _: int) -> None:
        self.answer(200, BODY[:100], len(BODY))

    def announced(self, _: int) -> None:
        self.answer(200, b"", 10**12)

    def endless(self, _: int) -> None:
        self.without_length(200)
        while True:
            self.wfile.write(bytes(2**16))

    def endless_redirect(self, _: int) -> None:
        self.without_length(302, Location="/good")
        while True:
            self.wfile.write(bytes(2**16))

    def chunked(self, _: int) -> None:
        self.without_length(200, Transfer_Encoding="chunked")
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY))

    def chunked_half(self, _: int) -> None:
        self.without_length(200, Transfer_Encoding="chunked")
        self.wfile.write(b"%x\r\n%s\r\n" % (len(BODY), BODY))

    def silent(self, _: int) -> None:
        self.given_up.wait(30)

    def slow_body(self, _: int) -> None:
        self.without_length(200, Content_Length="100000")
        self.drip(b"x")

    def slow_headers(self, _: int) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
        self.drip(b"y")

    def to_half_a_host(self, _: int) -> None:
        self.without_length(302, Location="http://[::1/x", Content_Length="0")

    def to_latin_1(self, _: int) -> None:
        self.without_length(302, Location="/caf\xe9", Content_Length="0")  # http.server writes Latin-1

    def long_number(self, _: int) -> None:
        self.without_length(200, Content_Length="9" * 5000)
        self.wfile.write(BODY)

    def long_wait(self, _: int) -> None:
        self.answer(503, Retry_After="9" * 5000)

    def long_tag(self, _: int) -> None:
        self.answer(200, BODY, ETag=f'"{"v" * 5000}"')

    def own_words(self, _: int) -> None:
        self.send_response(403, "key=tell-nobody")
        self.end_headers()

    def cookies(self, count: int) -> None:
        body = (self.headers["Cookie"] or self.headers["Authorization"] or "none").encode()
        self.answer(200, body, Set_Cookie=f"a={count}; Path=/")

    def slow_trailer(self, _: int) -> None:
        self.without_length(200, Transfer_Encoding="chunked")
        self.wfile.write(b"1\r\nx\r\n0\r\n")
        self.drip(b"X: y\r\n")

    def no_length_drip(self, _: int) -> None:
        self.without_length(200)
        self.drip(b"x")

    def damaged_header(self, _: int) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nno colon\r\nX: y\r\n\r\nx")

    def garbage(self, _: int) -> None:
        self.wfile.write(b"no HTTP at all\r\n\r\n")

    def hangs_up(self, _: int) -> None: ...

    def without_length(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()

    def drip(self, data: bytes) -> None:
        while not self.given_up.wait(0.02):
            self.wfile.write(data)
            self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that leave are what is tested."""


@pytest.fixture(scope="module")
def root() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    Handler.given_up.set()
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def forget() -> None:
    Handler.requests.clear()
    Handler.given_up.clear()


@pytest.fixture
def waits() -> list[float]:
    return []


@pytest.fixture
def reader(waits: list[float]) -> Iterator[Reader]:
    limits = WebLimits(connect_s=60, read_s=60, total_s=200)
    with Reader(10**5, web=limits, sleep=waits.append) as opened:
        yield opened


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("good", ""),
        ("good?a=b#c", ""),
        ("etag", 'etag:"v1"'),
        ("weak", ""),
        ("modified", f"modified:{MODIFIED};{len(BODY)}"),
        ("chunked", ""),
        ("moved", ""),
        ("half-then-whole", ""),
        ("endless-redirect", ""),
        ("proxied", ""),
        ("good?file=a.zip", ""),
        ("long-number", ""),
        ("long-tag", ""),
    ],
)
def test_what_is_read(root: str, reader: Reader, name: str, version: str) -> None:
    assert reader.read(ImageReference(root + name)) == Fetched(BODY, version)


@pytest.mark.parametrize("name", [name for name in ENCODED if name.startswith(("plain", "gzip", "s3"))])
def test_an_encoding_that_was_not_requested(root: str, reader: Reader, name: str) -> None:
    """Object stores return what stood in the header of an upload; a version is that of the bytes on the wire."""
    reference = ImageReference(f"{root}encoding-{name}")
    fetched = reader.read(reference)
    assert fetched.data == BODY
    assert reader.probe(reference, "") == fetched.version != ""


@pytest.mark.parametrize(
    ("given", "environment", "expected"),
    [
        ({}, "", b"densecast"),
        ({}, "field/1 (me@example.org)", b"field/1 (me@example.org)"),
        ({"user_agent": "mine/2"}, "field/1", b"mine/2"),
        ({"user_agent": "env:AGENT_OF_TEST"}, "", b"from a variable"),
    ],
)
def test_the_user_agent_is_an_option(
    root: str, monkeypatch: pytest.MonkeyPatch, given: dict[str, str], environment: str, expected: bytes
) -> None:
    monkeypatch.setenv("DENSECAST_USER_AGENT", environment)
    monkeypatch.setenv("AGENT_OF_TEST", "from a variable")
    with Reader(options=StorageOptions(given)) as reader:
        assert reader.read(ImageReference(root + "agent")).data == expected


@pytest.mark.parametrize("value", ["two\nlines", "caf\xe9", " spaces "])
def test_a_user_agent_that_no_header_holds(value: str) -> None:
    with pytest.raises(CredentialsError, match="user_agent"):
        StorageOptions({"user_agent": value})


def test_a_query_is_no_name_of_a_file(root: str) -> None:
    """An address on the web is a container or a manifest by its path."""
    for query in ("file=a.zip", "list=b.csv", "x=1#c.tar"):
        address = f"{root}good?{query}"
        assert list(list_images([address])) == [ImageReference(address)]
    [reference] = list_images([f"{root}a.zip?x=1"])
    assert "containers are not read by HTTP" in reference.fault


@pytest.mark.parametrize(
    ("name", "reason", "requests"),
    [
        ("404", "missing", 1),
        ("410", "missing", 1),
        ("401", "unreadable", 1),
        ("403", "unreadable", 1),
        ("418", "unreadable", 1),
        ("204", "unreadable", 1),
        ("206", "unreadable", 1),
        ("304", "unreadable", 1),
        ("429", "unreadable", 4),
        ("500", "unreadable", 4),
        ("503", "unreadable", 4),
        ("half", "truncated", 4),
        ("chunked-half", "truncated", 4),
        ("hangs-up", "unreadable", 4),
        ("garbage", "unreadable", 4),
        ("announced", "too-many-bytes", 1),
        ("endless", "too-many-bytes", 1),
        ("encoding-br", "unreadable", 1),
        ("encoding-half", "truncated", 1),
        ("encoding-damaged", "corrupt", 1),
        ("encoding-bomb", "too-many-bytes", 1),
        ("loop", "unreadable", 6),
        ("to-a-file", "unreadable", 1),
        ("to-half-a-host", "unreadable", 1),
        ("to-latin-1", "unreadable", 1),
        ("long-wait", "unreadable", 4),
    ],
)
def test_what_is_rejected(root: str, reader: Reader, name: str, reason: str, requests: int) -> None:
    assert fate(reader, ImageReference(root + name)) == reason
    assert Handler.requests.total() == requests


def test_a_silent_server_is_given_up(root: str, waits: list[float]) -> None:
    with Reader(10**5, web=WebLimits(read_s=0.1), sleep=waits.append) as reader:
        assert fate(reader, ImageReference(root + "silent")) == "unreadable"
    assert len(waits) == 3


@pytest.mark.parametrize("name", ["slow-body", "slow-headers", "slow-trailer", "no-length-drip"])
def test_what_comes_steadily_and_slowly_is_cut_off(root: str, name: str) -> None:
    with Reader(10**6, web=WebLimits(total_s=0.3, read_s=20, attempts=1)) as reader:
        assert fate(reader, ImageReference(root + name)) == "unreadable"
    assert not Handler.given_up.is_set(), "the server would go on for ever"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_busy_server_is_asked_again_after_the_time_it_says(
    root: str, reader: Reader, waits: list[float], status: int
) -> None:
    assert reader.read(ImageReference(f"{root}recovers-{status}")).data == BODY
    assert waits == [7.0, 7.0]


def test_waits_grow(root: str, reader: Reader, waits: list[float]) -> None:
    fate(reader, ImageReference(root + "500"))
    assert [round(wait, 0) for wait in waits] in ([0, 1, 2], [1, 1, 2])


def test_no_server(reader: Reader, waits: list[float]) -> None:
    assert fate(reader, ImageReference("http://127.0.0.1:1/a.jpg")) == "unreadable"
    assert len(waits) == 3


@pytest.mark.parametrize(
    "url", ["http://", "http:///a.jpg", "http://[::1/a.jpg", "http://host:port/a.jpg", "http://\ud800/"]
)
def test_what_is_no_address(reader: Reader, url: str) -> None:
    with pytest.raises(Rejected, match="unreadable"):
        reader.read(ImageReference(url))


@pytest.mark.parametrize(
    ("name", "known", "version", "requests"),
    [
        ("etag", 'etag:"v1"', 'etag:"v1"', {"HEAD etag": 1}),
        ("etag", 'etag:"v0"', 'etag:"v1"', {"HEAD etag": 1}),
        ("etag", "", 'etag:"v1"', {"HEAD etag": 1}),
        ("modified", f"modified:{MODIFIED};{len(BODY)}", f"modified:{MODIFIED};{len(BODY)}", {"HEAD modified": 1}),
        ("modified", "", f"modified:{MODIFIED};{len(BODY)}", {"HEAD modified": 1}),
        ("no-head", "", 'etag:"v2"', {"HEAD no-head": 1, "GET no-head": 1}),
        ("moved", "", "", {"HEAD moved": 1, "HEAD good": 1}),
        ("404", 'etag:"v1"', "", {"HEAD 404": 1}),
        ("500", 'etag:"v1"', "", {"HEAD 500": 4}),
    ],
)
def test_a_probe_asks_whether_it_changed(
    root: str, reader: Reader, name: str, known: str, version: str, requests: dict[str, int]
) -> None:
    assert reader.probe(ImageReference(root + name), known) == version
    assert dict(Handler.requests) == requests


def test_what_was_read_is_recognized_by_a_probe(root: str, reader: Reader) -> None:
    for name in ("etag", "modified"):
        reference = ImageReference(root + name)
        version = reader.read(reference).version
        assert version
        assert reader.probe(reference, version) == version


def test_many_threads_at_once(root: str, reader: Reader) -> None:
    found: list[bytes | str] = []
    threads = [
        threading.Thread(target=lambda: found.append(fate(reader, ImageReference(root + "good")))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [BODY] * 8


def test_no_cookie_is_kept_and_no_password_is_taken_from_netrc(
    root: str, reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password tell-nobody\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert [reader.read(ImageReference(root + "cookies")).data for _ in range(2)] == [b"none", b"none"]


def test_what_a_server_says_and_an_address_holds_stays_out_of_the_detail(
    root: str, reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    hidden = "tell-nobody"
    for name in ("own-words", "500", "hangs-up", "garbage", "to-a-file"):
        with pytest.raises(Rejected) as caught:
            reader.read(ImageReference(f"{root}{name}?token={hidden}"))
        assert hidden not in str(caught.value)
    for address in (f"http://127.0.0.1:1/a?token={hidden}", f"http://[::1/{hidden}", f"http://host:{hidden}/"):
        with pytest.raises(Rejected) as caught:
            reader.read(ImageReference(address))
        assert hidden not in str(caught.value)
    assert reader.read(ImageReference(f"{root}damaged-header?token={hidden}")).data
    assert hidden not in caplog.text


def test_a_password_in_an_address_is_sent_and_not_stored(root: str, reader: Reader) -> None:
    reference = ImageReference(root.replace("//", "//me:tell-nobody@") + "cookies").named()
    assert reference.uri == root + "cookies"
    assert reader.read(reference).data.startswith(b"Basic ")
    assert "tell-nobody" not in repr(reference)


# Hosts that fail.


def test_a_host_that_keeps_failing_is_given_up(root: str, waits: list[float]) -> None:
    limits = WebLimits(attempts=1, host_failures=3)
    with Reader(10**5, web=limits, sleep=waits.append) as reader:
        fates = [fate(reader, ImageReference(f"{root}500?{number}")) for number in range(5)]
        assert fates == ["unreadable"] * 5
        assert Handler.requests.total() == 3
        host = root.split("/")[2]
        with pytest.raises(Rejected, match=f"{host} is given up: 3 failures in a row .web-host-failures") as caught:
            reader.read(ImageReference(root + "good"))
        assert caught.value.reason == "unreadable"
    with Reader(10**5, web=limits) as another:
        assert another.read(ImageReference(root + "good")).data == BODY


def test_an_image_in_between_keeps_a_host(root: str) -> None:
    with Reader(10**5, web=WebLimits(attempts=1, host_failures=3)) as reader:
        for _ in range(4):
            assert fate(reader, ImageReference(root + "500")) == "unreadable"
            assert fate(reader, ImageReference(root + "500")) == "unreadable"
            assert fate(reader, ImageReference(root + "good")) == BODY
        assert [fate(reader, ImageReference(root + "404")) for _ in range(5)] == ["missing"] * 5
        assert fate(reader, ImageReference(root + "good")) == BODY


def test_the_readers_of_a_run_share_what_they_know(root: str) -> None:
    limits = WebLimits(attempts=1, host_failures=2, run="the run")
    for _ in range(3):
        with Reader(10**5, web=limits) as reader:
            assert fate(reader, ImageReference(root + "500")) == "unreadable"
    assert Handler.requests.total() == 2
    with Reader(10**5, web=replace(limits, run="the next run")) as reader:
        assert fate(reader, ImageReference(root + "good")) == BODY


# Where a fetched list and redirects may lead.


@pytest.fixture
def elsewhere() -> Iterator[str]:
    """The address of a second server, which redirects to the name of its path."""

    class Redirect(Handler):
        def behave(self, name: str, count: int) -> None:
            self.answer(302, Location=f"http://{name}")

    with Server(("127.0.0.1", 0), Redirect) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()
        thread.join()


def not_allowed(reader: Reader, reference: ImageReference) -> str:
    with pytest.raises(Rejected) as caught:
        reader.read(reference)
    assert caught.value.reason == "address-not-allowed"
    return caught.value.detail


def test_a_fetched_list_reaches_public_addresses_only(root: str) -> None:
    host = root.split("/")[2]
    listed = ImageReference(root + "good", listed_by="s3://bucket")
    with Reader(10**5) as reader:
        assert reader.read(ImageReference(root + "good")).data == BODY, "the user's own word"
        assert "allow-host" in not_allowed(reader, listed), "also where a connection is open"
        assert reader.read(listed._replace(listed_by=root.rstrip("/"))).data == BODY, "the list's own host"
        assert reader.probe(listed, "") == ""
    with Reader(10**5) as reader:
        for name in (host, f"localhost:{host.partition(':')[2]}", f"[::ffff:127.0.0.1]:{host.partition(':')[2]}"):
            not_allowed(reader, listed._replace(uri=f"http://{name}/good"))
    assert Handler.requests.total() == 2
    for allowed in (host, "127.0.0.1"):
        with Reader(10**5, web=WebLimits(allow_hosts=(allowed,))) as reader:
            assert reader.read(listed).data == BODY


def test_a_name_that_leads_to_a_private_address(root: str, reader: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address that is connected to counts: another answer of the name server does not help."""
    answers = [["93.184.215.14"], ["127.0.0.1"], ["127.0.0.1", "10.0.0.1"]]
    asked: list[str] = []

    def resolve(name: str, port: int, *_: object, **__: object) -> list[tuple[object, ...]]:
        asked.append(name)
        found = answers[min(len(asked), 3) - 1]
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", (address, port)) for address in found]

    connected: list[str] = []

    def connect(address: tuple[str, int], *_: object, **__: object) -> socket.socket:
        connected.append(address[0])
        raise ConnectionRefusedError("refused")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    reference = ImageReference("http://images.example/a.jpg", listed_by="s3://bucket")
    not_allowed(reader, reference)
    not_allowed(reader, reference)
    assert connected == ["93.184.215.14"]


def test_a_redirect_reaches_public_addresses_only(root: str, elsewhere: str, reader: Reader) -> None:
    """Whoever named the first address: the server names the second."""
    target = root.removeprefix("http://")
    detail = not_allowed(reader, ImageReference(elsewhere + target + "good"))
    assert detail.startswith("127.0.0.1")
    assert Handler.requests["GET good"] == 0
    with Reader(10**5, web=WebLimits(allow_hosts=(target.rstrip("/"),))) as allowing:
        assert allowing.read(ImageReference(elsewhere + target + "good")).data == BODY


def test_a_proxy_is_asked_for_names_that_are_allowed(
    root: str, reader: Reader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", root)
    monkeypatch.setenv("no_proxy", "")
    listed = ImageReference("http://127.0.0.2/good", listed_by="s3://bucket")
    not_allowed(reader, listed)
    assert not Handler.requests
    assert fate(reader, listed._replace(listed_by="")) != "address-not-allowed"
    assert Handler.requests, "the proxy was asked"
