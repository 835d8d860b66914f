"""The fused stage: one DoFn reads, decodes, infers and writes; only receipts leave it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam
import numpy as np
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from pipeline import progress, storage
from pipeline.batching import Batch, BatchBudget, Batcher
from pipeline.decoding import DecodedImage, DecodeLimits, decode
from pipeline.engines import Engine, EngineOutOfMemoryError, OpenEngine
from pipeline.errors import EngineError
from pipeline.maps import CellScores, Geometry, MapError, check_values
from pipeline.parts import FLUSH_BYTES, PartWriter, Receipt
from pipeline.publishing import Published, publish
from pipeline.recipe import Recipe
from pipeline.rejection import Reason, Rejected
from pipeline.rows import ImageFacts, MapRow, MapTooLargeError, rejected_row, scored_row
from pipeline.sources import ImageReference

Pending = tuple[ImageFacts, DecodedImage]


class Scorer:
    """Images into rows, without any framework: decoding, batching, inference and what becomes of failures.

    Args:
        engine: Runs the model.
        recipe: What is made of every image.
        limits: What is decoded at all; images smaller than the model's window are refused whatever they say.
        budget: Of batches.
        max_image_bytes: Larger files are refused unread.
        run_id: Written in every row.
    """

    def __init__(
        self,
        engine: Engine,
        recipe: Recipe,
        limits: DecodeLimits,
        budget: BatchBudget,
        max_image_bytes: int,
        run_id: str,
    ) -> None:
        height, width = engine.metadata.minimum_size
        self._engine, self._recipe, self._run_id = engine, recipe, run_id
        self._limits = DecodeLimits(
            limits.max_pixels, max(height, limits.min_height), max(width, limits.min_width), limits.formats
        )
        self._max_image_bytes = max_image_bytes
        self._geometry = geometry_of(engine)
        self._batcher: Batcher[Pending] = Batcher(budget)

    def add(self, reference: ImageReference) -> Iterator[MapRow]:
        """Takes an image; gives the rows that are ready, which may be of earlier images, in any order."""
        facts = ImageFacts(reference.uri, reference.id or None)
        try:
            data = self._read(reference)
            facts = ImageFacts(facts.uri, facts.id, len(data), hashlib.sha256(data).hexdigest())
            image = decode(data, self._limits)
        except Rejected as rejected:
            yield self._reject(facts, rejected.reason, rejected.detail)
            return
        height, width, _ = image.pixels.shape
        facts = ImageFacts(facts.uri, facts.id, facts.size_bytes, facts.digest, height, width)
        for batch in self._batcher.add((facts, image), (height, width)):
            yield from self._infer(batch)

    def flush(self) -> Iterator[MapRow]:
        """Gives the rows of all images that were still waiting."""
        for batch in self._batcher.flush():
            yield from self._infer(batch)

    def _read(self, reference: ImageReference) -> bytes:
        try:
            return storage.read_bytes(reference.uri, self._max_image_bytes)
        except storage.MissingFileError as error:
            raise Rejected(Reason.MISSING, error.what) from error
        except storage.TooLargeError as error:
            raise Rejected(Reason.TOO_MANY_BYTES, error.what) from error
        except storage.StorageError as error:
            raise Rejected(Reason.UNREADABLE, error.what) from error

    def _infer(self, batch: Batch[Pending]) -> Iterator[MapRow]:
        images = [image.pixels for _, image in batch.items]
        padded = np.stack(images + images[-1:] * (batch.size - len(images)))
        try:
            maps = self._engine.score(padded)[: len(images)]
        except EngineOutOfMemoryError as error:
            yield from self._halve(batch, error)
            return
        except EngineError as error:
            yield from self._one_by_one(batch, error)
            return
        for (facts, _), cells in zip(batch.items, maps, strict=True):
            try:
                yield self._scored(facts, cells)
            except MapTooLargeError as error:
                yield self._reject(facts, Reason.MAP_TOO_LARGE, str(error))
            except MapError as error:  # NaN, or classes that the model does not have
                yield self._reject(facts, Reason.ENGINE_FAILED, str(error))

    def _halve(self, batch: Batch[Pending], error: EngineOutOfMemoryError) -> Iterator[MapRow]:
        """Runs a batch that did not fit as two, down to single images; one that does not fit alone is rejected."""
        if batch.size == 1:
            for facts, _ in batch.items:
                yield self._reject(facts, Reason.OUT_OF_MEMORY, error.what)
            return
        half = batch.size // 2
        for start in range(0, len(batch.items), half):
            yield from self._infer(Batch(batch.shape, batch.items[start : start + half], half))

    def _one_by_one(self, batch: Batch[Pending], error: EngineError) -> Iterator[MapRow]:
        """One bad image must not take its neighbours along."""
        if batch.size == 1:
            for facts, _ in batch.items:
                yield self._reject(facts, Reason.ENGINE_FAILED, error.what)
            return
        for item in batch.items:
            yield from self._infer(Batch(batch.shape, (item,), 1))

    def _scored(self, facts: ImageFacts, cells: CellScores) -> MapRow:
        check_values(facts.uri, cells)
        row = scored_row(
            facts,
            self._recipe,
            self._geometry,
            cells,
            class_count=self._engine.metadata.classes,
            run_id=self._run_id,
            scored_at=datetime.now(UTC),
        )
        progress.count(progress.SCORED)
        return row

    def _reject(self, facts: ImageFacts, reason: Reason, detail: str) -> MapRow:
        progress.count(progress.REJECTED)
        return rejected_row(facts, self._recipe, reason, detail, run_id=self._run_id, scored_at=datetime.now(UTC))


def geometry_of(engine: Engine) -> Geometry:
    """The geometry of an engine's maps."""
    y, x = engine.metadata.geometry.y, engine.metadata.geometry.x
    return Geometry(
        *(y.stride, x.stride, y.offset, x.offset, y.window, x.window),
        *(y.receptive_field, x.receptive_field, y.shift, x.shift),
    )


