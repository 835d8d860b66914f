"""Images into rows, without any framework: loading ahead, batching, inference, and what becomes of failures."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TypeAlias

import numpy as np

from conversion import ModelMetadata
from pipeline import counters
from pipeline.engines import Engine, EngineOutOfMemoryError
from pipeline.errors import EngineError
from pipeline.images.decode import DecodeLimits, Pixels
from pipeline.images.decoder_process import TIMEOUT_S
from pipeline.images.multiscale import ScaledImage, ScalingLimits
from pipeline.images.row_reader_isolated import Bands
from pipeline.maps.classification_map import CellScores, MapError, check_values
from pipeline.maps.encoding import MapTooLargeError
from pipeline.maps.geometry import geometry_of, original_geometry
from pipeline.maps.recipe import Recipe
from pipeline.maps.tiling import Tile, TileGrid, cut
from pipeline.rejection import Reason, Rejected
from pipeline.scoring.batching import Batch, BatchBudget, Batcher
from pipeline.scoring.loader import Loaded, Loader
from pipeline.scoring.prefetch import LookAhead, Prefetcher
from pipeline.scoring.tiles import tiles_of
from pipeline.settings import LimitSettings
from pipeline.sources import MAX_IMAGE_BYTES, ImageReference
from pipeline.storage.options import StorageOptions
from pipeline.table.rows import ImageFacts, MapRow, Placement, rejected_row, scored_row
from pipeline.timing import timed

UNALIGNED = "the model does not say how an image may be cut: it was converted by an older version, or sees whole images"


@dataclass(frozen=True)
class Limits:
    """What is read, decoded and held at all, and how.

    Attributes:
        decode: What is decoded.
        budget: Of batches.
        look_ahead: How far ahead images are loaded while the engine runs.
        max_image_bytes: Larger files are refused unread.
        tile_pixels: Larger images are cut into tiles of so many pixels.
        whole_pixels: Larger images are not decoded whole where their format can be read by window.
        decode_timeout_s: Seconds that the decoding of one image may take.
    """

    decode: DecodeLimits = field(default_factory=DecodeLimits)
    budget: BatchBudget = field(default_factory=BatchBudget)
    look_ahead: LookAhead = field(default_factory=LookAhead)
    max_image_bytes: int = MAX_IMAGE_BYTES
    tile_pixels: int = LimitSettings.tile_pixels
    whole_pixels: int = 2**26
    decode_timeout_s: float = TIMEOUT_S

    def loader(self, recipe: Recipe, metadata: ModelMetadata, options: StorageOptions | None = None) -> Loader:
        """What loads images for a model, within these limits."""
        views = ScalingLimits(self.decode, *metadata.minimum_size, self.whole_pixels)
        return Loader(recipe.scaling, views, self.max_image_bytes, self.decode_timeout_s, options)


@dataclass(frozen=True)
class _Pending:
    """A view that waits for its batch."""

    facts: ImageFacts
    view: ScaledImage
    pixels: Pixels


class TilesFailedError(Exception):
    """An image that is scored in tiles gets no map after all.

    Attributes:
        row: Its rejection; the rows of tiles that were given before it do not count.
    """

    def __init__(self, row: MapRow) -> None:
        self.row = row
        super().__init__(row.uri)


class Tiles:
    """The rows of an image that is scored in tiles, one after another; they count only if all of them come.

    Iterating raises `TilesFailedError` where they do not.
    """

    def __init__(self, rows: Iterator[MapRow]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[MapRow]:
        return self._rows


Count: TypeAlias = Callable[[str, int], None]
Scored: TypeAlias = MapRow | Tiles


class Scorer:
    """Images into rows.

    Args:
        engine: Runs the model.
        recipe: What is made of every image.
        limits: What is read, decoded and held; images smaller than the model's window are refused whatever they say.
        run_id: Written in every row.
        uncut: Why images cannot be cut into tiles, so that those that would be are rejected; empty where they can.
        count: Counts by name for the progress of the run; takes a name and a number.
        options: How object stores are opened; None: as the environment says.
    """

    def __init__(
        self,
        engine: Engine,
        recipe: Recipe,
        limits: Limits,
        run_id: str,
        uncut: str = "",
        count: Count = counters.PROCESS.add,
        *,
        options: StorageOptions | None = None,
    ) -> None:
        self._uncut, self._count = uncut, count
        self._engine, self._recipe, self._limits, self._run_id = engine, recipe, limits, run_id
        self._geometry = geometry_of(engine.metadata)
        self._batcher: Batcher[_Pending] = Batcher(limits.budget)
        loader = limits.loader(recipe, engine.metadata, options)
        self._loads = Prefetcher(loader.open, Loaded.weight, limits.look_ahead)
        self.counts: defaultdict[str, float] = defaultdict(float)
        """Images read, and seconds by stage."""

    def add(self, reference: ImageReference) -> Iterator[Scored]:
        """Takes an image; gives the rows that are ready, which may be of earlier images, in any order."""
        for _, loaded in self._loads.put(reference):
            yield from self._take(loaded)

    def flush(self) -> Iterator[Scored]:
        """Gives the rows of all images that were still waiting."""
        for _, loaded in self._loads.drain():
            yield from self._take(loaded)
        for batch in self._batcher.flush():
            yield from self._infer(batch)

    def reset(self) -> None:
        """Forgets what is waiting."""
        self._loads.discard()
        self._batcher = Batcher(self._limits.budget)
        self.counts.clear()

    def close(self) -> None:
        """Forgets what is waiting, and ends the threads and the processes that decode."""
        self._loads.close()

    def _take(self, loaded: Loaded | Rejected) -> Iterator[Scored]:
        if isinstance(loaded, Rejected):  # the loader gives these with what is known of the image
            raise loaded
        for name, seconds in loaded.seconds.items():
            self.counts[name] += seconds
        self.counts["read"] += loaded.facts.digest is not None
        for view in loaded.views:
            if view.rejected is not None:
                yield self._reject(loaded.facts, view, view.rejected.reason, view.rejected.detail)
            elif view.pixels is None or view.height * view.width > self._limits.tile_pixels:
                yield Tiles(self._tiled(loaded, view))
            else:
                for batch in self._batcher.add(_Pending(loaded.facts, view, view.pixels), (view.height, view.width)):
                    yield from self._infer(batch)

    def _score(self, pixels: Pixels) -> list[CellScores]:
        with timed(self.counts, "infer"):
            return self._engine.score(pixels)

    def _infer(self, batch: Batch[_Pending]) -> Iterator[MapRow]:
        images = [item.pixels for item in batch.items]
        try:
            maps = self._score(np.stack(images + images[-1:] * (batch.size - len(images))))[: len(images)]
        except EngineOutOfMemoryError as error:
            yield from self._halve(batch, error)
            return
        except EngineError as error:
            yield from self._one_by_one(batch, error)
            return
        for item, cells in zip(batch.items, maps, strict=True):
            facts, view = item.facts, item.view
            try:
                yield self._row(facts, view, cells, Placement(view.scale, view.height, view.width))
            except MapError as error:
                yield self._reject(facts, view, *_fate(error))

    def _halve(self, batch: Batch[_Pending], error: EngineOutOfMemoryError) -> Iterator[MapRow]:
        """Runs a batch that did not fit as two, down to single images; one that does not fit alone is rejected."""
        if batch.size == 1:
            for item in batch.items:
                yield self._reject(item.facts, item.view, *_fate(error))
            return
        half = batch.size // 2
        for start in range(0, len(batch.items), half):
            yield from self._infer(Batch(batch.shape, batch.items[start : start + half], half))

    def _one_by_one(self, batch: Batch[_Pending], error: EngineError) -> Iterator[MapRow]:
        """One bad image must not take its neighbours along."""
        if batch.size == 1:
            for item in batch.items:
                yield self._reject(item.facts, item.view, *_fate(error))
            return
        for item in batch.items:
            yield from self._infer(Batch(batch.shape, (item,), 1))

    def _tiled(self, loaded: Loaded, view: ScaledImage) -> Iterator[MapRow]:
        """The rows of an image's tiles; the image is read as they are asked for where the view has no pixels."""
        facts = loaded.facts
        try:
            grid = self._cut(view)
            with self._pieces(loaded, grid, view.pixels) as pieces:
                for tile, piece in pieces:
                    [cells] = self._score(piece[np.newaxis])
                    position = (tile.index, len(grid), tile.cell_y, tile.cell_x)
                    place = Placement(view.scale, view.height, view.width, *position)
                    yield self._row(facts, view, cells.part(tile.kept), place)
        except Rejected as error:
            raise TilesFailedError(self._reject(facts, view, error.reason, error.detail)) from error
        except (EngineError, MapError) as error:
            raise TilesFailedError(self._reject(facts, view, *_fate(error))) from error

    def _cut(self, view: ScaledImage) -> TileGrid:
        metadata = self._engine.metadata
        if self._uncut or metadata.alignment is None:
            raise Rejected(Reason.TOO_MANY_PIXELS, f"{view.height} x {view.width}: {self._uncut or UNALIGNED}")
        axes = metadata.geometry.y.axis, metadata.geometry.x.axis
        return cut(view.height, view.width, axes, self._limits.tile_pixels, metadata.alignment)

    @contextlib.contextmanager
    def _pieces(self, loaded: Loaded, grid: TileGrid, pixels: Pixels | None) -> Iterator[Iterator[tuple[Tile, Pixels]]]:
        if pixels is not None:
            yield ((tile, pixels[tile.top : tile.bottom, tile.left : tile.right]) for tile in grid)
            return
        with Bands(loaded.data, self._limits.decode, self._limits.decode_timeout_s) as bands:
            yield tiles_of(bands, grid)

    def _row(self, facts: ImageFacts, view: ScaledImage, cells: CellScores, place: Placement) -> MapRow:
        check_values(facts.uri, cells)
        size = (facts.height or view.height, facts.width or view.width)
        row = scored_row(
            facts,
            self._recipe,
            original_geometry(self._geometry, size, (view.height, view.width)),
            cells,
            class_count=self._engine.metadata.classes,
            run_id=self._run_id,
            scored_at=datetime.now(UTC),
            placement=place,
        )
        self._count(counters.SCORED, int(place.tile_index + 1 == place.tile_count))
        return row

    def _reject(self, facts: ImageFacts, view: ScaledImage, reason: Reason, detail: str) -> MapRow:
        self._count(counters.REJECTED, 1)
        self.counts[f"reasons.{reason}"] += 1
        place = Placement(view.scale, view.height or None, view.width or None)
        now = datetime.now(UTC)
        return rejected_row(facts, self._recipe, reason, detail, run_id=self._run_id, scored_at=now, placement=place)


def _fate(error: EngineError | MapError) -> tuple[Reason, str]:
    """What an error of the engine, or of its map, means for the image."""
    if isinstance(error, EngineOutOfMemoryError):
        return Reason.OUT_OF_MEMORY, error.what
    if isinstance(error, MapTooLargeError):
        return Reason.MAP_TOO_LARGE, str(error)
    return Reason.ENGINE_FAILED, error.what  # NaN, or classes that the model does not have
