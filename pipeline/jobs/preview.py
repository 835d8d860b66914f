"""What nights would do: all that can be checked is checked, and images are counted; nothing is written."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path

from conversion import ModelMetadata, read_metadata
from conversion.errors import DensecastError
from pipeline.errors import TableError
from pipeline.exit_codes import ExitCode
from pipeline.jobs.ahead import decide_engine
from pipeline.jobs.attempts import find_attempt, make_date
from pipeline.jobs.night_report import Night, Report
from pipeline.jobs.nightly import Model, Output, code_of, failure_of, report_of, resolve_model
from pipeline.jobs.notify import check_reporting
from pipeline.jobs.other_models import check_other_models
from pipeline.jobs.run import check_folder
from pipeline.jobs.spec import ScoringJob
from pipeline.jobs.submit import check_pipeline, open_target
from pipeline.jobs.toml_file import JobFile
from pipeline.settings import LOCAL
from pipeline.sources import ImageReference, list_images
from pipeline.storage.address import absolute, is_remote, local_path
from pipeline.storage.errors import AccessError
from pipeline.table.lease import look
from pipeline.table.log import open_delta
from pipeline.table.paths import check_root
from pipeline.transforms.decide_fn import DecideFn
from pipeline.transforms.inventory import read_part, take_inventory
from pipeline.transforms.plan_run import PackFn
from pipeline.transforms.reconcile import Known, Outcome, Policy
from pipeline.transforms.reports import StageCounts

_Buckets = defaultdict[int, list[bytes]]


def preview_nights(file: JobFile, days: Sequence[date], *, force: bool, backfill: bool, output: Output) -> Report:
    """Returns what nights would do, date by date; a date that could not be run is in the report with its error.

    Args:
        file: The job.
        days: The dates, at least one.
        force: Whether dates that are done would be run again.
        backfill: Whether the report is one of a range of dates.
        output: Where lines for people go.

    Raises:
        JobError: The job cannot be reported as its file asks for.
        ModelError: There is no model.
    """
    check_reporting(file.nightly.webhook, file.nightly.metrics)
    model = resolve_model(file)
    nights = []
    for day in days:
        night = Night(
            date=day.isoformat(),
            run_id="",
            exit_code=ExitCode.DONE,
            status="planned",
            table="",
            model=model.path,
            model_digest=model.digest,
        )
        try:
            lines = _preview(file, day, model, night, force=force)
            for line in lines:
                output.report(line)
        except (DensecastError, OSError) as error:
            night.exit_code, night.status, night.error = code_of(error), "failed", failure_of(error)
            output.warn(f"{night.date}: {night.error.message}")
        nights.append(night)
    report = report_of(file, nights, backfill=backfill)
    return report if report.exit_code else report.model_copy(update={"status": "planned"})


def _preview(file: JobFile, day: date, model: Model, night: Night, *, force: bool) -> Iterator[str]:
    """Fills in what a night would do, and yields it in lines for people."""
    job = file.job(day, model=model.path)
    night.table, night.run_id = job.output, make_date(file, day, model.digest).base
    check_root(job.output)
    check_folder(job.table)
    _check_writable(job.output)
    attempt = find_attempt(job.table, make_date(file, day, model.digest), force=force)
    night.run_id = attempt.run_id
    table = open_delta(job.table)
    night.version = table.version() if table is not None else None
    state = "no table yet" if table is None else f"version {table.version()}"
    if attempt.done:
        night.status = "done-before"
        yield f"{day}: done before by {attempt.run_id}; --force runs it again"
    else:
        _check_job(job, model.digest)
        night.images = count_outcomes(job, read_metadata(model.path))
        yield f"{day}: would run {attempt.run_id}"
    yield f"  images {' '.join(job.images)}"
    if not attempt.done:
        yield f"  {_format_counts(night.images)}"
    yield f"  table {job.output}, {state}"
    yield f"  model {model.path}, digest {model.digest}"
    holder = look(job.table) if file.nightly.lease_minutes else None
    if holder is not None:
        yield f"  run {holder.run_id} on {holder.host} holds the lease"


def _check_writable(output: str) -> None:
    """Checks the access to a local table's folder, or to the folder that it would be made in.

    Raises:
        AccessError: It cannot be written.
    """
    if is_remote(output):
        return
    path = Path(absolute(local_path(output)))
    present = next(folder for folder in (path, *path.parents) if folder.exists())
    if not os.access(present, os.W_OK | os.X_OK):
        raise AccessError("cannot be written", where=str(present), remedy="give this user access to the folder")


def _check_job(job: ScoringJob, digest: str) -> None:
    """Checks what `run_job` checks before it reads an image.

    Raises:
        DensecastError: The job cannot run.
    """
    if job.execution.runner != LOCAL:
        job.storage.check_travels(job.execution.runner)
    check_other_models(job, digest)
    target = open_target(job)
    check_pipeline(job, target)
    decide_engine(job, read_metadata(job.model))


def count_outcomes(job: ScoringJob, metadata: ModelMetadata) -> dict[str, int]:
    """Returns how many images are listed, and what a run would do with them: see `Outcome`.

    Images of `Outcome.PROBE` are read before that is known. Parts of dead runs are not verified here, so a run may
    score images that are counted as adopted. Holds some 25 bytes for each image.

    Args:
        job: The job.
        metadata: The model's.

    Raises:
        DensecastError: The images cannot be listed, or the table cannot be read.
    """
    recipe = job.map_recipe().for_model(metadata)
    policy = Policy(
        recipe.decodings(),
        recipe.row_scales,
        retry_rejected=job.policy.retry_rejected,
        rescore=job.policy.rescore,
        prune=job.policy.prune,
        rules=recipe.rules,
    )
    listed = _by_bucket(list_images(job.images, job.listing()))
    known = _by_bucket(_known(job))
    decide = DecideFn(policy)
    totals: Counter[str] = Counter()
    for bucket in sorted(listed.keys() | known.keys()):
        groups: Mapping[str, Iterable[bytes]] = {"listed": listed.get(bucket, ()), "known": known.get(bucket, ())}
        for report in decide.process((bucket, groups)):
            if isinstance(report, StageCounts):
                totals.update(report.counts)
    decided = sum(totals[name] for name in (Outcome.SCORE, Outcome.KEEP, Outcome.UPDATE, Outcome.ADOPT))
    totals[Outcome.PROBE] = totals["listed"] - decided
    names = ("listed", *Outcome)
    return {name: int(totals[name]) for name in names if totals[name]}


def _known(job: ScoringJob) -> Iterator[Known]:
    inventory = take_inventory(job.table, job.run_id)
    for part in inventory.parts:
        yield from read_part(job.table, part)
    for part in inventory.orphans:
        try:
            records = list(read_part(job.table, part))
        except TableError:  # a run does not use it either
            continue
        yield from (record._replace(orphan=True) for record in records)


def _by_bucket(records: Iterable[ImageReference] | Iterable[Known]) -> _Buckets:
    """Returns packed records by bucket, as `PlanRun` shuffles them."""
    buckets: _Buckets = defaultdict(list)
    pack = PackFn()
    pack.start_bundle()
    for record in records:
        for bucket, packed in pack.process(record):
            buckets[bucket].append(packed)
    for windowed in pack.finish_bundle():
        bucket, packed = windowed.value
        buckets[bucket].append(packed)
    return buckets


_WORDS = {
    Outcome.SCORE: "to score",
    Outcome.PROBE: "to compare by their content",
    Outcome.ADOPT: "to adopt from a run that died",
    Outcome.DELETE: "to mark as deleted",
}


def _format_counts(images: Mapping[str, int]) -> str:
    """Returns counts in words.

    >>> _format_counts({"listed": 3, "score": 2, "keep": 1})
    '3 images: 2 to score, 1 unchanged'
    """
    counts = [(images.get(outcome, 0), words) for outcome, words in _WORDS.items()]
    counts.append((images.get(Outcome.KEEP, 0) + images.get(Outcome.UPDATE, 0), "unchanged"))
    shown = ", ".join(f"{count:,} {words}" for count, words in counts if count)
    return f"{images.get('listed', 0):,} images: {shown or 'nothing to do'}"
