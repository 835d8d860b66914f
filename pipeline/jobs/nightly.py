"""Nightly jobs: a job runs once for each date, one run at a time, and every result is reported."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from conversion import read_metadata
from conversion.errors import DensecastError, UsageError
from pipeline.drift.measure import DriftReport, NoEarlierRunError, drift_path, measure_drift
from pipeline.errors import InterruptedRunError
from pipeline.exit_codes import ExitCode
from pipeline.jobs.notify import Failure, Night, Report, post, write_metrics
from pipeline.jobs.run import check_folder, run_job, too_many_rejected
from pipeline.jobs.spec import ScoringJob
from pipeline.jobs.toml_file import JobFile
from pipeline.storage.errors import MissingFileError
from pipeline.table.lease import Holder, Lease, LeaseHeldError, look
from pipeline.table.log import FOLDER, open_delta
from pipeline.table.paths import TableRoot
from pipeline.table.summaries import RunSummary, read_summary

_LONGEST_BACKFILL = 3660  # days

_STATUSES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "failed",
    ExitCode.REJECTED: "rejected",
    ExitCode.BUSY: "busy",
    ExitCode.DRIFTED: "drifted",
    ExitCode.INTERRUPTED: "interrupted",
}

Print = Callable[[str], None]
"""Takes a line for people."""


@dataclasses.dataclass(frozen=True)
class Output:
    """Where lines for people go.

    Attributes:
        report: Takes results.
        warn: Takes errors and warnings.
    """

    report: Print = print
    warn: Print = print


class Attempt(NamedTuple):
    """The run of a date.

    Attributes:
        run_id: The run.
        done: Whether it has committed its maps.
    """

    run_id: str
    done: bool


@dataclasses.dataclass(frozen=True)
class Model:
    """The model of a command. All its nights use it, even if a link points elsewhere meanwhile.

    Attributes:
        path: The directory, with links resolved.
        digest: The model's digest.
    """

    path: str
    digest: str


@dataclasses.dataclass(frozen=True)
class PlannedNight:
    """What a night would do.

    Attributes:
        job: The job, with its run id.
        date: The date.
        attempt: The run.
        version: The version of the table now; None where there is no table.
        holder: Who holds the lease now; None where nobody holds it, or no lease is taken.
    """

    job: ScoringJob
    date: date
    attempt: Attempt
    version: int | None
    holder: Holder | None


def parse_dates(text: str) -> list[date]:
    """Returns the dates of `FROM..TO`, both included.

    Raises:
        ValueError: The text is not a range of dates, or has too many.

    >>> [str(day) for day in parse_dates("2026-02-28..2026-03-01")]
    ['2026-02-28', '2026-03-01']
    """
    match = re.fullmatch(r"(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})", text)
    if match is None:
        raise ValueError(f"{text!r} is not a range of dates: write 2026-11-01..2026-11-05")
    first, last = (date.fromisoformat(part) for part in match.groups())
    count = (last - first).days + 1
    if not 1 <= count <= _LONGEST_BACKFILL:
        raise ValueError(f"{text!r} is {count:,} days; from 1 to {_LONGEST_BACKFILL:,} are allowed")
    return [first + timedelta(days=number) for number in range(count)]


def resolve_model(file: JobFile) -> Model:
    """Returns the model that the job file names at this moment.

    Raises:
        ModelError: It is not a model directory.
    """
    path = str(Path(str(file.values["model"])).resolve())
    return Model(path, read_metadata(path).digest)


def run_base(file: JobFile, day: date) -> str:
    """Returns how the run ids of a job's date begin."""
    return f"nightly-{day.isoformat()}-{file.identity}"


