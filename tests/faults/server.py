"""A web server that misbehaves, each address in its own way."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Serves files on loopback; the first folder of an address says how.

    Attributes:
        healed: Whether it behaves now, whatever the address.
        requests: How often each address was asked for with GET.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.healed = files, False
        self.requests: Counter[str] = Counter()
        self.closing = threading.Event()

    def address(self, manner: str, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{manner}/{name}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is not an error here."""


@contextmanager
def serving(files: Mapping[str, bytes]) -> Iterator[Server]:
    with Server(files) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.closing.set()
            server.shutdown()
            thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.requests[self.path] += 1
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: Any) -> None:
        """Quiet."""

    def _answer(self, *, body: bool) -> None:
        _, manner, name = self.path.split("/", 2)
        data = self.server.files[name]
        first = self.server.requests[self.path] <= 1
        if self.server.healed or (manner.endswith("-once") and not first):
            manner = "well"
        manner = manner.removesuffix("-once")
        if manner in ("500", "503", "404"):
            self.send_error(int(manner))
            return
        if manner == "silent":
            self.server.closing.wait(20)
            self.close_connection = True
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"')
        self.end_headers()
        if not body:
            return
        if manner == "half":
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
        elif manner == "drip":
            with suppress(OSError):
                for byte in data:
                    self.wfile.write(bytes([byte]))
                    if self.server.closing.is_set():
                        break
                    time.sleep(0.05)
            self.close_connection = True
        else:
            self.wfile.write(data)
