"""`PlanRun`: what is listed against what is known, inside Beam; no process holds the collection.

Records are packed by bucket before they are shuffled, so that a million images are a few thousand elements.
"""

from __future__ import annotations

import functools
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.utils.windowed_value import WindowedValue

from pipeline import counters
from pipeline.beam_counters import count
from pipeline.rejection import Rejected
from pipeline.sources import ImageReference, Reader, merge, streamed
from pipeline.storage.options import StorageOptions
from pipeline.table.part_file import Receipt
from pipeline.table.paths import TableRoot
from pipeline.table.rewrite import Action, Edit, rewrite
from pipeline.table.rows import storable
from pipeline.timing import timed
from pipeline.transforms import inventory
from pipeline.transforms.reconcile import Decision, Known, Outcome, Policy, decide, drop, resolve_unchanged
from pipeline.transforms.reports import Adopted, Base, Removed, Tally, globally
from pipeline.transforms.shuffle import bucket_of, pack, unpack

CHUNK = 16
"""Images that travel together to where they are scored: few, so that work spreads and a retry repeats little."""

_HELD = 1 << 14
_PARTS, _ORPHANS, _WORK, _PROBES, _EDITS = "parts", "orphans", "work", "probes", "edits"


class Planned(NamedTuple):
    """What `PlanRun` gives.

    Attributes:
        work: PCollection[bytes], packed references of the images to score.
        reports: PCollection of `Base`, `Tally`, `Receipt`, `Removed` and `Adopted`, for the last stage.
    """

    work: Any
    reports: Any


class PlanRun(beam.PTransform):
    """PCollection[ImageReference] -> `Planned`: anti-joins what is listed with what the table and dead runs know.

    Args:
        table: The table.
        run_id: The run.
        policy: How it treats what is there.
        max_image_bytes: Larger files are not looked into.
    """

    def __init__(self, table: str, run_id: str, policy: Policy, max_image_bytes: int) -> None:
        super().__init__()
        self._table, self._run_id, self._policy, self._max_bytes = TableRoot(table), run_id, policy, max_image_bytes

    def expand(self, references: Any) -> Planned:
        """See the class."""
        found = (
            references.pipeline
            | "Run" >> beam.Create([self._run_id])
            | "Inventory" >> beam.Map(functools.partial(_take_inventory, self._table))
            # One element, kept: a runner that computed it twice might see two versions of the table.
            | "Keep inventory" >> beam.Reshuffle()
            | "Parts of it" >> beam.FlatMap(_surveyed).with_outputs(_PARTS, _ORPHANS, main="base")
        )
        known = [
            found[name]
            | f"Spread {name}" >> beam.Reshuffle()
            | f"Read {name}" >> beam.FlatMap(functools.partial(read, self._table))
            for name, read in ((_PARTS, _read_part), (_ORPHANS, _read_orphan))
        ]
        joined = {
            "listed": references | "Pack references" >> beam.ParDo(PackFn()),
            "known": known | "All that is known" >> beam.Flatten() | "Pack what is known" >> beam.ParDo(PackFn()),
        } | "Meet by bucket" >> beam.CoGroupByKey()
        decided = joined | "Decide" >> beam.ParDo(DecideFn(self._policy)).with_outputs(
            _WORK, _PROBES, _EDITS, main="tallies"
        )
        probed = (
            decided[_PROBES]
            | "Spread probes" >> beam.Reshuffle()
            | "Probe"
            >> beam.ParDo(ProbeFn(self._max_bytes, len(self._policy.scales), self._table.options)).with_outputs(
                _WORK, _EDITS, main="tallies"
            )
        )
        rewritten = (
            (decided[_EDITS], probed[_EDITS])
            | "All edits" >> beam.Flatten()
            | "By part" >> beam.GroupByKey()
            | "Rewrite parts" >> beam.ParDo(RewriteFn(self._table, self._run_id))
        )
        work = (decided[_WORK], probed[_WORK]) | "All work" >> beam.Flatten()
        reports = (found["base"], decided["tallies"], probed["tallies"], rewritten) | "Reports" >> beam.Flatten()
        return Planned(work, reports)


