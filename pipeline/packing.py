"""Many small records as one: what is shuffled costs a few dozen bytes an image, and the runner handles few elements.

Images are divided into buckets by their addresses. Whatever is known of one image meets in its bucket.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

Record = TypeVar("Record", bound=NamedTuple)

BUCKETS = 1024
"""Of a million images each holds a thousand; of a hundred million, few enough to be held in memory."""


def bucket_of(uri: str) -> int:
    """The bucket of an address, 0 to BUCKETS - 1; the same on every machine, and for all members of a container.

    >>> bucket_of("photos/cat.jpg")
    720
    >>> bucket_of("shard.tar#cat.jpg") == bucket_of("shard.tar#dog.jpg")
    True
    """
    # Members are read one after another by one worker, as far as that goes.
    return zlib.crc32(uri.partition("#")[0].encode("utf-8", "backslashreplace")) % BUCKETS


def pack(records: Iterable[tuple[object, ...]]) -> bytes:
    """Named tuples of texts, numbers and lists of these, compressed."""
    # JSON escapes what is no UTF-8 in the names of files.
    return zlib.compress(json.dumps(list(records), separators=(",", ":")).encode(), 1)


def unpack(data: bytes, kind: type[Record]) -> Iterator[Record]:
    """What was packed, one record at a time."""
    return (kind(*fields) for fields in json.loads(zlib.decompress(data)))
