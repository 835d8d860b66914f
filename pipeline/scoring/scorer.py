"""Scores images into rows, without a framework: loading ahead, batching, inference, and rejections."""

from __future__ import annotations

import contextlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np

from conversion import ModelMetadata
from pipeline import counters
from pipeline.byte_budget import PROCESS
from pipeline.engines import Engine, EngineOutOfMemoryError, MixedEngine
from pipeline.errors import EngineError
from pipeline.images.decode import DecodeLimits
from pipeline.images.decoder_process import TIMEOUT_S
from pipeline.images.multiscale import ScaledImage, ScalingLimits
from pipeline.images.row_reader import memory_of
from pipeline.images.row_reader_isolated import IsolatedRowReader
from pipeline.images.samples import Pixels
from pipeline.images.window_filters import Floats32
from pipeline.maps.classification_map import CellScores, MapError, check_values
from pipeline.maps.encoding import MapTooLargeError
from pipeline.maps.geometry import geometry_of, original_geometry
from pipeline.maps.recipe import Recipe
from pipeline.maps.tiling import Tile, TileGrid, cut
from pipeline.maps.windows import cut_windows, window_geometry
from pipeline.rejection import Reason, Rejected
from pipeline.scoring.batching import Batch, BatchBudget, BatchEffect, Batcher, MixedBatcher
from pipeline.scoring.inference import Inference
from pipeline.scoring.loader import Loaded, Loader
from pipeline.scoring.prefetch import LookAhead, Prefetcher
from pipeline.scoring.tiles import tiles_of
from pipeline.settings import LimitSettings
from pipeline.sources import MAX_IMAGE_BYTES, ImageReference, WebLimits
from pipeline.storage.options import StorageOptions
from pipeline.table.rows import ImageFacts, MapRow, Placement, rejected_row, scored_row, with_labels

UNALIGNED = "the model has no tile alignment: it was converted by an older version, or its cells see the whole image"


@dataclass(frozen=True)
class Limits:
    """Limits on what is read, decoded and held in memory.

    Attributes:
        decode: Which images are decoded.
        budget: The size of batches.
        look_ahead: How far ahead images are loaded while the engine runs.
        max_image_bytes: Larger files are rejected without being read.
        tile_pixels: An image with more pixels is cut into tiles of at most this many pixels.
        whole_pixels: An image with more pixels is not decoded whole if its format can be read by rows.
        decode_timeout_s: Seconds that the decoding of one image may take.
        web: How images behind HTTP are fetched.
        load_bytes: The budget of bytes of the process, see `pipeline.byte_budget`.
    """

    decode: DecodeLimits = field(default_factory=DecodeLimits)
    budget: BatchBudget = field(default_factory=BatchBudget)
    look_ahead: LookAhead = field(default_factory=LookAhead)
    max_image_bytes: int = MAX_IMAGE_BYTES
    tile_pixels: int = LimitSettings.tile_pixels
    whole_pixels: int = 2**26
    decode_timeout_s: float = TIMEOUT_S
    web: WebLimits = field(default_factory=WebLimits)
    load_bytes: int = LimitSettings.load_bytes

    def loader(self, recipe: Recipe, metadata: ModelMetadata, options: StorageOptions | None = None) -> Loader:
        """Returns the loader of images for a model, within these limits."""
        limits = ScalingLimits(self.decode, metadata.minimum_size, self.whole_pixels, metadata.takes_grey)
        return Loader(
            recipe.scaling, limits, self.max_image_bytes, self.decode_timeout_s, options=options, web=self.web
        )


@dataclass(frozen=True)
class _Pending:
    """An image at one scale that waits for its batch.

    Attributes:
        facts: What is known about the image.
        image: The image at that scale.
        pixels: uint8 RGB [h, w, 3]; or its windows, float32 RGB [n, h, w, 3].
    """

    facts: ImageFacts
    image: ScaledImage
    pixels: Pixels | Floats32


@dataclass(frozen=True)
class _Running:
    """A batch that the engine runs, or has run.

    Attributes:
        batch: The batch.
        maps: The map at each of its places, or the engine's error.
    """

    batch: Batch[_Pending]
    maps: Future[list[CellScores]]


