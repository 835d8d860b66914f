"""The history of a table: one line for each run that has published to it, read from the runs' summaries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.table.reader import MapTable
from pipeline.table.summaries import RESTORED


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run. A value is None if the summary does not have it, as those of older versions of densecast.

    Attributes:
        run_id: The run.
        published_at: When it published, in ISO 8601.
        version: The version of the table that it made.
        listed: The number of listed images.
        kept: The number of images whose maps were kept; their listed version or id may have changed.
        adopted: The number of images that were adopted from dead runs.
        scored: The number of maps that it added.
        rejected: The number of rejections that it added.
        deleted: The number of images that it marked as deleted.
        seconds: The duration of all stages, summed over all workers.
        model_digest: The model.
        restored: The version that it brought back; None unless it is a restore.
    """

    run_id: str
    published_at: str | None
    version: int | None
    listed: int | None
    kept: int | None
    adopted: int | None
    scored: int | None
    rejected: int | None
    deleted: int | None
    seconds: float | None
    model_digest: str | None
    restored: int | None = None


def run_lines(root: str) -> list[RunLine]:
    """Returns the runs that have published to the current version of a table or an earlier one, the newest last.

    Raises:
        TableError: There is no table, or a summary is damaged.
    """
    return [_line(summary) for summary in MapTable(root).runs()]


def _line(summary: Mapping[str, Any]) -> RunLine:
    images = summary.get("images")
    outcomes: Mapping[str, Any] = images if isinstance(images, Mapping) else {}

    def count(*names: str) -> int | None:
        # A summary leaves out outcomes that did not occur.
        counts = [_integer(outcomes.get(name, 0)) or 0 for name in names]
        return sum(counts) if outcomes else None

    return RunLine(
        run_id=str(summary.get("run_id", "")),
        published_at=_text(summary.get("published_at")),
        version=_integer(summary.get("version")),
        listed=count("listed"),
        kept=count("keep", "update"),
        adopted=count("adopt"),
        scored=_integer(summary.get("scored")),
        rejected=_integer(summary.get("rejected")),
        deleted=count("delete"),
        seconds=_seconds(summary.get("seconds")),
        model_digest=_text(summary.get("model_digest")),
        restored=_integer(summary.get(RESTORED)),
    )


def _integer(value: object) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(value: object) -> float | None:
    if isinstance(value, Mapping):
        value = sum(stage for stage in value.values() if isinstance(stage, int | float)) if value else None
    return float(value) if isinstance(value, int | float) else None
