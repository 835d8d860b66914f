"""Nightly jobs: a job runs once for each date, one run at a time, and every result is reported."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path

from conversion import read_metadata
from conversion.errors import DensecastError, UsageError
from pipeline.errors import InterruptedRunError
from pipeline.exit_codes import ExitCode
from pipeline.jobs.attempts import Attempt, find_attempt, finish, make_date
from pipeline.jobs.night_drift import drift_of_night
from pipeline.jobs.night_report import Failure, Night, Report
from pipeline.jobs.notify import check_reporting
from pipeline.jobs.run import check_folder, run_job, too_many_rejected
from pipeline.jobs.toml_file import JobFile
from pipeline.sources.globs import format_left_out
from pipeline.table.lease import Lease, LeaseHeldError, is_dead, parse
from pipeline.table.lease_store import open_lease
from pipeline.table.summaries import RunSummary, read_summary

_MOST_PAUSE_S = 5.0  # between two looks at a lease that is waited for

_STATUSES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed",
    ExitCode.USAGE: "failed",
    ExitCode.REJECTED: "rejected",
    ExitCode.BUSY: "busy",
    ExitCode.DRIFTED: "drifted",
    ExitCode.INTERRUPTED: "interrupted",
}

_PUBLISHED = (ExitCode.DONE, ExitCode.REJECTED, ExitCode.DRIFTED)
"""The exit codes of nights whose maps are in the table."""

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


@dataclasses.dataclass(frozen=True)
class Model:
    """The model of a command. All its nights use it, even if a link points elsewhere meanwhile.

    Attributes:
        path: The directory, with links resolved.
        digest: The model's digest.
    """

    path: str
    digest: str


def resolve_model(file: JobFile) -> Model:
    """Returns the model that the job file names at this moment.

    Raises:
        ModelError: It is not a model directory.
    """
    path = str(Path(str(file.values["model"])).resolve())
    return Model(path, read_metadata(path).digest)


def run_nights(
    file: JobFile, days: Sequence[date], *, force: bool = False, backfill: bool = False, output: Output = Output()
) -> Report:
    """Runs a job for each date, in order, and stops after the first date that failed.

    A date with too many rejections or with drift has published its maps, so the next one follows. An error of a night
    is not raised: it is in the report.

    Args:
        file: The job.
        days: The dates, at least one.
        force: Whether dates that are done are run again.
        backfill: Whether the report is one of a range of dates.
        output: Where lines for people go.

    Raises:
        JobError: The job cannot be reported as its file asks for.
        ModelError: There is no model.
    """
    check_reporting(file.nightly.webhook, file.nightly.metrics)
    model = resolve_model(file)
    nights: list[Night] = []
    for day in days:
        nights.append(_Worker(file, day, model, force=force, output=output).run())
        if nights[-1].exit_code not in _PUBLISHED:
            break
    return report_of(file, nights, backfill=backfill)


def report_of(file: JobFile, nights: Sequence[Night], *, backfill: bool) -> Report:
    """Returns the report of nights: its exit code is that of a failure, or else the first that is not 0."""
    failures = [night for night in nights if night.exit_code not in _PUBLISHED]
    notable = [night for night in nights if night.exit_code != ExitCode.DONE]
    decisive = [*failures, *notable, nights[-1]][0]
    return Report(
        job=file.name,
        exit_code=decisive.exit_code,
        status=decisive.status,
        nights=tuple(nights),
        backfill=backfill,
    )


def failed(job: str, error: BaseException) -> Report:
    """Returns the report of a command that failed before its first night."""
    code = code_of(error)
    return Report(job=job, exit_code=code, status=_STATUSES[code], error=failure_of(error))


class _Worker:
    """Runs one date."""

    def __init__(self, file: JobFile, day: date, model: Model, *, force: bool, output: Output) -> None:
        self._file, self._force, self._output = file, force, output
        self._job = file.job(day, model=model.path)
        self._date = make_date(file, day, model.digest)
        self._avoided: set[str] = set()
        self._night = Night(
            date=day.isoformat(),
            run_id=self._date.base,
            table=self._job.output,
            model=model.path,
            model_digest=model.digest,
        )

    def run(self) -> Night:
        """Runs the date; an error is in the result."""
        start, night = time.monotonic(), self._night
        try:
            code = self._work()
        except (DensecastError, OSError, KeyboardInterrupt) as error:
            logging.getLogger(__name__).info("the night of %s failed", night.date, exc_info=True)
            code, night.error = code_of(error), failure_of(error)
            self._output.warn(f"{night.date}: {night.error.message}")
        night.seconds = round(time.monotonic() - start, 3)
        night.exit_code = code
        if not (code == ExitCode.DONE and night.status == "done-before"):
            night.status = _STATUSES[code]
        return night

    def _work(self) -> ExitCode:
        night, job = self._night, self._job
        check_folder(job.table)  # before a lease is put there
        attempt = self._find()
        if not attempt.done:
            with self._lease() as lease:
                # Another run may have finished the date before this run got the lease.
                attempt = self._find()
                for run_id in attempt.unfinished:
                    finish(job.table, run_id)
                if not attempt.done:
                    night.left_out = dict(run_job(dataclasses.replace(job, run_id=night.run_id)).left_out)
            night.lease_lost = lease.lost if lease is not None else ""
        summary = read_summary(job.table, night.run_id)
        self._fill(summary)
        if attempt.done:
            night.status = "done-before"
            self._output.report(
                f"{night.date}: was done before by run {night.run_id}, {night.table} version {night.version};"
                " --force runs it again"
            )
        else:
            self._output.report(
                f"{night.date}: {summary.images.get('listed', 0):,} images, {night.scored:,} new maps,"
                f" {night.rejected:,} rejected; run {night.run_id}, {night.table} version {night.version}"
            )
        if night.left_out:
            counts = format_left_out(night.left_out)
            self._output.report(f"{night.date}: left out, because they are not images by their name: {counts}")
        if night.lease_lost:
            self._output.warn(f"{night.date}: the lease was lost while the run worked: {night.lease_lost}")
        drifted = self._measure_drift()
        if too_many_rejected(job, summary):
            again = " with --force" if attempt.done else ""
            self._output.warn(
                f"{night.date}: more than {job.policy.max_rejected:.1%} of the images have no map;"
                f" `densecast rejected {night.table}` lists them, and a run{again} with retry-rejected = true tries"
                " them again"
            )
            return ExitCode.REJECTED
        return ExitCode.DRIFTED if drifted else ExitCode.DONE

    def _find(self) -> Attempt:
        """Finds the run of the date."""
        attempt = find_attempt(self._job.table, self._date, force=self._force, avoid=self._avoided)
        self._night.run_id = attempt.run_id
        return attempt

    @contextlib.contextmanager
    def _lease(self) -> Iterator[Lease | None]:
        """Holds the lease, where the job takes one; waits for it as long as the job says."""
        settings = self._file.nightly
        term = settings.lease_minutes * 60
        if not term:
            yield None
            return
        deadline = time.monotonic() + settings.lease_wait_minutes * 60
        announced: set[str] = set()
        with contextlib.ExitStack() as stack:
            while True:
                self._avoid_the_last_holder()
                lease = Lease(self._job.table, self._find().run_id, term)
                try:
                    stack.enter_context(lease)
                    break
                except LeaseHeldError as error:
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise
                    who = error.holder.run_id if error.holder is not None else "another run"
                    if who not in announced:
                        announced.add(who)
                        limit = f"{settings.lease_wait_minutes:g} minutes at most"
                        self._output.warn(f"{self._night.date}: waits for the lease of {who}, {limit}")
                    time.sleep(min(_MOST_PAUSE_S, term, left))
            yield lease

    def _avoid_the_last_holder(self) -> None:
        """Notes the run that has the lease, or lost it: it may still work, and two runs must not share an id."""
        stored = open_lease(self._job.table).read()
        holder = parse(stored.data) if stored is not None else None
        if holder is not None and not holder.released and not is_dead(holder):
            self._avoided.add(holder.run_id)

    def _fill(self, summary: RunSummary) -> None:
        night = self._night
        night.version, night.scored, night.rejected = summary.version, summary.scored, summary.rejected
        night.images, night.reasons = dict(summary.images), dict(summary.reasons)

    def _measure_drift(self) -> bool:
        """Measures the night's drift, once; returns whether it exceeds a threshold."""
        night, settings = self._night, self._file.nightly.drift
        if not settings.enabled:
            return False
        counts = night.images
        changed = bool(night.scored or night.rejected or counts.get("adopt") or counts.get("delete"))
        try:
            measured = drift_of_night(self._job.table, night.run_id, self._date, settings, changed=changed)
        except DensecastError as error:
            # A night whose drift has a threshold and cannot be measured is a failure.
            if settings.any:
                raise
            self._output.warn(f"{night.date}: drift was not measured: {error}")
            return False
        if measured is None:
            return False  # the first night has no earlier one to compare with
        report, path = measured[0].judged(settings), measured[1]
        night.drift, night.drift_report = tuple(map(str, report.exceeded)), path
        for exceeded in report.exceeded:
            self._output.warn(f"{night.date}: drift: {exceeded}")
        return bool(report.exceeded)


def code_of(error: BaseException) -> ExitCode:
    """Returns the exit code of a night that ended with an error."""
    if isinstance(error, LeaseHeldError):
        return ExitCode.BUSY
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.USAGE if isinstance(error, UsageError) else ExitCode.FAILED


def failure_of(error: BaseException) -> Failure:
    """Returns an error as reports have it."""
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    return Failure(type=type(error).__name__, message=message)
