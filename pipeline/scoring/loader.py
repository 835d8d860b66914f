"""From a reference to what the model is to see; runs in the threads that load ahead of the engine."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.images.multiscale import ScaledImage, ScaledImages, ScalingLimits
from pipeline.images.resize import Scaling
from pipeline.rejection import Rejected
from pipeline.sources import ImageReference, Reader
from pipeline.storage.options import StorageOptions
from pipeline.table.rows import ImageFacts
from pipeline.timing import timed

_VIEWS = "pipeline.images.multiscale:views"


@dataclass(frozen=True)
class Loaded:
    """An image, read and decoded, or what is known of it if it could not be.

    Attributes:
        facts: What is known of it.
        views: What the model is to see of it, one at each scale; or why it is not.
        seconds: What the stages took, by name.
        data: The file, if some view has to be read from it by window; else empty.
    """

    facts: ImageFacts
    views: tuple[ScaledImage, ...]
    seconds: dict[str, float]
    data: bytes = b""

    def weight(self) -> int:
        """Bytes of memory that it takes."""
        return len(self.data) + sum(view.pixels.nbytes for view in self.views if view.pixels is not None)


class Loader:
    """Reads and decodes images; each thread opens its own.

    Args:
        scaling: What sizes each image is brought to.
        limits: What is decoded.
        max_image_bytes: Larger files are refused unread.
        timeout_s: Seconds that the decoding of one image may take.
        options: How object stores are opened; None: as the environment says.
    """

    def __init__(
        self,
        scaling: Scaling,
        limits: ScalingLimits,
        max_image_bytes: int,
        timeout_s: float,
        options: StorageOptions | None = None,
    ) -> None:
        self._options = options
        self._scaling, self._limits = scaling, limits
        self._max_image_bytes, self._timeout_s = max_image_bytes, timeout_s

    @contextlib.contextmanager
    def open(self) -> Iterator[Callable[[ImageReference], Loaded]]:
        """A function that loads one image; for one thread."""
        decoder = IsolatedDecoder(self._timeout_s, function=_VIEWS)
        with Reader(self._max_image_bytes, options=self._options) as reader, decoder:
            yield functools.partial(self._load, reader, decoder)

    def _load(self, reader: Reader, decoder: IsolatedDecoder, reference: ImageReference) -> Loaded:
        seconds: dict[str, float] = {}
        facts = ImageFacts(reference.uri, reference.id or None, version=reference.version or None)
        try:
            with timed(seconds, "read"):
                data, version = reader.read(reference)
                digest = hashlib.sha256(data).hexdigest()
            facts = ImageFacts(facts.uri, facts.id, len(data), digest, version=version or None)
            with timed(seconds, "decode"):
                found: ScaledImages = decoder.call(data, self._limits, scaling=self._scaling)
        except Rejected as rejected:
            views = tuple(ScaledImage(scale, 0, 0, None, rejected) for scale in self._scaling.scales)
            return Loaded(facts, views, seconds)
        facts = ImageFacts(facts.uri, facts.id, facts.size_bytes, digest, found.height, found.width, facts.version)
        by_window = any(view.pixels is None and view.rejected is None for view in found.views)
        return Loaded(facts, found.views, seconds, data if by_window else b"")