def _take_inventory(table: TableRoot, run_id: str) -> bytes:
    return pack([inventory.take_inventory(table, run_id)])


def _surveyed(packed: bytes) -> Iterator[Any]:
    """`Base`, and the names of the parts and orphans aside."""
    [found] = unpack(packed, inventory.Inventory)
    yield Base(found.version)
    yield from (beam.pvalue.TaggedOutput(_PARTS, part) for part in found.parts)
    yield from (beam.pvalue.TaggedOutput(_ORPHANS, part) for part in found.orphans)


def _read_part(table: TableRoot, part: str) -> Iterator[Known]:
    return inventory.read_part(table, part)


def _read_orphan(table: TableRoot, part: str) -> list[Known]:
    return inventory.read_orphan(table, part)


class PackFn(beam.DoFn):
    """ImageReference or Known -> (bucket, packed ones): what meets in a bucket is of the same images."""

    def start_bundle(self) -> None:
        """Begins with nothing."""
        self._held: defaultdict[int, list[Any]] = defaultdict(list)
        self._count = 0

    def process(self, record: ImageReference | Known) -> Iterator[tuple[int, bytes]]:
        """Holds a record until there are enough to be worth packing."""
        self._held[bucket_of(storable(record.uri))].append(record)
        self._count += 1
        if self._count >= _HELD:
            yield from self._flush()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        """Gives the rest."""
        for element in self._flush():
            yield globally(element)

    def _flush(self) -> Iterator[tuple[int, bytes]]:
        for bucket, records in self._held.items():
            yield bucket, pack(records)
        self._held.clear()
        self._count = 0


