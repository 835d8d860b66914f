"""The last stage: the reports of all stages become one transaction."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import apache_beam as beam

from pipeline.errors import JobError
from pipeline.malloc_trim import release_free_memory
from pipeline.stopping import publishing
from pipeline.table.commit import Changes, commit
from pipeline.table.part_file import Receipt
from pipeline.table.summaries import ADOPTED, RunSummary
from pipeline.transforms.reconcile import Outcome
from pipeline.transforms.reports import Adopted, Base, Removed, StageCounts


class PublishFn(beam.DoFn):
    """All reports of a run -> its `RunSummary`. Commits one transaction; a repeated call changes nothing.

    Args:
        table: The table.
        run_id: The run.
        model_json: The model's metadata.
        summary: Further entries for the summary of the run.
        max_pruned: The share of the table's images, 0 to 1, that may be marked as deleted.
    """

    def __init__(
        self, table: str, run_id: str, model_json: dict[str, Any], *, summary: Mapping[str, Any], max_pruned: float
    ) -> None:
        self._table, self._run_id, self._model_json = table, run_id, model_json
        self._summary, self._max_pruned = dict(summary), max_pruned

    def process(self, reports: Sequence[Base | StageCounts | Receipt | Removed | Adopted]) -> Iterator[RunSummary]:
        """Commits the parts that the receipts name."""
        release_free_memory()  # the local runner has dropped by now what it shuffled
        totals: Counter[str] = Counter()
        for report in reports:
            if isinstance(report, StageCounts):
                totals.update(report.counts)
        self._check_pruned(totals)
        [base] = {report.version for report in reports if isinstance(report, Base)}
        receipts = [report for report in reports if isinstance(report, Receipt)]
        removed = [report.path for report in reports if isinstance(report, Removed)]
        with publishing(self._run_id):
            published = commit(
                self._table,
                Changes(base, receipts, removed),
                run_id=self._run_id,
                model_json=self._model_json,
                summary={
                    **self._summary,
                    **_by_kind(totals),
                    ADOPTED: sorted({report.path for report in reports if isinstance(report, Adopted)}),
                    "versions": _versions(),
                },
            )
        yield published

    def _check_pruned(self, totals: Mapping[str, float]) -> None:
        pruned = totals.get(Outcome.DELETE, 0)
        known = pruned + sum(totals.get(name, 0) for name in (Outcome.KEEP, Outcome.UPDATE, "replaced"))
        if pruned > self._max_pruned * known:
            raise JobError(
                f"{pruned:,.0f} of the table's {known:,.0f} images are not listed and would be marked as deleted",
                where=self._table,
                why=f"at most {self._max_pruned:.0%} may be: a folder that is not mounted looks the same",
                remedy="check which images are listed; if the list is right, raise --max-pruned",
            )


def _by_kind(totals: Mapping[str, float]) -> dict[str, dict[str, float]]:
    """Returns counts by prefix: `seconds.infer` -> {"seconds": {"infer": ...}}; no prefix means `images`."""
    kinds: dict[str, dict[str, float]] = {"images": {}, "reasons": {}, "seconds": {}}
    for name, value in sorted(totals.items()):
        kind, dot, rest = name.partition(".")
        if not dot:
            kind, rest = "images", name
        kinds.setdefault(kind, {})[rest] = round(value, 3) if kind == "seconds" else int(value)
    return kinds


def _versions() -> dict[str, str]:
    """Returns the versions of Python and of the distributions that made the maps and the table."""
    names = ("densecast", "apache-beam", "deltalake", "pyarrow", "numpy", "pillow")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
