"""The fused scoring stage as a DoFn: read, decode, infer and write part files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from threading import Thread

import apache_beam as beam
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.beam_counters import count
from pipeline.engines import Engine, EngineFactory, OpenEngine, counts_of
from pipeline.engines.ahead import take
from pipeline.errors import EngineError
from pipeline.maps.recipe import Recipe
from pipeline.scoring.batch_effect import batch_effect
from pipeline.scoring.batching import BatchEffect
from pipeline.scoring.machine import processor_name
from pipeline.scoring.scorer import Limits, Scored, Scorer, Tiles, TilesFailedError
from pipeline.settings import ExecutionSettings, Rounding
from pipeline.sources import ImageReference
from pipeline.stopping import check_not_stopped
from pipeline.table.part_file import FLUSH_BYTES, PartWriter, Receipt
from pipeline.table.paths import TableRoot
from pipeline.table.rows import MapRow
from pipeline.timing import timed
from pipeline.transforms.reports import StageCounts, in_global_window
from pipeline.transforms.shuffle import unpack


class ScoreFn(beam.DoFn):
    """Packed references -> `Receipt` and `StageCounts`: parts are written while the bundle runs, and at its end.

    Args:
        open_engine: Makes the engine, once a process, when the first image arrives.
        table: The table that part files are written to.
        run_id: The run; part of every row and file name.
        recipe: How maps are made.
        limits: Limits on what is read, decoded and held in memory.
        flush_bytes: Size of the gathered rows in memory, in bytes, at which a part is written.
        uncut: Why images cannot be cut into tiles; empty if they can.
        rounding: Which bits of a map may differ between runs.
    """

    def __init__(
        self,
        open_engine: OpenEngine,
        table: str,
        run_id: str,
        recipe: Recipe,
        *,
        limits: Limits,
        flush_bytes: int = FLUSH_BYTES,
        uncut: str = "",
        rounding: Rounding = ExecutionSettings.rounding,
    ) -> None:
        self._uncut, self._rounding = uncut, rounding
        self._open_engine, self._table, self._run_id, self._recipe = open_engine, table, run_id, recipe
        self._limits, self._flush_bytes = limits, flush_bytes
        # One model a process, however many threads run this DoFn.
        self._shared = Shared()

    def setup(self) -> None:
        """Checks that there is a GPU if one is asked for.

        The model is loaded later: a run without changed images loads none.

        Raises:
            EngineError: There is no GPU.
        """
        if isinstance(self._open_engine, EngineFactory):
            self._open_engine.check()
        self._scorer: Scorer | None = None

    def start_bundle(self) -> None:
        """Drops what a failed bundle left: bundles share no state."""
        if self._scorer is not None:
            self._scorer.reset()
        self._writer = self._new_writer()
        self._seconds: dict[str, float] = {}

    def process(self, work: bytes) -> Iterator[Receipt]:
        """Scores images; yields a receipt for each part that is written."""
        scorer = self._scorer = self._scorer or self._new_scorer()
        for reference in unpack(work, ImageReference):
            check_not_stopped(self._run_id)
            yield from self._write(scorer.add(reference))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Scores the images that still wait, writes the last part, and reports counts and seconds."""
        if self._scorer is None:
            return
        for receipt in self._write(self._scorer.flush()):
            yield in_global_window(receipt)
        last = self._flush(self._writer)
        if last is not None:
            yield in_global_window(last)
        processor = {f"processors.{processor_name()}": self._scorer.counts["read"]}
        counts = {**self._scorer.counts, **self._seconds, **processor}
        yield in_global_window(StageCounts(counts))
        self._scorer.reset()

    def open_ahead(self) -> Thread:
        """Starts to open the engine in a thread; the first bundle in this process then waits for it, or has it.

        An error is not raised here: the bundle opens the engine again, and raises it.

        Returns:
            The thread, which has started. The process does not end before it: a library that is stopped in the middle
            of loading a model aborts.
        """
        thread = Thread(target=self._acquire_quietly, name="densecast-open-engine")
        thread.start()
        return thread

    def teardown(self) -> None:
        """Ends the threads and processes that load images."""
        if self._scorer is not None:
            self._scorer.close()

    def _acquire(self) -> _EngineReference:
        reference: _EngineReference = self._shared.acquire(self._open, tag=f"{self._recipe.digest} {self._rounding}")
        return reference

    def _acquire_quietly(self) -> None:
        with contextlib.suppress(Exception):
            self._acquire()

    def _new_scorer(self) -> Scorer:
        # Kept here too: Shared drops an object once another one with a new tag is acquired.
        self._reference = self._acquire()
        self._seconds |= self._reference.take_seconds()
        engine = self._reference.engine
        digest = engine.metadata.digest
        if digest != self._recipe.model_digest:
            raise EngineError(
                f"the model has changed: its digest is {digest[:12]}, at submission it was "
                f"{self._recipe.model_digest[:12]}",
                why="its maps would be stored under the wrong model",
                remedy="do not change a model while it is used; convert the new one to another directory",
            )
        options = TableRoot(self._table).options
        return Scorer(
            engine,
            self._recipe,
            self._limits,
            self._run_id,
            uncut=self._uncut,
            count=count,
            options=options,
            effect=self._reference.effect,
        )

    def _open(self) -> _EngineReference:
        if isinstance(self._open_engine, EngineFactory):
            engine, compiled = take(self._open_engine), self._open_engine.compiled
        else:
            engine, compiled = self._open_engine(), ()
        effect = batch_effect(engine, self._rounding, self._limits.budget, compiled)
        # The images of a measurement are not images of the run; the seconds in which XLA compiled are its own.
        seconds = {name: value for name, value in counts_of(engine).items() if name.startswith("seconds.")}
        return _EngineReference(engine, effect, seconds)

    def _new_writer(self) -> PartWriter:
        return PartWriter(
            self._table,
            self._run_id,
            self._recipe.model_digest,
            flush_bytes=self._flush_bytes,
            rounding=self._rounding,
        )

    def _write(self, scored: Iterator[Scored]) -> Iterator[Receipt]:
        for item in scored:
            if isinstance(item, Tiles):
                yield from self._write_tiles(item)
            else:
                yield from self._add(self._writer, item)

    def _write_tiles(self, tiles: Tiles) -> Iterator[Receipt]:
        """Holds tiles until the image is complete; large images go to separate parts, whose receipts are held."""
        rows: list[MapRow] = []
        rows_bytes = 0
        receipts: list[Receipt] = []
        try:
            for row in tiles:
                rows.append(row)
                rows_bytes += row.size_bytes
                if rows_bytes >= self._flush_bytes:
                    receipts += self._write_separate_parts(rows)
                    rows, rows_bytes = [], 0
        except TilesFailedError as failed:
            # The parts that were written are never published, since their receipts are dropped.
            rows, receipts = [failed.row], []
        for row in rows:
            yield from self._add(self._writer, row)
        yield from receipts

    def _write_separate_parts(self, rows: Sequence[MapRow]) -> Iterator[Receipt]:
        """Writes rows to parts that hold no other rows."""
        writer = self._new_writer()
        for row in rows:
            yield from self._add(writer, row)
        last = self._flush(writer)
        if last is not None:
            yield last

    def _add(self, writer: PartWriter, row: MapRow) -> Iterator[Receipt]:
        with timed(self._seconds, "write"):
            receipt = writer.add(row)
        if receipt is not None:
            yield receipt

    def _flush(self, writer: PartWriter) -> Receipt | None:
        with timed(self._seconds, "write"):
            return writer.flush()


class _EngineReference:
    """An object that holds an engine: Shared keeps weak references, which not every engine allows."""

    def __init__(self, engine: Engine, effect: BatchEffect, seconds: dict[str, float]) -> None:
        self.engine, self.effect, self._seconds = engine, effect, seconds

    def take_seconds(self) -> dict[str, float]:
        """Returns the seconds that opening it took, by name, once: later only an empty dictionary."""
        seconds, self._seconds = self._seconds, {}
        return seconds
