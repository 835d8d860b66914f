"""The fused stage, and the last one, as DoFns: read, decode, infer and write; then publish what was written."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import apache_beam as beam
from apache_beam.utils.shared import Shared
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.beam_counters import count
from pipeline.engines import Engine, OpenEngine, OpenTensorFlow, counts_of
from pipeline.errors import EngineError, JobError
from pipeline.malloc_trim import give_back
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits, Scored, Scorer, Tiles, TilesFailedError
from pipeline.sources import ImageReference
from pipeline.storage.options import current, use
from pipeline.table.commit import ADOPTED, Changes, RunSummary, publish
from pipeline.table.part_file import FLUSH_BYTES, PartWriter, Receipt
from pipeline.table.rows import MapRow
from pipeline.timing import timed
from pipeline.transforms.plan_run import Adopted, Base, Removed, Tally, globally
from pipeline.transforms.reconcile import Outcome
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
        limits: Limits,
        flush_bytes: int = FLUSH_BYTES,
        uncut: str = "",
    ) -> None:
        self._uncut = uncut
        self._open_engine, self._table, self._run_id, self._recipe = open_engine, table, run_id, recipe
        self._limits, self._flush_bytes = limits, flush_bytes
        self._storage = current()
        # One model a process, however many threads run this DoFn.
        self._shared = Shared()

    def setup(self) -> None:
        """Says how object stores are opened, and looks for the GPU if it has to be one.

        Where no image has changed, no model is loaded.

        Raises:
            EngineError: There is no GPU.
        """
        use(self._storage)
        if isinstance(self._open_engine, OpenTensorFlow):
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
        return Scorer(engine, self._recipe, self._limits, self._run_id, self._uncut, count)

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


class PublishFn(beam.DoFn):
    """All that the stages of a run report -> its `RunSummary`; one transaction, and repeating it changes nothing.

    Args:
        table: The table.
        run_id: The run.
        model_json: The model's metadata.
        about: What else to keep in the summary.
        max_pruned: The share of the table's images, 0 to 1, that may be marked as deleted.
    """

    def __init__(
        self, table: str, run_id: str, model_json: dict[str, Any], about: Mapping[str, Any], max_pruned: float
    ) -> None:
        self._table, self._run_id, self._model_json = table, run_id, model_json
        self._about, self._max_pruned = dict(about), max_pruned
        self._storage = current()

    def setup(self) -> None:
        """Opens object stores as the launcher does."""
        use(self._storage)

    def process(self, reports: Sequence[Base | Tally | Receipt | Removed | Adopted]) -> Iterator[RunSummary]:
        """Publishes."""
        give_back()  # the local runner has let go of what it shuffled by now
        totals: Counter[str] = Counter()
        for report in reports:
            if isinstance(report, Tally):
                totals.update(report.counts)
        self._check_pruned(totals)
        [base] = {report.version for report in reports if isinstance(report, Base)}
        receipts = [report for report in reports if isinstance(report, Receipt)]
        removed = [report.path for report in reports if isinstance(report, Removed)]
        yield publish(
            self._table,
            Changes(base, receipts, removed),
            run_id=self._run_id,
            model_json=self._model_json,
            summary={
                **self._about,
                **_by_kind(totals),
                ADOPTED: sorted({report.path for report in reports if isinstance(report, Adopted)}),
                "versions": _versions(),
            },
        )

    def _check_pruned(self, totals: Mapping[str, float]) -> None:
        pruned = totals.get(Outcome.DELETE, 0)
        known = pruned + sum(totals.get(name, 0) for name in (Outcome.KEEP, Outcome.UPDATE, "replaced"))
        if pruned > self._max_pruned * known:
            raise JobError(
                f"{pruned:,.0f} of the table's {known:,.0f} images are not listed and would be marked as deleted",
                where=self._table,
                why=f"at most {self._max_pruned:.0%} may be: a folder that was not mounted looks just like that",
                remedy="check what was listed; if it is right, raise --max-pruned",
            )


def _by_kind(totals: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Counts by what they are of: `seconds.infer` -> {"seconds": {"infer": ...}}; those without a prefix are images."""
    kinds: dict[str, dict[str, float]] = {"images": {}, "reasons": {}, "seconds": {}}
    for name, value in sorted(totals.items()):
        kind, dot, rest = name.partition(".")
        if not dot:
            kind, rest = "images", name
        kinds.setdefault(kind, {})[rest] = round(value, 3) if kind == "seconds" else int(value)
    return kinds


def _versions() -> dict[str, str]:
    """What the maps and the table were made with, by distribution."""
    names = ("densecast", "apache-beam", "deltalake", "pyarrow", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
