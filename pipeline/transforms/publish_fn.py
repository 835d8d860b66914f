"""The last stage: what all stages report becomes one transaction."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import apache_beam as beam

from pipeline.errors import JobError
from pipeline.malloc_trim import release_free_memory
from pipeline.table.commit import Changes, commit
from pipeline.table.part_file import Receipt
from pipeline.table.summaries import ADOPTED, RunSummary
from pipeline.transforms.reconcile import Outcome
from pipeline.transforms.reports import Adopted, Base, Removed, Tally


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

    def process(self, reports: Sequence[Base | Tally | Receipt | Removed | Adopted]) -> Iterator[RunSummary]:
        """Publishes."""
        release_free_memory()  # the local runner has let go of what it shuffled by now
        totals: Counter[str] = Counter()
        for report in reports:
            if isinstance(report, Tally):
                totals.update(report.counts)
        self._check_pruned(totals)
        [base] = {report.version for report in reports if isinstance(report, Base)}
        receipts = [report for report in reports if isinstance(report, Receipt)]
        removed = [report.path for report in reports if isinstance(report, Removed)]
        yield commit(
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