class DecideFn(beam.DoFn):
    """(bucket, what is listed and known) -> `Tally`; work, probes and edits aside."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def process(self, element: tuple[int, Mapping[str, Iterable[bytes]]]) -> Iterator[Any]:
        """Decides on the images of a bucket, one by one."""
        plan = _Plan(len(self._policy.scales))
        with timed(plan.counts, "plan"):
            probes, listed = self._decide(plan, element[1])
        plan.counts["listed"] = listed
        count(counters.LISTED, listed * len(self._policy.scales))
        for start in range(0, len(probes), CHUNK):
            yield beam.pvalue.TaggedOutput(_PROBES, pack(probes[start : start + CHUNK]))
        yield from plan.outputs()

    def _decide(
        self, plan: _Plan, groups: Mapping[str, Iterable[bytes]]
    ) -> tuple[list[tuple[ImageReference, list[Known]]], int]:
        """What is to be probed, and how many images are listed; the rest goes into the plan."""
        listed: defaultdict[str, list[ImageReference]] = defaultdict(list)
        for data in groups["listed"]:
            for found in unpack(data, ImageReference):
                listed[storable(found.uri)].append(found)
        known: defaultdict[str, list[Known]] = defaultdict(list)
        for data in groups["known"]:
            for record in unpack(data, Known):
                known[record.uri].append(record)
        probes = []
        for uri in sorted(listed.keys() | known.keys()):
            reference = merge(listed[uri]) if uri in listed else None
            current = [record for record in known[uri] if not record.orphan]
            orphans = [record for record in known[uri] if record.orphan]
            decision = decide(uri, reference, current, orphans, self._policy)
            if decision.outcome is Outcome.PROBE and reference is not None:
                probes.append((reference, current))
            else:
                plan.take(decision, reference)
        return probes, len(listed)


class ProbeFn(beam.DoFn):
    """Packed images whose listing changed -> `Tally`; work and edits aside. Looks whether their content changed too.

    A collection that was copied, or whose server knows no versions, is read again, but not scored again.
    """

    def __init__(self, max_image_bytes: int, scales: int, options: StorageOptions) -> None:
        self._max_bytes, self._scales, self._options = max_image_bytes, scales, options

    def process(self, data: bytes) -> Iterator[Any]:
        """Compares digests."""
        plan = _Plan(self._scales)
        with timed(plan.counts, "probe"), Reader(self._max_bytes, options=self._options) as reader:
            for probe in unpack(data, _Probe):
                reference, current = ImageReference(*probe.reference), [Known(*known) for known in probe.current]
                plan.counts["probed"] += 1
                plan.take(self._settle(reader, reference, current, plan), reference)
        yield from plan.outputs()

    def _settle(self, reader: Reader, reference: ImageReference, current: Sequence[Known], plan: _Plan) -> Decision:
        changed = Decision(Outcome.SCORE, drop(storable(reference.uri), current))
        known = current[0]
        try:
            version = reader.probe(reference, known.version) if known.digest else ""
            if not (version and version == known.version):
                data, version = reader.read(reference)
                plan.counts["read"] += 1
                if hashlib.sha256(data).hexdigest() != known.digest:
                    return changed
        except Rejected as rejected:
            # Still missing, say: its row stays. Any other fate is a matter for whoever scores it.
            same = not known.digest and all(list(record.reasons) == [rejected.reason] for record in current)
            return resolve_unchanged(reference, current) if same else changed
        return resolve_unchanged(reference._replace(version=version), current)


class _Probe(NamedTuple):
    reference: Sequence[Any]
    current: Sequence[Sequence[Any]]


class _Plan:
    """Decisions, gathered into what a stage gives; for progress an image counts once a scale."""

    def __init__(self, scales: int) -> None:
        self._scales = scales
        self.counts: defaultdict[str, float] = defaultdict(float)
        self._work: list[ImageReference] = []
        self._edits: defaultdict[tuple[str, bool], list[Edit]] = defaultdict(list)

    def take(self, decision: Decision, reference: ImageReference | None) -> None:
        """Adds the decision on an image."""
        self.counts[decision.outcome] += 1
        self.counts["still_rejected"] += decision.rejected
        self.counts["replaced"] += any(edit.action == Action.DROP for edit in decision.edits)
        if decision.outcome in (Outcome.KEEP, Outcome.UPDATE, Outcome.ADOPT):
            count(counters.KEPT, self._scales)
        if decision.outcome is Outcome.SCORE and reference is not None:
            self._work.append(reference)
        for edit in decision.edits:
            self._edits[edit.part, edit.action == Action.ADOPT].append(edit)

    def outputs(self) -> Iterator[Any]:
        """The elements."""
        yield Tally(dict(self.counts))
        # Neighbours in a container are read one after another.
        self._work.sort(key=lambda reference: (reference.container, reference.offset))
        for chunk in _chunks(self._work):
            yield beam.pvalue.TaggedOutput(_WORK, pack(chunk))
        for key, edits in self._edits.items():
            yield beam.pvalue.TaggedOutput(_EDITS, (key, pack(edits)))


def _chunks(work: Sequence[ImageReference]) -> Iterator[list[ImageReference]]:
    """Few at a time, but a container that can only be read from its beginning to its end in one piece."""
    chunk: list[ImageReference] = []
    for reference in work:
        full = len(chunk) >= CHUNK and not (streamed(reference) and reference.container == chunk[-1].container)
        if full:
            yield chunk
            chunk = []
        chunk.append(reference)
    if chunk:
        yield chunk


class RewriteFn(beam.DoFn):
    """((part, whether it is an orphan), packed edits) -> `Receipt`, `Removed` or `Adopted`, `Tally`."""

    def __init__(self, table: str, run_id: str) -> None:
        self._table, self._run_id = table, run_id

    def process(
        self, element: tuple[tuple[str, bool], Iterable[bytes]]
    ) -> Iterator[Receipt | Removed | Adopted | Tally]:
        """Rewrites a part."""
        (part, orphan), packed = element
        edits = [edit for data in packed for edit in unpack(data, Edit)]
        seconds: dict[str, float] = {}
        with timed(seconds, "rewrite"):
            now = datetime.now(UTC)
            receipt = rewrite(self._table, part, edits, orphan=orphan, run_id=self._run_id, now=now)
        if receipt is not None:
            yield receipt
        yield Adopted(part) if orphan else Removed(part)
        yield Tally(seconds)
