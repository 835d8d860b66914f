"""The reports of nightly jobs: one line of JSON, a webhook, Prometheus metrics."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families
from pydantic import BaseModel, ConfigDict
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from pipeline.exit_codes import ExitCode
from pipeline.sources.web_connections import exchange, open_session

_TIMEOUT_S = 10.0
"""The time of a try in all, however slowly the server sends."""
_TRIES = 3
_SUCCESS = "densecast_nightly_last_success_timestamp_seconds"


class Failure(BaseModel):
    """An error: the name of its type, and its message; see `conversion.errors.DensecastError`."""

    type: str
    message: str


class Night(BaseModel):
    """The result of one date.

    Attributes:
        date: The date, ISO 8601.
        run_id: The run of that date.
        exit_code: See `pipeline.exit_codes.ExitCode`.
        status: `done`, `done-before`, `planned` (a dry run), `rejected`, `drifted`, `busy`, `failed`, `interrupted`.
        table: The table.
        version: The version that the run made; None where it made none.
        model: The model directory, with links resolved.
        model_digest: The model's digest.
        images: Counts of the listed images by outcome, see `RunSummary.images`.
        scored: How many maps the run added.
        rejected: How many rejections the run added.
        reasons: The new rejections by reason.
        seconds: From the start to the commit, or to the failure.
        drift: What exceeded its threshold, in words; None where drift was not measured.
        drift_report: The file of the whole drift report.
        lease_lost: Why the lease was lost while the run worked; such a run continues.
        error: What went wrong.
    """

    model_config = ConfigDict(extra="forbid")

    date: str
    run_id: str
    exit_code: int = ExitCode.FAILED
    status: str = "failed"
    table: str
    version: int | None = None
    model: str = ""
    model_digest: str = ""
    images: dict[str, int] = {}
    scored: int = 0
    rejected: int = 0
    reasons: dict[str, int] = {}
    seconds: float = 0.0
    drift: tuple[str, ...] | None = None
    drift_report: str | None = None
    lease_lost: str = ""
    error: Failure | None = None


class Report(BaseModel):
    """The result of a command: the last line on standard output.

    Attributes:
        job: The job's name.
        exit_code: The command's exit code: the first one of a night that is not 0.
        status: The status of that night, or of the last one.
        nights: The results of the dates, in order; dates after a failure are missing.
        error: What went wrong before the first date.
        webhook: `sent`, or why the report was not sent; None where the job has no webhook.
        metrics: `written`, or why the metrics were not written; None where the job has no metrics file.
    """

    model_config = ConfigDict(extra="forbid")

    job: str
    exit_code: int
    status: str
    nights: tuple[Night, ...] = ()
    error: Failure | None = None
    webhook: str | None = None
    metrics: str | None = None

    def line(self) -> str:
        """Returns one line of JSON: the report's fields, and beside them those of the last night."""
        return self._flat().model_dump_json()

    def as_json(self) -> dict[str, object]:
        """Returns the content of `line` as a dictionary."""
        return self._flat().model_dump(mode="json")

    def _flat(self) -> _Flat:
        last = self.nights[-1].model_dump(exclude={"exit_code", "status", "error"}) if self.nights else {}
        error = self.error or (self.nights[-1].error if self.nights else None)
        return _Flat(**{**last, **self.model_dump(exclude={"error"}), "error": error})


class _Flat(BaseModel):
    model_config = ConfigDict(extra="allow")

    job: str
    exit_code: int
    status: str
    error: Failure | None = None


def post(address: str, report: Report, wait: wait_base | None = None) -> str:
    """Posts a report.

    Args:
        address: `https://...`, or `env:NAME` for the variable that holds the address.
        report: The report.
        wait: The pause between the three tries; by default 1 s, then 2 s.

    Returns:
        `sent`, or what went wrong. The address is a secret, so only its host is named.
    """
    if address.startswith("env:"):
        name = address.removeprefix("env:")
        address = os.environ.get(name, "")
        if not address:
            return f"the variable {name} is not set"
    tries = Retrying(
        stop=stop_after_attempt(_TRIES),
        wait=wait or wait_exponential(),
        retry=retry_if_exception(_may_pass),
        reraise=True,
    )
    try:
        with open_session() as session:
            tries(_post, session, address, report.as_json())
    except requests.HTTPError as error:
        return f"{_host(address)} answers {error.response.status_code}"
    except (requests.RequestException, ValueError) as error:  # such as an address that is malformed
        return f"{_host(address)} cannot be reached: {type(error).__name__}"
    return "sent"


def _post(session: requests.Session, address: str, content: dict[str, object]) -> None:
    # A redirect would repeat the request as a GET without its content. The body of the answer is not read.
    with (
        exchange(_TIMEOUT_S),
        session.post(address, json=content, timeout=_TIMEOUT_S, allow_redirects=False, stream=True) as answer,
    ):
        if answer.is_redirect:
            raise requests.HTTPError("redirected", response=answer)
        answer.raise_for_status()


def _may_pass(error: BaseException) -> bool:
    """Returns whether another try may succeed."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    return isinstance(error, requests.ConnectionError | requests.Timeout)


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or "the webhook"
    except ValueError:
        return "the webhook"


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
