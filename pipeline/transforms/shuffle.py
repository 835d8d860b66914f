"""What is shuffled: images divided into buckets by their addresses, and many small records packed into one.

A shuffled image costs a few dozen bytes, and the runner handles few elements.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

from pipeline.sources import ImageReference, streamed

Record = TypeVar("Record", bound=NamedTuple)


def pack(records: Iterable[tuple[object, ...]]) -> bytes:
    """Named tuples of texts, numbers and lists of these, compressed."""
    # JSON escapes what is no UTF-8 in the names of files.
    return zlib.compress(json.dumps(list(records), separators=(",", ":")).encode(), 1)


def unpack(data: bytes, kind: type[Record]) -> Iterator[Record]:
    """What was packed, one record at a time."""
    return (kind(*fields) for fields in json.loads(zlib.decompress(data)))


BUCKETS = 1024
"""Of a million images each holds a thousand; of a hundred million, few enough to be held in memory."""


def bucket_of(uri: str) -> int:
    """The bucket of an address, 0 to BUCKETS - 1; the same on every machine.

    >>> bucket_of("photos/cat.jpg")
    720
    >>> bucket_of("shard.tgz#cat.jpg") == bucket_of("shard.tgz#dog.jpg")
    True
    """
    container, _, member = uri.partition("#")
    # What can only be read from its beginning to its end is read by one worker.
    together = member and streamed(ImageReference(uri, container=container, kind="tar"))
    return zlib.crc32((container if together else uri).encode("utf-8", "backslashreplace")) % BUCKETS
