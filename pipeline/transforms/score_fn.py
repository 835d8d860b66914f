"""The fused stage, and the last one, as DoFns: read, decode, infer and write; then publish what was written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import apache_beam as beam
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.beam_counters import count
from pipeline.engines import Engine, OpenEngine, TensorFlowEngineFactory, counts_of
from pipeline.errors import EngineError
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits, Scored, Scorer, Tiles, TilesFailedError
from pipeline.sources import ImageReference
from pipeline.table.part_file import FLUSH_BYTES, PartWriter, Receipt
from pipeline.table.paths import TableRoot
from pipeline.table.rows import MapRow
from pipeline.timing import timed
from pipeline.transforms.reports import Tally, globally
from pipeline.transforms.shuffle import unpack


class ScoreFn(beam.DoFn):
    """Packed references -> `Receipt` and `Tally`: rows are written by size while the bundle runs, and at its end.

    Args:
        open_engine: Makes the engine, once a process, when the first image comes.
        table: Where part files go.
        run_id: Part of every row and file name.
        recipe: What is made of every image.
        limits: What is read, decoded and held.
        flush_bytes: Size of gathered rows at which a part is written.
        uncut: Why images cannot be cut into tiles; empty where they can.
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
    ) -> None:
        self._uncut = uncut
        self._open_engine, self._table, self._run_id, self._recipe = open_engine, table, run_id, recipe
        self._limits, self._flush_bytes = limits, flush_bytes
        # One model a process, however many threads run this DoFn.
        self._shared = Shared()

    def setup(self) -> None:
        """Looks for the GPU if it has to be one.

        Where no image has changed, no model is loaded.

        Raises:
            EngineError: There is no GPU.
        """
        if isinstance(self._open_engine, TensorFlowEngineFactory):
            self._open_engine.check()
        self._scorer: Scorer | None = None

    def start_bundle(self) -> None:
        """Nothing is carried from one bundle to another: a failed bundle leaves nothing behind."""
        if self._scorer is not None:
            self._scorer.reset()
            counts_of(self._held.engine)
        self._writer = self._new_writer()
        self._seconds: dict[str, float] = {}

    def process(self, work: bytes) -> Iterator[Receipt]:
        """Scores images; gives a receipt when a part was written."""
        scorer = self._scorer = self._scorer or self._new_scorer()
        for reference in unpack(work, ImageReference):
            yield from self._write(scorer.add(reference))

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Scores what still waits, writes the last part, and says how long it all took."""
        if self._scorer is None:
            return
        for receipt in self._write(self._scorer.flush()):
            yield globally(receipt)
        last = self._flush(self._writer)
        if last is not None:
            yield globally(last)
        yield globally(Tally({**self._scorer.counts, **self._seconds, **counts_of(self._held.engine)}))
        self._scorer.reset()

    def teardown(self) -> None:
        """Ends the threads and processes that load images."""
        if self._scorer is not None:
            self._scorer.close()

    def _new_scorer(self) -> Scorer:
        # Kept here too: what is shared is forgotten when something else is.
        self._held = self._shared.acquire(lambda: _Held(self._open_engine()), tag=self._recipe.digest)
        engine = self._held.engine
        found = engine.metadata.digest
        if found != self._recipe.model_digest:
            raise EngineError(
                f"the model is another one now: its digest is {found[:12]}, at submission it was "
                f"{self._recipe.model_digest[:12]}",
                why="its maps would be filed under the wrong model",
                remedy="leave a model alone while it is used; convert the new one to another directory",
            )
        options = TableRoot(self._table).options
        return Scorer(engine, self._recipe, self._limits, self._run_id, uncut=self._uncut, count=count, options=options)

    def _new_writer(self) -> PartWriter:
        return PartWriter(self._table, self._run_id, self._recipe.model_digest, self._flush_bytes)

    def _write(self, scored: Iterator[Scored]) -> Iterator[Receipt]:
        for item in scored:
            if isinstance(item, Tiles):
                yield from self._write_tiles(item)
            else:
                yield from self._add(self._writer, item)

    def _write_tiles(self, tiles: Tiles) -> Iterator[Receipt]:
        """Tiles are held until the image is complete; too many go to parts of their own, whose receipts are held."""
        held: list[MapRow] = []
        held_bytes = 0
        receipts: list[Receipt] = []
        try:
            for row in tiles:
                held.append(row)
                held_bytes += row.size_bytes
                if held_bytes >= self._flush_bytes:
                    receipts += self._write_apart(held)
                    held, held_bytes = [], 0
        except TilesFailedError as failed:
            # Parts without a receipt are nobody's.
            held, receipts = [failed.row], []
        for row in held:
            yield from self._add(self._writer, row)
        yield from receipts

    def _write_apart(self, rows: Sequence[MapRow]) -> Iterator[Receipt]:
        """Writes rows to parts that hold nothing else."""
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


class _Held:
    """Shared holds weak references, which not every engine allows."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