def find_attempt(root: str, base: str, *, force: bool = False) -> Attempt:
    """Returns the run of a date: the run that is done, or the next one to try.

    Parts of a run that died are adopted by runs with other ids only, so each attempt has an id of its own.

    Args:
        root: The table.
        base: How the run ids of the date begin.
        force: Whether to find another run though one is done.

    Raises:
        TableError: The table cannot be opened.
        StorageError: It cannot be listed.
    """
    ours = re.compile(rf"(?:part-)?(?P<run>{re.escape(base)}(?:-r\d+)?)(?:-[0-9a-f]{{32}}\.parquet|\.json)")
    table_root = TableRoot(root)
    written = _runs_named(table_root.store.list_files(root, ".parquet"), ours)
    summarized = _runs_named(table_root.store.list_files(table_root.path(FOLDER, "runs"), ".json"), ours)
    table = open_delta(root)
    published = {run for run in written | summarized if table and table.transaction_version(run) is not None}
    if (done := sorted(published & summarized, key=lambda run: (len(run), run))) and not force:
        return Attempt(done[-1], done=True)
    # A run that died between its commit and its summary is finished under its own id.
    spent = summarized | (written - published)
    names = itertools.chain([base], (f"{base}-r{number}" for number in itertools.count(2)))
    return Attempt(next(name for name in names if name not in spent), done=False)


def _runs_named(paths: Iterable[str], ours: re.Pattern[str]) -> set[str]:
    matches = (ours.fullmatch(path.rsplit("/", 1)[-1]) for path in paths)
    return {match["run"] for match in matches if match}


def plan_nights(file: JobFile, days: Sequence[date], model: Model, *, force: bool = False) -> Iterator[PlannedNight]:
    """Yields what nights would do; writes nothing.

    Raises:
        DensecastError: The job is not valid, or its table cannot be read.
    """
    for day in days:
        job = file.job(day, model=model.path)
        attempt = find_attempt(job.table, run_base(file, day), force=force)
        table = open_delta(job.table, writes=True)
        holder = look(job.table) if file.nightly.lease_minutes else None
        job = dataclasses.replace(job, run_id=attempt.run_id)
        yield PlannedNight(job, day, attempt, table.version() if table else None, holder)


def run_nights(file: JobFile, days: Sequence[date], *, force: bool = False, output: Output = Output()) -> Report:
    """Runs a job for each date, in order, and stops after the first date whose exit code is not 0.

    An error of a night is not raised: it is in the report.

    Args:
        file: The job.
        days: The dates, at least one.
        force: Whether dates that are done are run again.
        output: Where lines for people go.

    Raises:
        ModelError: There is no model.
    """
    model = resolve_model(file)
    nights: list[Night] = []
    for day in days:
        nights.append(_Worker(file, day, model, force=force, output=output).run())
        if nights[-1].exit_code != ExitCode.DONE:
            break
    return Report(job=file.name, exit_code=nights[-1].exit_code, status=nights[-1].status, nights=tuple(nights))


def failed(job: str, error: BaseException) -> Report:
    """Returns the report of a command that failed before its first night."""
    return Report(job=job, exit_code=_code_of(error), status=_STATUSES[_code_of(error)], error=_failure(error))


def announce(file: JobFile, report: Report, warn: Print) -> Report:
    """Posts a report to the webhook and writes the metrics, where the job asks for them.

    Args:
        file: The job.
        report: The report.
        warn: Takes what went wrong.

    Returns:
        The report with the results of both; its exit code is unchanged.
    """
    webhook = post(file.nightly.webhook, report) if file.nightly.webhook else None
    if webhook not in (None, "sent"):
        warn(f"the webhook did not get the report: {webhook}")
    metrics = write_metrics(file.nightly.metrics, report) if file.nightly.metrics else None
    if metrics not in (None, "written"):
        warn(f"the metrics were not written: {metrics}")
    return report.model_copy(update={"webhook": webhook, "metrics": metrics})


