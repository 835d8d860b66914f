"""Where the report of a nightly job goes: a webhook, Prometheus metrics."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import requests
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential
from tenacity.wait import wait_base

from pipeline.errors import JobError
from pipeline.exit_codes import ExitCode
from pipeline.jobs.metrics import write_metrics
from pipeline.jobs.night_report import Report
from pipeline.jobs.toml_file import NightlySettings
from pipeline.sources.web_connections import exchange, open_session

_TIMEOUT_S = 10.0
"""The time of a try in all, however slowly the server sends."""
_TRIES = 3
_UNREPORTED = "unreported"


def check_reporting(webhook: str, metrics: str) -> None:
    """Checks, before a night begins, what can be checked of how it will be reported.

    Args:
        webhook: The job's webhook; empty if it has none.
        metrics: The job's file of metrics; empty if it has none.

    Raises:
        JobError: The variable with the webhook's address is not set, or the metrics cannot be written.
    """
    name = webhook.removeprefix("env:")
    if name != webhook and not os.environ.get(name):
        raise JobError(
            f"the variable {name} is not set",
            why="it holds the address of the webhook",
            remedy="set it, or remove webhook",
        )
    folder = Path(metrics).parent
    if metrics and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise JobError(
            "the metrics cannot be written: " + ("no access" if folder.is_dir() else "there is no such folder"),
            where=str(folder),
            remedy="make the folder and give this user access to it, or remove metrics",
        )


def announce(settings: NightlySettings, report: Report, warn: Callable[[str], None]) -> Report:
    """Writes the metrics and posts a report to the webhook, where the job asks for them.

    Args:
        settings: The job's.
        report: The report.
        warn: Takes what went wrong.

    Returns:
        The report with the results of both. A night that succeeded and could not be reported has failed: who watches it
        would believe that it never ran.
    """
    report = _add_metrics(settings, report)
    if report.metrics not in (None, "written"):
        warn(f"the metrics were not written: {report.metrics}")
    webhook = post(settings.webhook, report) if settings.webhook else None
    if webhook not in (None, "sent"):
        warn(f"the webhook did not get the report: {webhook}")
        before = report.exit_code
        report = _unreported(report)
        if report.exit_code != before:
            report = _add_metrics(settings, report)
    return report.model_copy(update={"webhook": webhook})


def _add_metrics(settings: NightlySettings, report: Report) -> Report:
    metrics = write_metrics(settings.metrics, report) if settings.metrics else None
    report = report.model_copy(update={"metrics": metrics})
    return report if metrics in (None, "written") else _unreported(report)


def _unreported(report: Report) -> Report:
    if report.exit_code != ExitCode.DONE:
        return report
    return report.model_copy(update={"exit_code": ExitCode.FAILED, "status": _UNREPORTED})


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
            tries(_post, session, address, report.posted())
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