class TilesFailedError(Exception):
    """A tile of an image failed, so the image gets no map.

    Attributes:
        row: The rejection of the image. The rows of its tiles so far are to be dropped.
    """

    def __init__(self, row: MapRow) -> None:
        self.row = row
        super().__init__(row.uri)


class Tiles:
    """Yields the rows of an image that is scored in tiles. They are valid only if the iteration ends normally.

    Iterating raises `TilesFailedError` if a tile fails.
    """

    def __init__(self, rows: Iterator[MapRow]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[MapRow]:
        return self._rows


Count: TypeAlias = Callable[[str, int], None]
Scored: TypeAlias = MapRow | Tiles


class Scorer:
    """Scores images into rows.

    Args:
        engine: Runs the model.
        recipe: How maps are computed and stored.
        limits: Limits on what is read, decoded and held in memory. In addition, images smaller than the model's nominal
            window are rejected.
        run_id: The run's id, which every row contains.
        uncut: Why images cannot be cut into tiles, so that images that would be cut are rejected; empty if they can.
        count: Adds to a counter of the run's progress; takes a name and a number.
        options: How object stores are opened; None: from the environment.
        effect: What the bits of a map depend on, which batches then respect.
    """

    def __init__(
        self,
        engine: Engine,
        recipe: Recipe,
        limits: Limits,
        run_id: str,
        *,
        uncut: str = "",
        count: Count = counters.PROCESS.add,
        options: StorageOptions | None = None,
        effect: BatchEffect = BatchEffect.NONE,
    ) -> None:
        self._uncut, self._count = uncut, count
        self._engine, self._recipe, self._limits, self._run_id = engine, recipe, limits, run_id
        self._geometry = geometry_of(engine.metadata)
        self._effect = effect
        self._batcher = self._new_batcher()
        # Apart from the images, which may have the same shape.
        self._windows_batcher: Batcher[_Pending] = Batcher(limits.budget, effect)
        PROCESS.total = limits.load_bytes
        loader = limits.loader(recipe, engine.metadata, options)
        self._loads = Prefetcher(loader.open, Loaded.weight, limits.look_ahead)
        self.counts: defaultdict[str, float] = defaultdict(float)
        """Images read, and seconds by stage."""
        self._inference = Inference(engine, self.counts)
        self._running: _Running | None = None

    def add(self, reference: ImageReference) -> Iterator[Scored]:
        """Adds an image, and yields the rows that are ready: possibly of earlier images, in any order."""
        yield from self._score_all(self._loads.put(reference))

    def flush(self) -> Iterator[Scored]:
        """Yields the rows of all images that still wait."""
        yield from self._score_all(self._loads.drain())
        for batch in (*self._batcher.flush(), *self._windows_batcher.flush()):
            yield from self._infer(batch)
        yield from self._settle()

    def reset(self) -> None:
        """Drops all images that wait; the batch that runs is waited for."""
        self._loads.discard()
        running, self._running = self._running, None
        if running is not None and not running.maps.cancel():
            wait([running.maps])
        self._batcher = self._new_batcher()
        self._windows_batcher = Batcher(self._limits.budget, self._effect)
        self.counts.clear()

    def close(self) -> None:
        """Drops all images that wait, and ends the threads and the decoder processes."""
        self._loads.close()
        self._inference.close()

    def _new_batcher(self) -> Batcher[_Pending] | MixedBatcher[_Pending]:
        if isinstance(self._engine, MixedEngine) and self._engine.mixed:
            return MixedBatcher(self._limits.budget)
        return Batcher(self._limits.budget, self._effect)

    def _score_all(self, loads: Iterator[tuple[ImageReference, Loaded | Rejected]]) -> Iterator[Scored]:
        for _, loaded in loads:
            if isinstance(loaded, Rejected):  # unexpected: the loader returns rejections as `Loaded`
                raise loaded
            try:
                yield from self._take(loaded)
            finally:
                loaded.release()

    def _take(self, loaded: Loaded) -> Iterator[Scored]:
        for name, seconds in loaded.seconds.items():
            self.counts[name] += seconds
        self.counts["read"] += loaded.facts.digest is not None
        if loaded.only_first:
            self.counts["only_first_frame"] += 1
        for image in loaded.images:
            if image.rejected is not None:
                yield self._reject(loaded.facts, image, image.rejected.reason, image.rejected.detail)
            elif image.for_windows is not None:
                for batch in self._add_windows(loaded.facts, image, image.for_windows):
                    yield from self._infer(batch)
            elif image.pixels is None or image.height * image.width > self._limits.tile_pixels:
                yield from self._settle()
                yield Tiles(self._tiled(loaded, image))
            else:
                pending = _Pending(loaded.facts, image, image.pixels)
                for batch in self._batcher.add(pending, (image.height, image.width), _lane_key(loaded.facts)):
                    yield from self._infer(batch)

    def _add_windows(self, facts: ImageFacts, image: ScaledImage, resized: Pixels | Floats32) -> list[Batch[_Pending]]:
        """Adds an image that was resized for windows; returns the batches to run now."""
        windows, size = self._recipe.windows, self._engine.metadata.minimum_size
        if windows is None:
            raise EngineError("an image was resized for windows that the recipe does not have")
        cut = cut_windows(resized, windows, size).astype(np.float32)
        shape = (len(cut) * size[0], size[1])
        return self._windows_batcher.add(_Pending(facts, image, cut), shape, _lane_key(facts))

    def _infer(self, batch: Batch[_Pending]) -> Iterator[MapRow]:
        """Starts a batch, and yields the rows of the one that was started before it."""
        before, self._running = self._running, self._start(batch)
        if before is not None:
            yield from self._rows(before)

    def _settle(self) -> Iterator[MapRow]:
        """Yields the rows of the batch that runs, if there is one; the engine is idle afterwards."""
        running, self._running = self._running, None
        if running is not None:
            yield from self._rows(running)

    def _start(self, batch: Batch[_Pending]) -> _Running:
        images = [batch.items[-1].pixels] * batch.size
        for item, place in zip(batch.items, batch.places, strict=True):
            images[place] = item.pixels
        return _Running(batch, self._inference.start(images))

    def _rows(self, running: _Running) -> Iterator[MapRow]:
        batch = running.batch
        try:
            maps = running.maps.result()
        except EngineOutOfMemoryError as error:
            yield from self._halve(batch, error)
            return
        except EngineError as error:
            yield from self._one_by_one(batch, error)
            return
        for item, place in zip(batch.items, batch.places, strict=True):
            facts, image = item.facts, item.image
            try:
                yield self._row(facts, image, maps[place], Placement(image.scale, image.height, image.width))
            except MapError as error:
                yield self._reject(facts, image, *_rejection(error))

    def _halve(self, batch: Batch[_Pending], error: EngineOutOfMemoryError) -> Iterator[MapRow]:
        """Splits a batch that does not fit in memory, down to single images; rejects an image that does not fit."""
        if batch.size == 1:
            for item in batch.items:
                yield self._reject(item.facts, item.image, *_rejection(error))
            return
        for half in batch.halves():
            yield from self._rows(self._start(half))

    def _one_by_one(self, batch: Batch[_Pending], error: EngineError) -> Iterator[MapRow]:
        """Runs the images of a batch that failed one by one, so that an image that fails does not affect the others.

        Their batches have the same size, so their maps the same bits, as in a batch that does not fail.
        """
        if len(batch.items) == 1:
            for item in batch.items:
                yield self._reject(item.facts, item.image, *_rejection(error))
            return
        for single in batch.alone():
            yield from self._rows(self._start(single))

    def _tiled(self, loaded: Loaded, image: ScaledImage) -> Iterator[MapRow]:
        """Yields the rows of an image's tiles; an image without pixels is read while the rows are requested."""
        facts = loaded.facts
        # The next tile is read, and the row of the one before is made, while the engine runs a tile.
        running: deque[tuple[Tile, Future[list[CellScores]]]] = deque()
        try:
            grid = self._cut(image)
            with self._pieces(loaded, grid, image) as pieces:
                for tile, piece in pieces:
                    running.append((tile, self._inference.start([piece])))
                    if len(running) > 1:
                        yield self._tile_row(facts, image, *running.popleft(), count=len(grid))
            while running:
                yield self._tile_row(facts, image, *running.popleft(), count=len(grid))
        except Rejected as error:
            raise TilesFailedError(self._reject(facts, image, error.reason, error.detail)) from error
        except (EngineError, MapError) as error:
            raise TilesFailedError(self._reject(facts, image, *_rejection(error))) from error
        finally:
            wait([maps for _, maps in running if not maps.cancel()])

    def _tile_row(
        self, facts: ImageFacts, image: ScaledImage, tile: Tile, maps: Future[list[CellScores]], *, count: int
    ) -> MapRow:
        """Returns the row of a tile once the engine has its map."""
        [cells] = maps.result()
        placement = Placement(
            image.scale, image.height, image.width, tile.index, count, tile_y=tile.cell_y, tile_x=tile.cell_x
        )
        return self._row(facts, image, cells.part(tile.kept), placement)

    def _cut(self, image: ScaledImage) -> TileGrid:
        metadata = self._engine.metadata
        if self._uncut or metadata.alignment is None:
            raise Rejected(Reason.TOO_MANY_PIXELS, f"{image.height} x {image.width}: {self._uncut or UNALIGNED}")
        tile_pixels, alignment = self._limits.tile_pixels, metadata.alignment
        return cut(image.height, image.width, metadata.geometry, tile_pixels=tile_pixels, alignment=alignment)

    @contextlib.contextmanager
    def _pieces(self, loaded: Loaded, grid: TileGrid, image: ScaledImage) -> Iterator[Iterator[tuple[Tile, Pixels]]]:
        pixels = image.pixels
        if pixels is not None:
            yield ((tile, pixels[tile.top : tile.bottom, tile.left : tile.right]) for tile in grid)
            return
        limits, grey = self._limits, self._engine.metadata.takes_grey
        with (
            PROCESS.take(len(loaded.data) + memory_of(image.width)),
            IsolatedRowReader(loaded.data, limits.decode, limits.decode_timeout_s, grey=grey) as reader,
        ):
            yield tiles_of(reader, grid)

    def _row(self, facts: ImageFacts, image: ScaledImage, cells: CellScores, placement: Placement) -> MapRow:
        check_values(facts.uri, cells)
        size, scored = (facts.height or image.height, facts.width or image.width), (image.height, image.width)
        windows = self._recipe.windows if image.for_windows is not None else None
        if windows is None:
            geometry = original_geometry(self._geometry, size, scored)
        else:
            geometry = window_geometry(windows, self._engine.metadata.minimum_size, scored, size)
        row = scored_row(
            facts,
            self._recipe,
            geometry,
            cells,
            class_count=self._engine.metadata.classes,
            run_id=self._run_id,
            scored_at=datetime.now(UTC),
            placement=placement,
        )
        self._count(counters.SCORED, int(placement.tile_index + 1 == placement.tile_count))
        return with_labels(row, cells, self._engine.metadata.labels)

    def _reject(self, facts: ImageFacts, image: ScaledImage, reason: Reason, detail: str) -> MapRow:
        self._count(counters.REJECTED, 1)
        self.counts[f"reasons.{reason}"] += 1
        return rejected_row(
            facts,
            self._recipe,
            reason,
            detail,
            run_id=self._run_id,
            scored_at=datetime.now(UTC),
            placement=Placement(image.scale, image.height or None, image.width or None),
        )


def _lane_key(facts: ImageFacts) -> int:
    """Returns a number that follows from an image's content: the same file is in the same lane in every run."""
    return int(facts.digest[:8], 16) if facts.digest else 0


def _rejection(error: EngineError | MapError) -> tuple[Reason, str]:
    """Returns reason and detail of the rejection for an error of the engine or of its map."""
    if isinstance(error, EngineOutOfMemoryError):
        return Reason.OUT_OF_MEMORY, error.what
    if isinstance(error, MapTooLargeError):
        return Reason.MAP_TOO_LARGE, str(error)
    return Reason.ENGINE_FAILED, error.what  # also NaN, or classes that the model does not have
