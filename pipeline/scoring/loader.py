"""Loads images: from a reference to the scaled pixels. Runs in the threads that load ahead of the engine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pipeline.byte_budget import PROCESS, Lease
from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.images.formats import sniff
from pipeline.images.multiscale import NeededBytes, ScaledImage, ScaledImages, ScalingLimits
from pipeline.images.resize import Scaling
from pipeline.rejection import Rejected
from pipeline.sources import ImageReference, Reader, WebLimits
from pipeline.sources.file_types import FRAMES
from pipeline.storage.options import StorageOptions
from pipeline.table.rows import ImageFacts
from pipeline.timing import timed

DECODE = "pipeline.images.multiscale:decode_scaled"
"""What the decoder's process of each loading thread calls."""

_COPIES = 3
"""How often a file is in memory while it is decoded: here, in the decoder's process, and there in one piece."""

_GRANTED = 2**25
"""The bytes that are taken for the decoding of every image; one that needs more takes more, and is sent again."""


@dataclass(frozen=True)
class Loaded:
    """A loaded image, or a rejection at every scale.

    Attributes:
        facts: What is known about the image.
        images: The image at each scale, or its rejection.
        seconds: Durations of the stages, by name.
        data: The file, if the image has to be read by rows at some scale; otherwise empty.
        only_first: Whether the file has further frames, which are not listed.
        lease: What the file and the pixels have taken from the budget of this process.
    """

    facts: ImageFacts
    images: tuple[ScaledImage, ...]
    seconds: dict[str, float]
    data: bytes = b""
    only_first: bool = False
    lease: Lease | None = None

    def release(self) -> None:
        """Gives back to the budget what was taken; called when the image is scored, or waits for its batch."""
        if self.lease is not None:
            self.lease.release()

    def weight(self) -> int:
        """Returns the bytes of memory that the file and the pixels take."""
        return len(self.data) + sum(image.nbytes for image in self.images)


class Loader:
    """Reads and decodes images; each thread opens its own.

    Args:
        scaling: The sizes that images are scaled to.
        limits: Which images are decoded and scaled.
        max_image_bytes: Larger files are rejected without being read.
        timeout_s: Seconds that the decoding of one image may take.
        options: How object stores are opened; None: from the environment.
        web: How images behind HTTP are fetched.
    """

    def __init__(
        self,
        scaling: Scaling,
        limits: ScalingLimits,
        max_image_bytes: int,
        timeout_s: float,
        *,
        options: StorageOptions | None = None,
        web: WebLimits | None = None,
    ) -> None:
        self._options, self._web = options, web
        self._scaling, self._limits = scaling, limits
        self._max_image_bytes, self._timeout_s = max_image_bytes, timeout_s

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[ImageReference], Loaded]]:
        """Yields a function that loads one image; it is for one thread."""
        decoder = IsolatedDecoder(self._timeout_s, function=DECODE)
        with Reader(self._max_image_bytes, web=self._web, options=self._options) as reader, decoder:
            yield functools.partial(self._load, reader, decoder)

    def _load(self, reader: Reader, decoder: IsolatedDecoder, reference: ImageReference) -> Loaded:
        # The pieces of a member are joined.
        lease = PROCESS.take((1 + bool(reference.kind)) * max(reference.size_bytes, 0) + _GRANTED)
        try:
            loaded = self._load_with(lease, reader, decoder, reference)
            lease.rest(loaded.weight())
        except BaseException:
            lease.release()
            raise
        return loaded

    def _load_with(self, lease: Lease, reader: Reader, decoder: IsolatedDecoder, reference: ImageReference) -> Loaded:
        seconds: dict[str, float] = {}
        facts = ImageFacts(
            reference.uri, reference.id or None, version=reference.version or None, label=reference.label or None
        )
        try:
            with timed(seconds, "read"):
                data, version = reader.read(reference)
                lease.resize(_COPIES * len(data) + _GRANTED)
                digest = hashlib.sha256(data).hexdigest()
            facts = replace(facts, size_bytes=len(data), digest=digest, version=version or None, file_type=sniff(data))
            with timed(seconds, "decode"):
                scaled = self._decode(lease, decoder, data)
        except Rejected as rejected:
            images = tuple(ScaledImage(scale, 0, 0, None, rejected) for scale in self._scaling.row_scales)
            return Loaded(facts, images, seconds, lease=lease)
        facts = replace(facts, height=scaled.height, width=scaled.width)
        by_rows = any(image.by_rows for image in scaled.images)
        only_first = scaled.frames > 1 and reference.kind != FRAMES
        return Loaded(facts, scaled.images, seconds, data if by_rows else b"", only_first, lease)

    def _decode(self, lease: Lease, decoder: IsolatedDecoder, data: bytes) -> ScaledImages:
        scaled: ScaledImages | NeededBytes = decoder.call(data, self._limits, self._scaling, _GRANTED)
        if isinstance(scaled, NeededBytes):
            lease.resize(_COPIES * len(data) + scaled.size)
            scaled = decoder.call(data, self._limits, self._scaling)
        if isinstance(scaled, NeededBytes):
            raise TypeError("a decoder that was granted any number of bytes needs more")
        return scaled
