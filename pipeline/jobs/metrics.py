"""The report of a nightly job as Prometheus metrics."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from pipeline.exit_codes import ExitCode
from pipeline.jobs.night_report import Report

_SUCCESS = "densecast_nightly_last_success_timestamp_seconds"


def write_metrics(path: str, report: Report, clock: Callable[[], float] = time.time) -> str:
    """Writes a report as Prometheus metrics, atomically.

    Args:
        path: A file `*.prom`; each job needs its own.
        report: The report.
        clock: Seconds since 1970.

    Returns:
        `written`, or what went wrong.
    """
    registry = CollectorRegistry()

    def gauge(name: str, description: str, value: float) -> None:
        Gauge(f"densecast_nightly_{name}", description, ["job"], registry=registry).labels(job=report.job).set(value)

    now = clock()
    try:
        success = now if report.exit_code == ExitCode.DONE else _last_success(path, report.job)
        if success is not None:
            gauge("last_success_timestamp_seconds", "When a night last ended with exit code 0", success)
        gauge("last_run_timestamp_seconds", "When a night last ended", now)
        gauge("exit_code", "Exit code of the last night", report.exit_code)
        gauge("duration_seconds", "How long the last night took", sum(night.seconds for night in report.nights))
        images = Gauge("densecast_nightly_images", "Images of the last night", ["job", "status"], registry=registry)
        for status, value in _images(report).items():
            images.labels(job=report.job, status=status).set(value)
        write_to_textfile(path, registry)
    except (OSError, ValueError) as error:
        return f"{path} cannot be written: {getattr(error, 'strerror', None) or error}"
    return "written"


def _images(report: Report) -> dict[str, int]:
    def total(*names: str) -> int:
        return sum(night.images.get(name, 0) for night in report.nights for name in names)

    return {
        "listed": total("listed"),
        "unchanged": total("keep", "update"),
        "adopted": total("adopt"),
        "deleted": total("delete"),
        "scored": sum(night.scored for night in report.nights),
        "rejected": sum(night.rejected for night in report.nights),
    }


def _last_success(path: str, job: str) -> float | None:
    """Returns the time that the file has now; None where there is no file, or none that can be read."""
    try:
        families = list(text_string_to_metric_families(Path(path).read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return None
    samples = (sample for family in families for sample in family.samples)
    return next((s.value for s in samples if s.name == _SUCCESS and s.labels.get("job") == job), None)
