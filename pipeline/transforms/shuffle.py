"""Many small records as one: what is shuffled costs a few dozen bytes an image, and the runner handles few elements."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

Record = TypeVar("Record", bound=NamedTuple)


def pack(records: Iterable[tuple[object, ...]]) -> bytes:
    """Named tuples of texts, numbers and lists of these, compressed."""
    # JSON escapes what is no UTF-8 in the names of files.
    return zlib.compress(json.dumps(list(records), separators=(",", ":")).encode(), 1)


def unpack(data: bytes, kind: type[Record]) -> Iterator[Record]:
    """What was packed, one record at a time."""
    return (kind(*fields) for fields in json.loads(zlib.decompress(data)))
