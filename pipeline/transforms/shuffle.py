"""The shuffle's elements: images are assigned to buckets by their addresses, and many small records become one element.

A shuffled image takes a few dozen bytes, and the runner handles few elements.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple, TypeVar

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from pipeline.sources import ImageReference, streamed
from pipeline.sources.file_types import FRAMES
from pipeline.sources.spelling import split

Record = TypeVar("Record", bound=NamedTuple)


def pack(records: Iterable[tuple[object, ...]]) -> bytes:
    """Returns named tuples of strings, numbers and lists of these as compressed JSON."""
    # JSON escapes the bytes of file names that are not UTF-8.
    return zlib.compress(json.dumps(list(records), separators=(",", ":")).encode(), 1)


def unpack(data: bytes, kind: type[Record]) -> Iterator[Record]:
    """Yields the records that `pack` compressed."""
    return (kind(*fields) for fields in json.loads(zlib.decompress(data)))


BUCKETS = 1024
"""A bucket holds 1000 of a million images; one of a hundred million images still fits in memory."""


def bucket_of(uri: str) -> int:
    """Returns the bucket of an address, 0 to BUCKETS - 1; the same on every machine.

    >>> bucket_of("photos/cat.jpg")
    720
    >>> bucket_of("shard.tgz#cat.jpg") == bucket_of("shard.tgz#dog.jpg")
    True
    """
    container, member = split(uri)
    # One worker reads a container that can only be read as a stream.
    together = member and any(streamed(ImageReference(uri, container=container, kind=kind)) for kind in ("tar", FRAMES))
    return zlib.crc32((container if together else uri).encode("utf-8", "backslashreplace")) % BUCKETS


def spread(elements: beam.PCollection, label: str) -> beam.PCollection:
    """Returns a collection whose elements are spread over the workers, and are computed once.

    Where one process does it all, there is nothing to spread, and each shuffle costs tenths of a second: it is seven
    more transforms to make, to translate and to run. That runner computes every element once.

    Args:
        elements: The collection.
        label: The name of the step.
    """
    pipeline = elements.pipeline
    if isinstance(pipeline.runner, FnApiRunner) and pipeline.options.view_as(DirectOptions).direct_num_workers == 1:
        return elements
    return elements | label >> beam.Reshuffle()
