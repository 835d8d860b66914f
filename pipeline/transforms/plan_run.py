"""`PlanRun`: compares what is listed with what is known, inside Beam; no process holds the collection.

Records are packed by bucket before they are shuffled, so that a million images are a few thousand elements.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from pipeline.maps.recipe import Recipe
from pipeline.settings import ExecutionSettings, Rounding
from pipeline.sources import ImageReference, WebLimits
from pipeline.table.image_root import check_image_root
from pipeline.table.log import open_delta
from pipeline.table.paths import TableRoot
from pipeline.transforms import inventory
from pipeline.transforms.decide_fn import EDITS, PROBES, WORK, DecideFn, ProbeFn
from pipeline.transforms.reconcile import Known, Policy
from pipeline.transforms.reports import Base, in_global_window
from pipeline.transforms.rewrite_fn import RewriteFn
from pipeline.transforms.shuffle import bucket_of, pack, spread, unpack

_MAX_HELD = 1 << 14  # records of a bundle
_PARTS, _ORPHANS = "parts", "orphans"


class Planned(NamedTuple):
    """The outputs of `PlanRun`.

    Attributes:
        work: Packed references of the images to score.
        reports: `Base`, `StageCounts`, `Receipt`, `Removed` and `Adopted`, for the last stage.
    """

    work: beam.PCollection[bytes]
    reports: beam.PCollection[Any]


class PlanRun(beam.PTransform):
    """PCollection[ImageReference] -> `Planned`: an anti-join of what is listed with what the table and dead runs know.

    Args:
        table: The table.
        run_id: The run.
        recipe: Its recipe.
        policy: How it treats images that the table knows.
        max_image_bytes: Larger files are not read.
        rounding: Which bits of a map may differ between runs: an exact run adopts maps of exact runs only.
        web: How images behind HTTP are fetched.
        root: The folder that addresses are relative to; empty where they are absolute.
    """

    def __init__(
        self,
        table: str,
        run_id: str,
        recipe: Recipe,
        policy: Policy,
        *,
        max_image_bytes: int,
        rounding: Rounding = ExecutionSettings.rounding,
        web: WebLimits | None = None,
        root: str = "",
    ) -> None:
        super().__init__()
        self._web = web
        self._table, self._run_id, self._recipe = TableRoot(table), run_id, recipe
        self._policy, self._max_bytes, self._rounding, self._root = policy, max_image_bytes, rounding, root

    def expand(self, references: Any) -> Planned:
        """Implements the transform; see the class."""
        inventory_of = functools.partial(_take_inventory, self._table, self._root, self._policy.rescore)
        taken = references.pipeline | "Run" >> beam.Create([self._run_id]) | "Inventory" >> beam.Map(inventory_of)
        # One element, kept: a runner that computed it twice might see two versions of the table.
        kept = spread(taken, "Keep inventory")
        inventories = kept | "Parts of it" >> beam.FlatMap(_split_inventory).with_outputs(_PARTS, _ORPHANS, main="base")
        known = [
            spread(inventories[name], f"Spread {name}")
            | f"Read {name}" >> beam.FlatMap(functools.partial(read, self._table))
            for name, read in (
                (_PARTS, _read_part),
                (_ORPHANS, functools.partial(_read_orphan, rounding=self._rounding)),
            )
        ]
        joined = {
            "listed": references | "Pack references" >> beam.ParDo(PackFn()),
            "known": known | "All that is known" >> beam.Flatten() | "Pack what is known" >> beam.ParDo(PackFn()),
        } | "Meet by bucket" >> beam.CoGroupByKey()
        decided = joined | "Decide" >> beam.ParDo(DecideFn(self._policy)).with_outputs(
            WORK, PROBES, EDITS, main="counts"
        )
        probed = spread(decided[PROBES], "Spread probes") | "Probe" >> beam.ParDo(
            ProbeFn(self._recipe, self._policy, self._max_bytes, self._table.options, web=self._web)
        ).with_outputs(WORK, EDITS, main="counts")
        rewritten = (
            (decided[EDITS], probed[EDITS])
            | "All edits" >> beam.Flatten()
            | "By part" >> beam.GroupByKey()
            | "Rewrite parts" >> beam.ParDo(RewriteFn(self._table, self._run_id))
        )
        work = (decided[WORK], probed[WORK]) | "All work" >> beam.Flatten()
        reports = (inventories["base"], decided["counts"], probed["counts"], rewritten) | "Reports" >> beam.Flatten()
        return Planned(work, reports)


def _take_inventory(table: TableRoot, root: str, rescore: bool, run_id: str) -> bytes:
    check_image_root(table, open_delta(table), root, rescore=rescore)
    return pack([inventory.take_inventory(table, run_id)])


def _split_inventory(packed: bytes) -> Iterator[Any]:
    """Yields `Base`, and the names of the parts and orphans with their tags."""
    [contents] = unpack(packed, inventory.Inventory)
    yield Base(contents.version)
    yield from (beam.pvalue.TaggedOutput(_PARTS, part) for part in contents.parts)
    yield from (beam.pvalue.TaggedOutput(_ORPHANS, part) for part in contents.orphans)


def _read_part(table: TableRoot, part: str) -> Iterator[Known]:
    return inventory.read_part(table, part)


def _read_orphan(table: TableRoot, part: str, rounding: Rounding) -> list[Known]:
    return inventory.read_orphan(table, part, rounding)


class PackFn(beam.DoFn):
    """ImageReference or Known -> (bucket, packed records): all records of an image meet in one bucket."""

    def start_bundle(self) -> None:
        """Starts with no records."""
        self._records: defaultdict[int, list[ImageReference | Known]] = defaultdict(list)
        self._count = 0

    def process(self, record: ImageReference | Known) -> Iterator[tuple[int, bytes]]:
        """Holds a record until there are enough to pack."""
        # A pipeline of the user's own may give references that are not named yet.
        named = record.named() if isinstance(record, ImageReference) else record
        self._records[bucket_of(named.uri)].append(named)
        self._count += 1
        if self._count >= _MAX_HELD:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Yields the remaining records."""
        for element in self._flush():
            yield in_global_window(element)

    def _flush(self) -> Iterator[tuple[int, bytes]]:
        for bucket, records in self._records.items():
            yield bucket, pack(records)
        self._records.clear()
        self._count = 0
