"""The runs that have published to a table, from the summaries that they left: a line each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.table.reader import MapTable


@dataclass(frozen=True, slots=True)
class RunLine:
    """One run; None stands for what its summary does not say, as those of older versions of densecast.

    Attributes:
        run_id: The run.
        published_at: When it published, ISO 8601.
        version: The version of the table that it made.
        listed: Images that were listed.
        kept: Images that were known and left as they were, but for their listed version or id.
        adopted: Images that were taken over from runs that died.
        scored: Maps that it added.
        rejected: Rejections that it added.
        deleted: Images that were marked as deleted.
        seconds: All stages together, summed over all workers.
        model_digest: The model.
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


def run_lines(root: str) -> list[RunLine]:
    """The runs whose work is in the current version of a table, or was superseded since; the newest is last.

    Raises:
        TableError: There is no table, or a summary is damaged.
    """
    return [_line(summary) for summary in MapTable(root).runs()]


def _line(summary: Mapping[str, Any]) -> RunLine:
    images = summary.get("images")
    outcomes: Mapping[str, Any] = images if isinstance(images, Mapping) else {}

    def count(*names: str) -> int | None:
        # A summary that counts outcomes leaves out those that did not occur.
        found = [_integer(outcomes.get(name, 0)) or 0 for name in names]
        return sum(found) if outcomes else None

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
    )


def _integer(value: Any) -> int | None:
    return int(value) if isinstance(value, int | float) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(value: Any) -> float | None:
    if isinstance(value, Mapping):
        value = sum(stage for stage in value.values() if isinstance(stage, int | float)) if value else None
    return float(value) if isinstance(value, int | float) else None
