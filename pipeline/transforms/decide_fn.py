"""What becomes of the images of a bucket, and of those whose content has to be read before that is known."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import apache_beam as beam

from pipeline import counters
from pipeline.beam_counters import count
from pipeline.images.decoding_rules import Currency
from pipeline.images.formats import sniff
from pipeline.maps.recipe import Recipe
from pipeline.rejection import Rejected
from pipeline.sources import ImageReference, Reader, WebLimits, merge, streamed
from pipeline.storage.options import StorageOptions
from pipeline.table.rewrite import Action, Edit
from pipeline.timing import timed
from pipeline.transforms.reconcile import Decision, Known, Outcome, Policy, decide, drop, resolve_unchanged
from pipeline.transforms.reports import StageCounts
from pipeline.transforms.shuffle import pack, unpack

WORK, PROBES, EDITS = "work", "probes", "edits"
"""The tags of the outputs besides `StageCounts`: packed references to score, packed images to probe, and
((part, whether it is an orphan), packed edits)."""

CHUNK = 16
"""Images that travel together to where they are scored: few, so that work spreads and a retry repeats little."""


class DecideFn(beam.DoFn):
    """(bucket, what is listed and known) -> `StageCounts`; work, probes and edits have tags."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def process(self, element: tuple[int, Mapping[str, Iterable[bytes]]]) -> Iterator[Any]:
        """Decides on the images of a bucket, one by one."""
        plan = _Plan(len(self._policy.scales))
        with timed(plan.counts, "plan"):
            probes, listed = self._add_decisions(plan, element[1])
        plan.counts["listed"] = listed
        count(counters.LISTED, listed * len(self._policy.scales))
        for start in range(0, len(probes), CHUNK):
            yield beam.pvalue.TaggedOutput(PROBES, pack(probes[start : start + CHUNK]))
        yield from plan.outputs()

    def _add_decisions(
        self, plan: _Plan, groups: Mapping[str, Iterable[bytes]]
    ) -> tuple[list[tuple[ImageReference, list[Known]]], int]:
        """Adds decisions to the plan; returns the images to probe, and how many images are listed."""
        listed: defaultdict[str, list[ImageReference]] = defaultdict(list)
        for data in groups["listed"]:
            for listing in unpack(data, ImageReference):
                listed[listing.uri].append(listing)
        known: defaultdict[str, list[Known]] = defaultdict(list)
        for data in groups["known"]:
            for record in unpack(data, Known):
                known[record.uri].append(record)
        probes = []
        for uri in sorted(listed.keys() | known.keys()):
            reference = merge(listed[uri]) if uri in listed else None
            current = [record for record in known[uri] if not record.orphan]
            orphans = [record for record in known[uri] if record.orphan]
            decision = decide(uri, reference, self._policy, current=current, orphans=orphans)
            if decision.outcome is Outcome.PROBE and reference is not None:
                probes.append((reference, current))
            else:
                plan.add(decision, reference)
        return probes, len(listed)


class ProbeFn(beam.DoFn):
    """Packed images whose listing changed -> `StageCounts`; work and edits have tags. Compares their content.

    A collection that was copied, or whose server gives no versions, is read again, but not scored again. The same holds
    for images whose file type the table does not tell, once there is a type whose decoding rules have changed.

    Args:
        recipe: The run's recipe.
        policy: How the run treats images that the table knows.
        max_image_bytes: Larger files are not read.
        options: How object stores are opened.
        web: How images behind HTTP are fetched.
    """

    def __init__(
        self,
        recipe: Recipe,
        policy: Policy,
        max_image_bytes: int,
        options: StorageOptions,
        *,
        web: WebLimits | None = None,
    ) -> None:
        self._web = web
        self._recipe, self._policy, self._max_bytes, self._options = recipe, policy, max_image_bytes, options

    def process(self, data: bytes) -> Iterator[Any]:
        """Compares digests."""
        plan = _Plan(len(self._policy.scales))
        with (
            timed(plan.counts, "probe"),
            Reader(self._max_bytes, web=self._web, options=self._options) as reader,
        ):
            for probe in unpack(data, _Probe):
                reference, current = ImageReference(*probe.reference), [Known(*known) for known in probe.current]
                plan.counts["probed"] += 1
                plan.add(self._decide(reader, reference, current, plan), reference)
        yield from plan.outputs()

    def _decide(self, reader: Reader, reference: ImageReference, current: Sequence[Known], plan: _Plan) -> Decision:
        changed = Decision(Outcome.SCORE, drop(reference.uri, current))
        known = current[0]
        recipe = ""
        is_certain = self._policy.currency(current) is Currency.CURRENT
        try:
            version = reader.probe(reference, known.version) if known.digest and is_certain else ""
            if not (version and version == known.version):
                data, version = reader.read(reference)
                plan.counts["read"] += 1
                file_type = sniff(data)
                if hashlib.sha256(data).hexdigest() != known.digest:
                    return changed
                if self._policy.currency(current, file_type) is not Currency.CURRENT:
                    return changed
                recipe = "" if is_certain else self._recipe.digest_of(self._recipe.decoding(file_type))
        except Rejected as rejected:
            # The row of an image that is, for example, still missing stays. The scoring stage handles all other cases.
            same = not known.digest and all(list(record.reasons) == [rejected.reason] for record in current)
            return resolve_unchanged(reference, current) if same else changed
        return resolve_unchanged(reference._replace(version=version), current, recipe)


class _Probe(NamedTuple):
    reference: Sequence[Any]
    current: Sequence[Sequence[Any]]


class _Plan:
    """Gathers decisions into the outputs of a stage; progress counts an image once for each scale."""

    def __init__(self, scales: int) -> None:
        self._scales = scales
        self.counts: defaultdict[str, float] = defaultdict(float)
        self._work: list[ImageReference] = []
        self._edits: defaultdict[tuple[str, bool], list[Edit]] = defaultdict(list)

    def add(self, decision: Decision, reference: ImageReference | None) -> None:
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
        """Yields `StageCounts`, and work and edits with their tags."""
        yield StageCounts(dict(self.counts))
        # Neighbours in a container are read one after another.
        self._work.sort(key=lambda reference: (reference.container, reference.offset))
        for chunk in _work_chunks(self._work):
            yield beam.pvalue.TaggedOutput(WORK, pack(chunk))
        for key, edits in self._edits.items():
            yield beam.pvalue.TaggedOutput(EDITS, (key, pack(edits)))


def _work_chunks(work: Sequence[ImageReference]) -> Iterator[list[ImageReference]]:
    """Yields a few references at a time; those of a container that is read as a stream stay together."""
    chunk: list[ImageReference] = []
    for reference in work:
        full = len(chunk) >= CHUNK and not (streamed(reference) and reference.container == chunk[-1].container)
        if full:
            yield chunk
            chunk = []
        chunk.append(reference)
    if chunk:
        yield chunk
