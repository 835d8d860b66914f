"""The drift of a night: that of all its attempts, against the last run before them."""

from __future__ import annotations

import contextlib

from pydantic import ValidationError

from pipeline.drift.measure import DriftReport, drift_path, measure_drift
from pipeline.drift.statistics import Thresholds
from pipeline.jobs.attempts import JobDate, runs_before
from pipeline.storage.errors import MissingFileError
from pipeline.table.paths import TableRoot


def drift_of_night(
    table: TableRoot, run_id: str, night: JobDate, thresholds: Thresholds, *, changed: bool
) -> tuple[DriftReport, str] | None:
    """Returns the report of a night's drift and its file; None where no run before has added maps.

    It is measured once, and written.

    Args:
        table: The table.
        run_id: The date's last attempt.
        night: The date of the job.
        thresholds: The limits.
        changed: Whether the attempt has added or removed rows.

    Raises:
        TableError: It cannot be measured; the earlier version may have been vacuumed.
        StorageError: The report cannot be written.
    """
    path = drift_path(table, run_id)
    if (report := _read(table, path)) is not None:
        return report, path
    before = runs_before(table, run_id, night)
    if before.attempts and not changed:
        # The drift is that of the attempt before. What that was compared with may be vacuumed now.
        earlier = drift_path(table, before.attempts[0])
        if (report := _read(table, earlier)) is not None:
            return report, earlier
    if before.other is None:
        return None
    report = measure_drift(table, run_id, before.other, thresholds)
    table.store.write_atomically(path, report.model_dump_json(indent=1).encode())
    return report, path


def _read(table: TableRoot, path: str) -> DriftReport | None:
    """Returns what was measured before; None where there is no report, or none that can be read."""
    with contextlib.suppress(MissingFileError, ValidationError):
        return DriftReport.model_validate_json(table.store.read_bytes(path))
    return None