class _Worker:
    """Runs one date."""

    def __init__(self, file: JobFile, day: date, model: Model, *, force: bool, output: Output) -> None:
        self._file, self._force, self._output = file, force, output
        self._job = file.job(day, model=model.path)
        self._base = run_base(file, day)
        self._night = Night(
            date=day.isoformat(), run_id=self._base, table=self._job.output, model=model.path, model_digest=model.digest
        )

    def run(self) -> Night:
        """Runs the date; an error is in the result."""
        start, night = time.monotonic(), self._night
        try:
            code = self._work()
        except (DensecastError, OSError, KeyboardInterrupt) as error:
            logging.getLogger(__name__).info("the night of %s failed", night.date, exc_info=True)
            code, night.error = _code_of(error), _failure(error)
            self._output.warn(f"{night.date}: {night.error.message}")
        night.seconds = round(time.monotonic() - start, 3)
        night.exit_code = code
        if not (code == ExitCode.DONE and night.status == "done-before"):
            night.status = _STATUSES[code]
        return night

    def _work(self) -> ExitCode:
        night, job = self._night, self._job
        check_folder(job.table)  # before a lease is put there
        done = self._find()
        if not done:
            with self._lease() as lease:
                # Another run may have finished the date before this run got the lease.
                done = lease is not None and self._find()
                if not done:
                    run_job(dataclasses.replace(job, run_id=night.run_id))
            night.lease_lost = lease.lost if lease is not None else ""
        summary = read_summary(job.table, night.run_id)
        self._fill(summary)
        if done:
            night.status = "done-before"
            self._output.report(
                f"{night.date}: was done before by run {night.run_id}, {night.table} version {night.version}"
            )
        else:
            self._output.report(
                f"{night.date}: {summary.images.get('listed', 0):,} images, {night.scored:,} new maps,"
                f" {night.rejected:,} rejected; run {night.run_id}, {night.table} version {night.version}"
            )
        if night.lease_lost:
            self._output.warn(f"{night.date}: the lease was lost while the run worked: {night.lease_lost}")
        drifted = self._measure_drift()
        if too_many_rejected(job, summary):
            self._output.warn(f"{night.date}: more than {job.policy.max_rejected:.1%} of the images have no map")
            return ExitCode.REJECTED
        return ExitCode.DRIFTED if drifted else ExitCode.DONE

    def _find(self) -> bool:
        """Finds the run of the date; returns whether it is done."""
        attempt = find_attempt(self._job.table, self._base, force=self._force)
        self._night.run_id = attempt.run_id
        return attempt.done

    def _lease(self) -> contextlib.AbstractContextManager[Lease | None]:
        seconds = self._file.nightly.lease_minutes * 60
        return Lease(self._job.table, self._night.run_id, seconds) if seconds else contextlib.nullcontext()

    def _fill(self, summary: RunSummary) -> None:
        night = self._night
        night.version, night.scored, night.rejected = summary.version, summary.scored, summary.rejected
        night.images, night.reasons = dict(summary.images), dict(summary.reasons)

    def _measure_drift(self) -> bool:
        """Measures the night's drift, once; returns whether it exceeds a threshold."""
        night, settings = self._night, self._file.nightly.drift
        if not settings.enabled:
            return False
        table = self._job.table
        path = drift_path(table, night.run_id)
        try:
            report = _read_drift(table, path)
            if report is None:
                report = measure_drift(table, night.run_id, None, settings)
                table.store.write_atomically(path, report.model_dump_json(indent=1).encode())
        except NoEarlierRunError:
            return False  # the first night has no earlier one to compare with
        except DensecastError as error:
            # A night whose drift has a threshold and cannot be measured is a failure.
            if settings.any:
                raise
            self._output.warn(f"{night.date}: drift was not measured: {error}")
            return False
        report = report.judged(settings)
        night.drift, night.drift_report = tuple(map(str, report.exceeded)), path
        for exceeded in report.exceeded:
            self._output.warn(f"{night.date}: drift: {exceeded}")
        return bool(report.exceeded)


def _read_drift(table: TableRoot, path: str) -> DriftReport | None:
    """Returns what was measured before; None where there is no report, or none that can be read."""
    with contextlib.suppress(MissingFileError, ValidationError):
        return DriftReport.model_validate_json(table.store.read_bytes(path))
    return None


def _code_of(error: BaseException) -> ExitCode:
    if isinstance(error, LeaseHeldError):
        return ExitCode.BUSY
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED


def _failure(error: BaseException) -> Failure:
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    return Failure(type=type(error).__name__, message=message)
