"""The stage that writes a new part in the place of each part whose rows change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

import apache_beam as beam

from pipeline.table.part_file import Receipt
from pipeline.table.rewrite import Edit, rewrite
from pipeline.timing import timed
from pipeline.transforms.reports import Adopted, Removed, StageCounts
from pipeline.transforms.shuffle import unpack


class RewriteFn(beam.DoFn):
    """((part, whether it is an orphan), packed edits) -> `Receipt`, `Removed` or `Adopted`, `StageCounts`."""

    def __init__(self, table: str, run_id: str) -> None:
        self._table, self._run_id = table, run_id

    def process(
        self, element: tuple[tuple[str, bool], Iterable[bytes]]
    ) -> Iterator[Receipt | Removed | Adopted | StageCounts]:
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
        yield StageCounts(seconds)
