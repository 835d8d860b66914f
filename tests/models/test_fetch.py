"""Fetching, against a real HTTP server on this machine that fails in every way that servers do."""

import dataclasses
import hashlib
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import filelock
import pytest
import requests

import models.fetch
from conversion import HttpSession
from models import CatalogEntry, DigestError, FetchError, PublishedWeights, ShippedWeights, entry
from models.fetch import default_directory, fetch

CONTENT = bytes(range(256)) * 2000
OTHER = CONTENT[::-1]
SHA1 = hashlib.sha1(CONTENT, usedforsecurity=False).hexdigest()
HTML = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>"
NAME = "net.caffemodel"

Answer = Callable[["Handler"], None]


class Server(ThreadingHTTPServer):
    """Serves CONTENT with ranges and If-Range; the answers in `faults` come first, one a request."""

    daemon_threads = False

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.etag = CONTENT, '"v1"'
        self.modified: str | None = None
        self.faults: list[Answer] = []
        self.log: list[dict[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights/{NAME}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.log.append(dict(self.headers))
        answer = self.server.faults.pop(0) if self.server.faults else honest
        answer(self)

    def reply(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, *, length: int | None = None
    ) -> None:
        given = {
            "Content-Type": "application/octet-stream",
            "Content-Length": str(len(body) if length is None else length),
            "ETag": self.server.etag,
            "Last-Modified": self.server.modified,
        }
        self.send_response(status)
        for name, value in (given | (headers or {})).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Stays quiet."""


def honest(handler: Handler) -> None:
    content, wanted = handler.server.content, re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    current = (handler.server.etag, handler.server.modified)
    if wanted is None or handler.headers.get("If-Range", current[0] or current[1]) not in current:
        handler.reply(200, content)
        return
    start = int(wanted[1])
    if start >= len(content):
        handler.reply(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        return
    handler.reply(206, content[start:], {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"})


def cut_after(count: int) -> Answer:
    """Announces everything, sends `count` bytes, drops the connection."""
    return lambda handler: handler.reply(200, handler.server.content[:count], length=len(handler.server.content))


def status(code: int) -> Answer:
    return lambda handler: handler.reply(code, b"<html>sorry</html>", {"Content-Type": "text/html"})


def everything(handler: Handler) -> None:
    """Ignores any Range."""
    handler.reply(200, handler.server.content)


def page(content_type: str) -> Answer:
    return lambda handler: handler.reply(200, HTML, {"Content-Type": content_type})


def ranged(content_range: str, body: bytes, headers: dict[str, str] | None = None) -> Answer:
    """A 206 that says and holds whatever is given."""
    return lambda handler: handler.reply(206, body, {"Content-Range": content_range} | (headers or {}))


def chunked(announced: int, body: bytes) -> Answer:
    """A body longer than its announcement: only the chunked coding lets one through the client's HTTP library."""

    def answer(handler: Handler) -> None:
        coded = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        handler.reply(200, coded, {"Transfer-Encoding": "chunked"}, length=announced)

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def waits() -> list[float]:
    """The seconds that fetching would have waited."""
    return []


@pytest.fixture
def get(server: Server, tmp_path: Path, waits: list[float]) -> Callable[..., Path]:
    """Fetches from the server into `tmp_path`."""

    def fetch_it(sha1: str | None = SHA1, **options: object) -> Path:
        return fetch(model(server.url, sha1), tmp_path, sleep=waits.append, **{"allow_http": True, **options})

    return fetch_it


def model(url: str, sha1: str | None = SHA1) -> CatalogEntry:
    published = PublishedWeights(url=url, sha1=sha1, filename=NAME, license="unrestricted")
    return dataclasses.replace(entry("caffenet"), name="net", published=published)


def left_in(directory: Path) -> dict[str, bytes]:
    """Files of the directory by suffix to the name, without the digest of what was seen.

    The lock file comes and goes with the platform.
    """
    files = {path.name.removeprefix(NAME): path.read_bytes() for path in directory.iterdir()}
    files.pop(".lock", None)
    files.pop(".sha256", None)
    return files


# What goes well.


@pytest.mark.parametrize("sha1", [SHA1, SHA1.upper(), None])
def test_file_is_downloaded_whole_and_nothing_else_is_left(
    get: Callable[..., Path], server: Server, tmp_path: Path, waits: list[float], sha1: str | None
) -> None:
    assert get(sha1) == tmp_path / NAME
    assert left_in(tmp_path) == {"": CONTENT}
    assert len(server.log) == 1
    assert "Range" not in server.log[0]
    assert server.log[0]["Accept-Encoding"] == "identity"
    assert waits == []


@pytest.mark.parametrize("sha1", [SHA1, None])
def test_complete_file_is_not_downloaded_again(get: Callable[..., Path], server: Server, sha1: str | None) -> None:
    first = get(sha1)
    assert get(sha1) == first
    assert len(server.log) == 1


def test_complete_file_in_a_read_only_directory_is_enough(
    get: Callable[..., Path], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)

    def refuse(*arguments: object, **options: object) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(filelock, "FileLock", refuse)  # root may write anywhere, so permissions would not show it
    assert get() == tmp_path / NAME
    assert server.log == []


def test_missing_directories_are_made(server: Server, tmp_path: Path) -> None:
    directory = tmp_path / "a" / "b"
    assert fetch(model(server.url), str(directory)) == directory / NAME


def test_progress_counts_up_to_the_size(get: Callable[..., Path]) -> None:
    seen: list[tuple[int, int | None]] = []
    get(progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)


def test_given_session_is_used_and_left_open(get: Callable[..., Path], server: Server) -> None:
    with requests.Session() as session:
        session.headers["X-Mine"] = "yes"
        closed: list[bool] = []
        session.close = lambda: closed.append(True)  # type: ignore[method-assign]
        get(session=session)
        assert closed == []
        del session.close
    assert server.log[0]["X-Mine"] == "yes"


def test_body_of_unknown_length_is_taken(get: Callable[..., Path], server: Server) -> None:
    seen: list[int | None] = []
    server.faults = [lambda handler: handler.reply(200, CONTENT, {"Content-Length": ""})]
    assert get(progress=lambda done, total: seen.append(total)).read_bytes() == CONTENT
    assert set(seen) == {None}


# Resuming.


@pytest.mark.parametrize("sha1", [SHA1, None])
def test_dropped_connection_is_resumed_where_it_broke(
    get: Callable[..., Path], server: Server, tmp_path: Path, waits: list[float], sha1: str | None
) -> None:
    server.faults = [cut_after(300_000)]
    seen: list[int] = []
    get(sha1, progress=lambda done, total: seen.append(done))
    assert left_in(tmp_path) == {"": CONTENT}
    assert len(server.log) == 2
    offset = int(server.log[1]["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 0 < offset <= 300_000
    assert server.log[1]["If-Range"] == '"v1"'
    assert seen == sorted(seen)
    assert waits == [1]


def test_next_call_goes_on_where_the_last_one_gave_up(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    server.faults = [cut_after(300_000), *[status(503)] * 4]
    with pytest.raises(FetchError, match=r"(?s)503.*call again to continue after the \d+ bytes") as caught:
        get()
    assert "5 attempts" in str(caught.value)
    partial = left_in(tmp_path)[".partial"]
    assert partial
    assert CONTENT.startswith(partial)
    get()
    assert server.log[5]["Range"] == f"bytes={len(partial)}-"
    assert left_in(tmp_path) == {"": CONTENT}


@pytest.mark.parametrize("sha1", [SHA1, None])
def test_changed_file_is_started_over(
    get: Callable[..., Path], server: Server, tmp_path: Path, sha1: str | None
) -> None:
    server.content, server.etag = OTHER, '"v0"'
    server.faults = [cut_after(300_000), *[status(503)] * 4]
    with pytest.raises(FetchError):
        get(sha1)
    server.content, server.etag = CONTENT, '"v1"'
    get(sha1)
    assert server.log[5]["If-Range"] == '"v0"'
    assert left_in(tmp_path) == {"": CONTENT}


def test_changed_file_is_noticed_even_if_the_server_ignores_if_range(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    place(tmp_path, OTHER[:1000], '"v0"')
    server.faults = [ranged(f"bytes 1000-{len(CONTENT) - 1}/{len(CONTENT)}", CONTENT[1000:])]
    get(None)
    assert left_in(tmp_path) == {"": CONTENT}
    assert "Range" not in server.log[1]


def test_date_stands_in_for_a_weak_etag(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    server.etag, server.modified = 'W/"v1"', "Wed, 21 Oct 2015 07:28:00 GMT"
    server.faults = [cut_after(300_000)]
    get()
    assert server.log[1]["If-Range"] == server.modified
    assert left_in(tmp_path) == {"": CONTENT}


@pytest.mark.parametrize(("sha1", "resumed"), [(SHA1, True), (None, False)])
def test_part_of_an_unknown_version_is_continued_only_if_a_digest_will_tell(
    get: Callable[..., Path], server: Server, tmp_path: Path, sha1: str | None, resumed: bool
) -> None:
    place(tmp_path, CONTENT[:1000], None)
    get(sha1)
    assert ("Range" in server.log[0]) is resumed
    assert "If-Range" not in server.log[0]
    assert left_in(tmp_path) == {"": CONTENT}


def test_server_that_ignores_ranges_starts_over(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    server.faults = [cut_after(300_000), everything]
    get()
    assert "Range" in server.log[1]
    assert left_in(tmp_path) == {"": CONTENT}


def test_part_that_was_complete_already_is_accepted(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    place(tmp_path, CONTENT, '"v1"')
    get()
    assert server.log[0]["Range"] == f"bytes={len(CONTENT)}-"
    assert len(server.log) == 1
    assert left_in(tmp_path) == {"": CONTENT}


def test_part_longer_than_the_file_is_started_over(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    place(tmp_path, CONTENT + b"more", '"v1"')
    get()
    assert "Range" not in server.log[1]
    assert left_in(tmp_path) == {"": CONTENT}


@pytest.mark.parametrize(
    "content_range", [f"bytes 0-9/{len(CONTENT)}", "bytes 0-9/10", "bytes */10", "", "pages 1000-1009/1010"]
)
def test_range_that_was_not_asked_for_is_not_joined(
    get: Callable[..., Path], server: Server, tmp_path: Path, content_range: str
) -> None:
    place(tmp_path, CONTENT[:1000], '"v1"')
    server.faults = [ranged(content_range, b"0123456789")]
    get(None)
    assert left_in(tmp_path) == {"": CONTENT}


def test_range_in_pieces_is_asked_for_piece_by_piece(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    place(tmp_path, CONTENT[:1000], '"v1"')
    server.faults = [ranged(f"bytes 1000-1999/{len(CONTENT)}", CONTENT[1000:2000])]
    get()
    assert server.log[1]["Range"] == "bytes=2000-"
    assert left_in(tmp_path) == {"": CONTENT}


def place(directory: Path, part: bytes, version: str | None) -> None:
    """Leaves a part as an earlier call would have."""
    (directory / f"{NAME}.partial").write_bytes(part)
    if version is not None:
        (directory / f"{NAME}.partial.version").write_text(version, encoding="latin-1")


# Servers that fail.


@pytest.mark.parametrize("code", [500, 503, 429, 408])
def test_failure_that_may_pass_is_tried_again(
    get: Callable[..., Path], server: Server, waits: list[float], code: int
) -> None:
    server.faults = [status(code), status(code)]
    assert get().read_bytes() == CONTENT
    assert waits == [1, 2]


def test_attempts_are_bounded_and_ever_further_apart(
    get: Callable[..., Path], server: Server, waits: list[float]
) -> None:
    server.faults = [status(500)] * 9
    with pytest.raises(FetchError, match="500 Internal Server Error"):
        get()
    assert len(server.log) == models.fetch.ATTEMPTS
    assert waits == [1, 2, 4, 8]


@pytest.mark.parametrize(
    ("code", "reason"), [(404, "Not Found"), (403, "Forbidden"), (204, "No Content"), (206, ""), (416, "")]
)
def test_refusal_is_final_and_says_what_to_do(
    get: Callable[..., Path], server: Server, tmp_path: Path, waits: list[float], code: int, reason: str
) -> None:
    server.faults = [status(code)]
    with pytest.raises(FetchError, match=f"the server answered {code} {reason}") as caught:
        get()
    assert f"download {server.url} by hand and put it at {tmp_path / NAME} (SHA-1 {SHA1})" in str(caught.value)
    assert waits == []
    assert left_in(tmp_path) == {}


def test_empty_file_is_no_file(get: Callable[..., Path], server: Server) -> None:
    server.faults = [lambda handler: handler.reply(200, b"")] * 9
    with pytest.raises(FetchError, match="empty file"):
        get(None)


def test_compressed_body_is_refused(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    server.faults = [lambda handler: handler.reply(200, CONTENT, {"Content-Encoding": "gzip"})]
    with pytest.raises(FetchError, match=r"compressed \(gzip\)"):
        get()
    assert left_in(tmp_path) == {}


def test_body_longer_than_announced_is_started_over(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    server.faults = [chunked(len(CONTENT), CONTENT + b"more")]
    get(None)
    assert "Range" not in server.log[1]
    assert left_in(tmp_path) == {"": CONTENT}


def test_announcement_shorter_than_the_body_is_found_by_the_digest(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    server.faults = [lambda handler: handler.reply(200, CONTENT, length=1000)]
    with pytest.raises(DigestError):
        get()
    assert left_in(tmp_path) == {".rejected": CONTENT[:1000]}


@pytest.mark.parametrize("sha1", [SHA1, None])
def test_page_instead_of_weights_has_its_own_message_and_spares_the_part(
    get: Callable[..., Path], server: Server, tmp_path: Path, waits: list[float], sha1: str | None
) -> None:
    place(tmp_path, CONTENT[:1000], '"v1"')
    server.faults = [page("text/html; charset=utf-8")]
    with pytest.raises(FetchError, match=r"sent a web page \(HTML\) instead of weights.*proxy.*login"):
        get(sha1)
    assert left_in(tmp_path) == {".partial": CONTENT[:1000], ".partial.version": b'"v1"'}
    assert waits == []


@pytest.mark.parametrize("sha1", [SHA1, None])
def test_page_in_disguise_is_kept_aside(
    get: Callable[..., Path], server: Server, tmp_path: Path, sha1: str | None
) -> None:
    server.faults = [page("application/octet-stream")]
    with pytest.raises(FetchError, match=r"sent a web page \(HTML\)") as caught:
        get(sha1)
    assert not isinstance(caught.value, DigestError)
    assert left_in(tmp_path) == {".rejected": HTML}
    assert get(sha1).read_bytes() == CONTENT


def test_offline_says_what_where_why_and_what_to_do(
    tmp_path: Path, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: connections to it are refused
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/{NAME}"
        with pytest.raises(FetchError) as caught:
            fetch(model(url), tmp_path, sleep=waits.append)
    error = caught.value
    assert error.what == "the weights of net could not be fetched"
    assert error.where == url
    assert "the connection failed" in error.why
    assert error.remedy == f"download {url} by hand and put it at {tmp_path / NAME} (SHA-1 {SHA1})"
    assert len(waits) == models.fetch.ATTEMPTS - 1


@pytest.mark.parametrize("url", ["no address", "gopher://127.0.0.1/net", "http://"])
def test_address_that_is_none_is_not_tried_again(tmp_path: Path, waits: list[float], url: str) -> None:
    with pytest.raises(FetchError, match="the request failed"):
        fetch(model(url), tmp_path, sleep=waits.append)
    assert waits == []


# Digests.


def test_wrong_digest_keeps_the_file_aside_and_says_both(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    server.content = OTHER
    found = hashlib.sha1(OTHER, usedforsecurity=False).hexdigest()
    with pytest.raises(DigestError, match=f"expected SHA-1 {SHA1}, got {found}") as caught:
        get()
    assert str(tmp_path / f"{NAME}.rejected") in str(caught.value)
    assert "call again to download it once more" in caught.value.remedy
    assert left_in(tmp_path) == {".rejected": OTHER}


def test_damaged_file_that_was_there_is_kept_aside_too(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[:-1])
    with pytest.raises(DigestError):
        get()
    assert server.log == []
    assert left_in(tmp_path) == {".rejected": CONTENT[:-1]}
    get()
    assert left_in(tmp_path) == {"": CONTENT, ".rejected": CONTENT[:-1]}


def test_rejected_files_are_never_lost_nor_kept_twice(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    for content in (b"one", b"two", b"one", b"two"):
        server.content = content
        with pytest.raises(DigestError):
            get()
    assert left_in(tmp_path) == {".rejected": b"one", ".rejected-2": b"two"}


# Publishers that state no digest, and plain HTTP.


def seen(directory: Path) -> str:
    return (directory / f"{NAME}.sha256").read_text()


def test_the_digest_of_the_first_download_is_kept_and_compared(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    get(None)
    assert seen(tmp_path) == f"{hashlib.sha256(CONTENT).hexdigest()}  {NAME}\n"
    (tmp_path / NAME).unlink()
    get(None)
    (tmp_path / NAME).unlink()
    server.content = OTHER
    with pytest.raises(DigestError, match=f"expected SHA-256 .* got {hashlib.sha256(OTHER).hexdigest()}") as caught:
        get(None)
    note = tmp_path / f"{NAME}.sha256"
    assert f"delete {note} and call again" in caught.value.remedy
    assert left_in(tmp_path) == {".rejected": OTHER}
    note.unlink()
    assert get(None).read_bytes() == OTHER


def test_a_file_that_was_put_there_by_hand_is_remembered_too(
    get: Callable[..., Path], server: Server, tmp_path: Path
) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    get(None)
    assert seen(tmp_path).startswith(hashlib.sha256(CONTENT).hexdigest())
    (tmp_path / NAME).write_bytes(OTHER)
    with pytest.raises(DigestError):
        get(None)
    assert server.log == []


def test_a_published_digest_needs_no_other(get: Callable[..., Path], tmp_path: Path) -> None:
    get(allow_http=False)
    assert not (tmp_path / f"{NAME}.sha256").exists()


def test_plain_http_without_a_digest_has_to_be_allowed(get: Callable[..., Path], server: Server) -> None:
    with pytest.raises(FetchError, match=r"plain HTTP.*--allow-http"):
        get(None, allow_http=False)
    assert server.log == []
    get(None, allow_http=True)


def test_what_a_user_is_told_before(tmp_path: Path) -> None:
    vgg = entry("vgg16")
    digest, plain = models.fetch.cautions(vgg, tmp_path)
    assert "states no digest of VGG_ILSVRC_16_layers.caffemodel: nothing shows whether" in digest
    assert "plain HTTP" in plain
    assert vgg.published is not None
    file = tmp_path / vgg.published.filename
    file.with_name(f"{file.name}.sha256").write_text("00")
    assert "has to match the SHA-256 of the first one" in models.fetch.cautions(vgg, tmp_path)[0]
    file.write_bytes(b"weights")
    assert models.fetch.cautions(vgg, tmp_path) == ()
    assert models.fetch.cautions(entry("caffenet"), tmp_path) == models.fetch.cautions(entry("digits")) == ()


# Answers that are hostile.


@pytest.mark.parametrize("location", ["http://[::1/x", "/caf\xe9", "file:///etc/passwd", "http://host:port/"])
def test_a_redirect_to_nothing_is_a_typed_error(get: Callable[..., Path], server: Server, location: str) -> None:
    with HttpSession() as own:
        for session in (None, own):
            server.faults = [lambda handler: handler.reply(302, b"", {"Location": location})]
            with pytest.raises(FetchError):
                get(session=session)


def test_redirects_are_followed_and_bounded(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    server.faults = [lambda handler: handler.reply(302, b"x" * 1000, {"Location": "/elsewhere"})]
    assert get().read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    server.faults = [lambda handler: handler.reply(302, b"", {"Location": "/elsewhere"})] * 20
    with pytest.raises(FetchError, match="redirects more than 10 times"):
        get()


def test_numbers_of_thousands_of_digits_are_none(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    many = "9" * 5000
    server.faults = [lambda handler: handler.reply(200, CONTENT, {"Content-Length": many})]
    assert get().read_bytes() == CONTENT
    (tmp_path / NAME).unlink()
    for code, header in (
        (206, f"bytes {many}-{many}/{many}"),
        (206, f"bytes 1000-1009/{many}"),
        (416, f"bytes */{many}"),
    ):
        place(tmp_path, CONTENT[:1000], '"v1"')
        server.faults = [answer_with(code, {"Content-Range": header})]
        assert get(None).read_bytes() == CONTENT
        (tmp_path / NAME).unlink()


def answer_with(code: int, headers: dict[str, str]) -> Answer:
    return lambda handler: handler.reply(code, b"", headers)


# The disk, and other processes.


def test_directory_that_is_a_file_is_a_typed_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FetchError, match="cannot be read or written"):
        fetch(model(server.url), tmp_path / "file")


def test_full_disk_is_a_typed_error_and_keeps_the_part(
    get: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(FetchError, match="No space left on device"):
        get()
    assert left_in(tmp_path) == {".partial": CONTENT, ".partial.version": b'"v1"'}


def test_two_fetches_at_once_download_once(get: Callable[..., Path], server: Server, tmp_path: Path) -> None:
    together = threading.Barrier(2)

    def start() -> Path:
        together.wait()
        return get()

    with ThreadPoolExecutor(2) as pool:
        assert [one.result() for one in [pool.submit(start), pool.submit(start)]] == [tmp_path / NAME] * 2
    assert len(server.log) == 1
    assert left_in(tmp_path) == {"": CONTENT}


def test_lock_held_for_too_long_is_a_typed_error(
    get: Callable[..., Path], server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.fetch, "LOCK_TIMEOUT_S", 0.0)
    with filelock.FileLock(tmp_path / f"{NAME}.lock"), pytest.raises(FetchError, match=r"another process.*\.lock"):
        get()
    assert server.log == []


# Where files go.


def test_densecast_home_is_the_default_directory(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DENSECAST_HOME", str(tmp_path))
    assert fetch(model(server.url)) == tmp_path / NAME


@pytest.mark.parametrize("home", ["", None])
def test_without_densecast_home_the_cache_directory_is(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    if home is None:
        monkeypatch.delenv("DENSECAST_HOME", raising=False)
    else:
        monkeypatch.setenv("DENSECAST_HOME", home)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: f"/caches/{name}")
    assert default_directory() == Path("/caches/densecast")


def test_home_of_the_user_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setenv("DENSECAST_HOME", "~/weights")
    assert default_directory() == tmp_path / "weights"


# Weights that come with the package.


def test_shipped_weights_are_where_the_package_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(requests.Session, "send", refuse)
    shipped = entry("digits")
    assert fetch(shipped, tmp_path) == shipped.shipped_weights
    assert list(tmp_path.iterdir()) == []


def test_shipped_weights_that_are_missing_ask_for_a_new_installation() -> None:
    shipped = dataclasses.replace(entry("digits"), shipped=ShippedWeights(file="digits/none.caffemodel", license="any"))
    with pytest.raises(FetchError, match="install densecast again") as caught:
        fetch(shipped)
    assert "none.caffemodel" in str(caught.value)
