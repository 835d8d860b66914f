"""The frames of a file as images of their own, as the members of a container are.

The first frame keeps the address of the file: its map is that of a run that scores first frames only. Further frames
have the address of the file, `#` and their number from 1. A file with one frame stays as it is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import cast

from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.images.formats import sniff
from pipeline.images.frames import frame_positions, page
from pipeline.rejection import Reason, Rejected
from pipeline.sources.file_types import FRAMES, is_web, may_have_frames
from pipeline.sources.reference import ImageReference
from pipeline.sources.streams import FileStream
from pipeline.storage.errors import StorageError
from pipeline.storage.options import StorageOptions

_FRAME = "pipeline.images.frames:frame"
_BUFFER = 2**16


def is_expandable(reference: ImageReference) -> bool:
    """Returns whether a reference is to a file whose frames can be listed, by the name of the file."""
    fresh = not reference.kind and not reference.fault
    return fresh and not is_web(reference.file) and may_have_frames(reference.file)


def list_frames(reference: ImageReference, options: StorageOptions | None = None) -> Iterator[ImageReference]:
    """Yields the frames of a file; the file as it is if it has one frame, or cannot be read.

    All frames have the label of the file. Its id is of the first frame only, because an id is of one image.

    Args:
        reference: The file.
        options: The options that object stores are opened with.
    """
    reference = reference.named()
    path = reference.file
    try:
        with FileStream(path, options) as stream:
            positions = frame_positions(io.BufferedReader(cast("io.RawIOBase", stream), _BUFFER))
            facts = stream.facts
    except StorageError:  # the reader meets the error again, and rejects the image
        yield reference
        return
    except Rejected as rejected:
        yield reference.rejected(rejected)
        return
    if len(positions) < 2:
        yield reference
        return
    first = reference._replace(
        size_bytes=facts.size_bytes, version=facts.version, container=path, kind=FRAMES, offset=0, location=""
    )
    yield first
    for index in range(1, len(positions)):
        version = f"{facts.version}@{index}" if facts.version else ""
        yield first._replace(uri=f"{reference.uri}#{index}", id="", version=version, offset=index)


class OpenFrames:
    """Reads the frames of a file."""

    def __init__(self, stream: FileStream) -> None:
        self._stream = stream
        self._data: bytes | None = None
        self._positions: list[int] = []
        self._decoder = IsolatedDecoder(function=_FRAME)

    @property
    def held_bytes(self) -> int:
        """The bytes of memory that this holds."""
        return len(self._data or b"")

    def read(self, reference: ImageReference, max_bytes: int) -> bytes:
        """Returns a frame as a file of its own; see `pipeline.images.frames`.

        Raises:
            Rejected: MISSING: there is no such frame; TOO_MANY_BYTES; and whatever `frame` raises.
            StorageError: The file cannot be read.
        """
        if self._stream.facts.size_bytes > max_bytes:
            raise Rejected(Reason.TOO_MANY_BYTES, f"{self._stream.facts.size_bytes:,} bytes")
        if self._data is None:
            self._stream.seek(0)
            self._data = self._stream.read(self._stream.facts.size_bytes)
            self._positions = frame_positions(io.BytesIO(self._data))
        if reference.offset >= len(self._positions):
            raise Rejected(Reason.MISSING, f"the file has {len(self._positions)} frames")
        if reference.offset == 0:
            return self._data
        if sniff(self._data) == "TIFF":
            return page(self._data, self._positions[reference.offset])
        rendered: bytes = self._decoder.call(self._data, reference.offset)
        return rendered

    def close(self) -> None:
        """Ends the process that decodes."""
        self._decoder.close()
