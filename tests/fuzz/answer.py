"""An HTTP answer, byte for byte -> an image or a rejection, a version or none, weights or a typed error."""

from __future__ import annotations

import dataclasses
import os
import socket
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

from conversion.errors import DensecastError
from models import PublishedWeights, entry
from models.errors import FetchError
from models.fetch import fetch
from pipeline.rejection import Rejected
from pipeline.sources import Fetched, ImageReference, Reader, WebLimits
from tests.fuzz.harness import launch

_MOST = 1 << 16
_ADDRESS = "http://93.184.215.14/a.jpg"
_LIMITS = WebLimits(connect_s=5, read_s=5, total_s=10, attempts=2, redirects=2)
_WEIGHTS = dataclasses.replace(
    entry("caffenet"), published=PublishedWeights(_ADDRESS, None, "net.caffemodel", license="any")
)


class _answering:  # noqa: N801 - used as a function
    """Every connection gets the same answer, whatever is asked; no name is looked up."""

    def __init__(self, data: bytes) -> None:
        self._data, self._ends = data, list[socket.socket]()
        self._patches = (
            mock.patch("urllib3.util.connection.create_connection", self._connect),
            mock.patch("socket.getaddrinfo", self._resolve),
            mock.patch.dict("os.environ", {"no_proxy": "*"}),
        )

    def __enter__(self) -> None:
        for patch in self._patches:
            patch.start()

    def __exit__(self, *_: object) -> None:
        for patch in self._patches:
            patch.stop()
        # urllib3 leaves the socket of an answer that it refuses ("Content-Length: 5, 6") to the garbage collector.
        for end in self._ends:
            if (descriptor := end.detach()) >= 0:
                os.close(descriptor)

    def _connect(self, *_: object, **__: object) -> socket.socket:
        client, server = socket.socketpair()
        self._ends += client, server
        client.settimeout(5)
        server.sendall(self._data)
        server.shutdown(socket.SHUT_WR)
        return client

    def _resolve(self, *_: object, **__: object) -> list[tuple[Any, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("93.184.215.14", 80))]


def one_input(data: bytes) -> None:
    found: list[object] = []
    with _answering(data), Reader(_MOST, web=_LIMITS, sleep=lambda _: None) as reader:
        for reference in (ImageReference(_ADDRESS), ImageReference(_ADDRESS, listed_by="s3://bucket")):
            try:
                fetched = reader.read(reference)
            except Rejected as rejected:
                str(rejected).encode()
                continue
            if not isinstance(fetched, Fetched) or len(fetched.data) > _MOST or len(fetched.version) > _MOST:
                raise AssertionError(f"{len(fetched.data)} bytes, version {fetched.version!r}")
            found.append(fetched)
        found.append(reader.probe(ImageReference(_ADDRESS), 'etag:"v1"'))
    with _answering(data), tempfile.TemporaryDirectory() as folder, suppress(FetchError):
        found.append(fetch(_WEIGHTS, Path(folder), sleep=lambda _: None, allow_http=True))
    if not any(found):
        raise DensecastError("refused by all")


if __name__ == "__main__":
    launch("answer")
