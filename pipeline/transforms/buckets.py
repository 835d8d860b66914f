"""Where what is known of an image meets: images are divided into buckets by their addresses."""

from __future__ import annotations

import zlib

from pipeline.sources import ImageReference, streamed

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