class ScoreFn(beam.DoFn):
    """ImageReference -> Receipt: rows are written by size while the bundle runs, and at its end.

    Args:
        open_engine: Makes the engine, once a process.
        table: Where part files go.
        run_id: Part of every row and file name.
        recipe: What is made of every image.
        limits: What is decoded at all.
        budget: Of batches.
        max_image_bytes: Larger files are refused unread.
        flush_bytes: Size of gathered rows at which a part is written.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        table: str,
        run_id: str,
        recipe: Recipe,
        *,
        limits: DecodeLimits,
        budget: BatchBudget,
        max_image_bytes: int,
        flush_bytes: int = FLUSH_BYTES,
    ) -> None:
        self._open_engine, self._table, self._run_id, self._recipe = open_engine, table, run_id, recipe
        self._limits, self._budget = limits, budget
        self._max_image_bytes, self._flush_bytes = max_image_bytes, flush_bytes
        # One model a process, however many threads run this DoFn.
        self._shared = Shared()

    def setup(self) -> None:
        """Loads the model, or takes the one that this process has."""
        self._engine = self._shared.acquire(lambda: _Held(self._open_engine()), tag=self._recipe.model_digest).engine
        found = self._engine.metadata.digest
        if found != self._recipe.model_digest:
            raise EngineError(
                f"the model is another one now: its digest is {found[:12]}, at submission it was "
                f"{self._recipe.model_digest[:12]}",
                why="its maps would be filed under the wrong model",
                remedy="leave a model alone while it is used; convert the new one to another directory",
            )

    def start_bundle(self) -> None:
        """Nothing is carried from one bundle to another: a failed bundle leaves nothing behind."""
        self._scorer = Scorer(
            self._engine, self._recipe, self._limits, self._budget, self._max_image_bytes, self._run_id
        )
        self._writer = PartWriter(self._table, self._run_id, self._recipe.model_digest, self._flush_bytes)

    def process(self, reference: ImageReference) -> Iterator[Receipt]:
        """Scores one image; gives a receipt when a part was written."""
        yield from self._write(self._scorer.add(reference))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Scores what still waits and writes the last part."""
        receipts = [*self._write(self._scorer.flush())]
        last = self._writer.flush()
        for receipt in [*receipts, *([last] if last else [])]:
            yield WindowedValue(receipt, GlobalWindow().max_timestamp(), [GlobalWindow()])

    def _write(self, rows: Iterator[MapRow]) -> Iterator[Receipt]:
        for row in rows:
            receipt = self._writer.add(row)
            if receipt is not None:
                yield receipt


class _Held:
    """Shared holds weak references, which not every engine allows."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine


class PublishFn(beam.DoFn):
    """All receipts of a run -> what it published, in one transaction; repeating it changes nothing."""

    def __init__(self, table: str, run_id: str, model_json: dict[str, Any], summary: dict[str, Any]) -> None:
        self._table, self._run_id, self._model_json, self._summary = table, run_id, model_json, summary

    def process(self, receipts: Sequence[Receipt]) -> Iterator[Published]:
        """Publishes."""
        yield publish(self._table, receipts, run_id=self._run_id, model_json=self._model_json, summary=self._summary)
