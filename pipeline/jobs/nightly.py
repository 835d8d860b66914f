"""A job, run for a date: once, by one run at a time, with a result that says everything."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from conversion import read_metadata
from conversion.errors import DensecastError
from pipeline.drift.measure import DriftReport, NoEarlierRunError, drift_path, measure_drift
from pipeline.errors import InterruptedRunError
from pipeline.exit_codes import ExitCode
from pipeline.jobs.notify import Failure, Night, Report, post, write_metrics
from pipeline.jobs.run import check_folder, run_job, too_many_rejected
from pipeline.jobs.spec import ScoringJob
from pipeline.jobs.toml_file import JobFile
from pipeline.storage import files
from pipeline.table.lease import Holder, Lease, LeaseHeldError, look
from pipeline.table.log import FOLDER, open_delta
from pipeline.table.summaries import RunSummary, read_summary

_LONGEST_BACKFILL = 3660  # days

_STATUSES = {
    ExitCode.DONE: "done",
    ExitCode.FAILED: "failed",
    ExitCode.REJECTED: "rejected",
    ExitCode.BUSY: "busy",
    ExitCode.DRIFTED: "drifted",
    ExitCode.INTERRUPTED: "interrupted",
}

Tell = Callable[[str], None]


class Attempt(NamedTuple):
    """The run of a date.

    Attributes:
        run_id: The run.
        done: Whether it has published.
    """

    run_id: str
    done: bool


@dataclass(frozen=True)
class Model:
    """The model of a command: whatever a link points to later, all its nights have this one.

    Attributes:
        path: The directory, links resolved.
        digest: Its digest.
    """

    path: str
    digest: str


@dataclass(frozen=True)
class PlannedNight:
    """What a night would do.

    Attributes:
        job: The job, with its run id.
        date: The date.
        attempt: The run.
        version: The version of the table now; None where there is none.
        holder: Who holds the lease now, as far as can be told.
    """

    job: ScoringJob
    date: date
    attempt: Attempt
    version: int | None
    holder: Holder | None


def parse_dates(text: str) -> list[date]:
    """The dates of `FROM..TO`, both included.

    Raises:
        ValueError: It is none, or too many.

    >>> [str(day) for day in parse_dates("2026-02-28..2026-03-01")]
    ['2026-02-28', '2026-03-01']
    """
    match = re.fullmatch(r"(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})", text)
    if match is None:
        raise ValueError(f"{text!r} is no range of dates: write 2026-11-01..2026-11-05")
    first, last = (date.fromisoformat(part) for part in match.groups())
    count = (last - first).days + 1
    if not 1 <= count <= _LONGEST_BACKFILL:
        raise ValueError(f"{text!r} is {count:,} days; from 1 to {_LONGEST_BACKFILL:,} are allowed")
    return [first + timedelta(days=number) for number in range(count)]


def resolve_model(file: JobFile) -> Model:
    """The model that the job file names at this moment.

    Raises:
        ModelError: It is none.
    """
    path = str(Path(file.values["model"]).resolve())
    return Model(path, read_metadata(path).digest)


def run_base(file: JobFile, day: date) -> str:
    """How the run ids of a job's date begin."""
    return f"nightly-{day.isoformat()}-{file.identity}"


def find_attempt(root: str, base: str, *, force: bool = False) -> Attempt:
    """The run of a date: the one that is done, or the next to try.

    The parts that a run wrote before it died are adopted by runs of other ids only, so each attempt has its own.

    Args:
        root: The table.
        base: How the run ids of the date begin.
        force: Whether another run is wanted though one is done.

    Raises:
        TableError: The table cannot be opened.
        StorageError: It cannot be listed.
    """
    ours = re.compile(rf"(?:part-)?(?P<run>{re.escape(base)}(?:-r\d+)?)(?:-[0-9a-f]{{32}}\.parquet|\.json)")
    written = _runs_named(files.list_files(root, ".parquet"), ours)
    summarized = _runs_named(files.list_files(files.join(root, FOLDER, "runs"), ".json"), ours)
    table = open_delta(root)
    published = {run for run in written | summarized if table and table.transaction_version(run) is not None}
    if (done := sorted(published & summarized, key=lambda run: (len(run), run))) and not force:
        return Attempt(done[-1], done=True)
    # One that died between its commit and its summary is concluded under its own name.
    spent = summarized | (written - published)
    names = itertools.chain([base], (f"{base}-r{number}" for number in itertools.count(2)))
    return Attempt(next(name for name in names if name not in spent), done=False)


def _runs_named(paths: Iterable[str], ours: re.Pattern[str]) -> set[str]:
    matches = (ours.fullmatch(path.rsplit("/", 1)[-1]) for path in paths)
    return {match["run"] for match in matches if match}


def plan_nights(file: JobFile, days: Sequence[date], model: Model, *, force: bool = False) -> Iterator[PlannedNight]:
    """What nights would do; nothing is written.

    Raises:
        DensecastError: The job is not valid, or its table cannot be read.
    """
    for day in days:
        job = file.job(day, model=model.path)
        attempt = find_attempt(job.output, run_base(file, day), force=force)
        table = open_delta(job.output)
        holder = look(job.output) if file.nightly.lease_minutes else None
        job = job.model_copy(update={"run_id": attempt.run_id})
        yield PlannedNight(job, day, attempt, table.version() if table else None, holder)


def run_nights(
    file: JobFile, days: Sequence[date], *, force: bool = False, tell: Tell = print, complain: Tell = print
) -> Report:
    """Runs a job for each date, in order; the first whose exit code is not 0 is the last.

    No error of a night's is raised: they are in the report.

    Args:
        file: The job.
        days: The dates, at least one.
        force: Whether dates that are done are run again.
        tell: Takes what people want to know.
        complain: Takes errors and warnings.

    Raises:
        ModelError: There is no model.
    """
    model = resolve_model(file)
    nights: list[Night] = []
    for day in days:
        nights.append(_Worker(file, day, model, force, tell, complain).run())
        if nights[-1].exit_code != ExitCode.DONE:
            break
    return Report(job=file.name, exit_code=nights[-1].exit_code, status=nights[-1].status, nights=tuple(nights))


def failed(job: str, error: BaseException) -> Report:
    """The report of a command that failed before its first night."""
    return Report(job=job, exit_code=_code_of(error), status=_STATUSES[_code_of(error)], error=_failure(error))


def announce(file: JobFile, report: Report, complain: Tell) -> Report:
    """Posts a report to the webhook and writes the metrics, if they are asked for; the exit code stays."""
    webhook = post(file.nightly.webhook, report) if file.nightly.webhook else None
    if webhook not in (None, "sent"):
        complain(f"the webhook was not told: {webhook}")
    metrics = write_metrics(file.nightly.metrics, report) if file.nightly.metrics else None
    if metrics not in (None, "written"):
        complain(f"no metrics: {metrics}")
    return report.model_copy(update={"webhook": webhook, "metrics": metrics})


class _Worker:
    """Runs one date."""

    def __init__(self, file: JobFile, day: date, model: Model, force: bool, tell: Tell, complain: Tell) -> None:
        self._file, self._day, self._model, self._force = file, day, model, force
        self._tell, self._complain = tell, complain
        self._job = file.job(day, model=model.path)
        self._base = run_base(file, day)
        self._night = Night(
            date=day.isoformat(), run_id=self._base, table=self._job.output, model=model.path, model_digest=model.digest
        )

    def run(self) -> Night:
        """Runs it; what goes wrong is in the result."""
        start, night = time.monotonic(), self._night
        try:
            code = self._work()
        except (DensecastError, OSError, KeyboardInterrupt) as error:
            logging.getLogger(__name__).info("the night of %s failed", night.date, exc_info=True)
            code, night.error = _code_of(error), _failure(error)
            self._complain(f"{night.date}: {night.error.message}")
        night.seconds = round(time.monotonic() - start, 3)
        night.exit_code = code
        if not (code == ExitCode.DONE and night.status == "done-before"):
            night.status = _STATUSES[code]
        return night

    def _work(self) -> ExitCode:
        night, job = self._night, self._job
        check_folder(job.output)  # before a lease is put there
        done = self._find()
        if not done:
            with self._lease() as lease:
                # Another run may have done it before this one got the lease.
                done = lease is not None and self._find()
                if not done:
                    run_job(job.model_copy(update={"run_id": night.run_id}))
            night.lease_lost = lease.lost if lease is not None else ""
        summary = read_summary(job.output, night.run_id)
        self._fill(summary)
        if done:
            night.status = "done-before"
            self._tell(f"{night.date}: was done before by run {night.run_id}, {night.table} version {night.version}")
        else:
            self._tell(
                f"{night.date}: {summary.images.get('listed', 0):,} images, {night.scored:,} new maps,"
                f" {night.rejected:,} rejected; run {night.run_id}, {night.table} version {night.version}"
            )
        if night.lease_lost:
            self._complain(f"{night.date}: the lease was lost while the run worked: {night.lease_lost}")
        drifted = self._measure_drift()
        if too_many_rejected(job, summary):
            self._complain(f"{night.date}: more than {job.max_rejected:.1%} of the images have no map")
            return ExitCode.REJECTED
        return ExitCode.DRIFTED if drifted else ExitCode.DONE

    def _find(self) -> bool:
        attempt = find_attempt(self._job.output, self._base, force=self._force)
        self._night.run_id = attempt.run_id
        return attempt.done

    def _lease(self) -> contextlib.AbstractContextManager[Lease | None]:
        seconds = self._file.nightly.lease_minutes * 60
        return Lease(self._job.output, self._night.run_id, seconds) if seconds else contextlib.nullcontext()

    def _fill(self, summary: RunSummary) -> None:
        night = self._night
        night.version, night.scored, night.rejected = summary.version, summary.scored, summary.rejected
        night.images, night.reasons = dict(summary.images), dict(summary.reasons)

    def _measure_drift(self) -> bool:
        """Measures the night's drift, once; says whether it is too much."""
        night, settings = self._night, self._file.nightly.drift
        if not settings.enabled:
            return False
        path = drift_path(night.table, night.run_id)
        try:
            report = _read_drift(path)
            if report is None:
                report = measure_drift(night.table, night.run_id, None, settings)
                files.write_atomically(path, report.model_dump_json(indent=1).encode())
        except NoEarlierRunError:
            return False  # the first night has nothing to differ from
        except DensecastError as error:
            # What was to be held against a limit and cannot be measured is no success.
            if settings.any:
                raise
            self._complain(f"{night.date}: drift was not measured: {error}")
            return False
        report = report.judged(settings)
        night.drift, night.drift_report = tuple(map(str, report.exceeded)), path
        for exceeded in report.exceeded:
            self._complain(f"{night.date}: drift: {exceeded}")
        return bool(report.exceeded)


def _read_drift(path: str) -> DriftReport | None:
    """What was measured before; None where nothing was, or what is there cannot be understood."""
    with contextlib.suppress(files.MissingFileError, ValidationError):
        return DriftReport.model_validate_json(files.read_bytes(path))
    return None


def _code_of(error: BaseException) -> ExitCode:
    if isinstance(error, LeaseHeldError):
        return ExitCode.BUSY
    if isinstance(error, InterruptedRunError | KeyboardInterrupt):
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED


def _failure(error: BaseException) -> Failure:
    message = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    return Failure(type=type(error).__name__, message=message)
