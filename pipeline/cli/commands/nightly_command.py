"""Commands for every night: nightly, drift."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.markup import escape
from rich.table import Table

from conversion.errors import DensecastError
from pipeline.cli.commands.options import check_tensorflow, storage_options, terminated_is_interrupted
from pipeline.cli.console import console
from pipeline.exit_codes import ExitCode

if TYPE_CHECKING:
    from pipeline.drift.measure import DriftReport
    from pipeline.drift.statistics import Change
    from pipeline.jobs.notify import Report
    from pipeline.jobs.toml_file import JobFile

_SHOWN_CLASSES = 10


class Dates(click.ParamType[list[date]]):
    """FROM..TO, both included."""

    name = "from..to"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[date]:
        """Parses them."""
        from pipeline.jobs.nightly import parse_dates

        if isinstance(value, list):
            return value
        try:
            return parse_dates(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Share(click.ParamType[float]):
    """A share of a whole: 5% or 0.05."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Parses it."""
        from pipeline.units import parse_share

        if isinstance(value, float):
            return value
        try:
            return parse_share(value)
        except DensecastError as error:
            self.fail(f"{error.what}: {error.remedy}", param, ctx)


@click.command()
@click.argument("jobfile", type=click.Path())
@click.option(
    "--date", "day", type=click.DateTime(["%Y-%m-%d"]), help="The date to run for. Default: today by the local clock."
)
@click.option("--backfill", type=Dates(), help="Run for each of these dates, until one fails.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and write nothing.")
@click.option("--force", is_flag=True, help="Run dates again that are done.")
@click.option("--json", "as_json", is_flag=True, help="Print the last line only.")
@storage_options
@click.pass_context
def nightly(
    ctx: click.Context,
    /,
    jobfile: str,
    day: datetime | None,
    backfill: list[date] | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Run the job that a TOML file describes, once for a date; a date that is done is not done again.

    The last line on standard output is the result as JSON, whatever happens. Exit codes: 0 done, also where there was
    nothing to do; 1 failed; 3 more images rejected than allowed; 5 another run holds the lease on the table; 6 drift
    beyond a threshold; 130 interrupted. A date that is done exits as it did, by today's limits.

    \b
    densecast nightly photos.toml
    densecast nightly photos.toml --date 2026-11-23 --dry-run
    densecast nightly photos.toml --backfill 2026-11-01..2026-11-05
    """
    from pipeline.jobs.nightly import announce, failed, run_nights
    from pipeline.jobs.notify import Failure, Report
    from pipeline.jobs.toml_file import load_jobfile
    from pipeline.storage.options import current, use

    if day is not None and backfill is not None:
        raise click.UsageError("give --date or --backfill, not both")
    days = backfill or [day.date() if day is not None else date.today()]
    file, name = None, Path(jobfile).stem
    # What a bug leaves to be printed while its traceback is on the way.
    unknown = Failure(type="Bug", message="see the traceback on standard error")
    report = Report(job=name, exit_code=ExitCode.FAILED, status="failed", error=unknown)
    try:
        with terminated_is_interrupted():
            file = load_jobfile(jobfile)
            use(current().over(file.storage))
            if dry_run:
                report = _dry_run(file, days, force, as_json)
            else:
                check_tensorflow()
                report = run_nights(
                    file, days, force=force, tell=_silent if as_json else click.echo, complain=_complain
                )
    except (DensecastError, OSError, KeyboardInterrupt) as error:
        report = failed(file.name if file is not None else name, error)
        _complain(str(error) or "interrupted")
    finally:
        if file is not None and not dry_run:
            report = announce(file, report, _complain)
        click.echo(report.line())
    ctx.exit(report.exit_code)


@click.command()
@click.argument("table")
@click.option("--run", help="The run to look at. Default: the last.")
@click.option("--against", metavar="RUN", help="The run to compare with. Default: the last before it that added maps.")
@click.option("--max-area", type=Share(), help="Exit with 6 if a class's share of the area moved by more.")
@click.option("--max-distance", type=Share(), help="Or the Jensen-Shannon distance of the areas, 0 to 1, is more.")
@click.option("--max-confidence", type=Share(), help="Or the mean confidence moved by more.")
@click.option("--max-rejections", type=Share(), help="Or the rejection rate rose by more.")
@click.option(
    "--min-maps",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="New images, and those of a new model, are judged if there are so many.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
@storage_options
@click.pass_context
def drift(
    ctx: click.Context, /, table: str, run: str | None, against: str | None, as_json: bool, **limits: Any
) -> None:
    """Compare a table's maps after a run with those after an earlier one: classes, confidence, rejections.

    Images are told apart by what became of them: the same, by another model, edited, new, deleted.

    \b
    densecast drift maps
    densecast drift maps --against nightly-2026-11-01-1a2b3c4d --max-area 5% --max-rejections 1%
    """
    from pipeline.drift.measure import measure_drift
    from pipeline.drift.statistics import Thresholds

    report = measure_drift(table, run, against, Thresholds(**limits))
    if as_json:
        click.echo(report.model_dump_json())
    else:
        _print(report)
    for exceeded in report.exceeded:
        click.echo(f"drift: {exceeded}", err=True)
    if report.exceeded:
        ctx.exit(ExitCode.DRIFTED)


def _dry_run(file: JobFile, days: list[date], force: bool, as_json: bool) -> Report:
    from pipeline.jobs.nightly import plan_nights, resolve_model
    from pipeline.jobs.notify import Night, Report

    model = resolve_model(file)
    nights = []
    for planned in plan_nights(file, days, model, force=force):
        job, attempt = planned.job, planned.attempt
        status = "done-before" if attempt.done else "planned"
        nights.append(
            Night(
                date=planned.date.isoformat(),
                run_id=attempt.run_id,
                exit_code=ExitCode.DONE,
                status=status,
                table=job.output,
                version=planned.version,
                model=model.path,
                model_digest=model.digest,
            )
        )
        if as_json:
            continue
        state = "no table yet" if planned.version is None else f"version {planned.version}"
        click.echo(f"{planned.date}: {'done before by' if attempt.done else 'would run'} {attempt.run_id}")
        click.echo(f"  images {' '.join(job.images)}\n  table {job.output}, {state}")
        click.echo(f"  model {model.path}, digest {model.digest}")
        if planned.holder is not None:
            click.echo(f"  run {planned.holder.run_id} on {planned.holder.host} holds the lease")
    return Report(job=file.name, exit_code=ExitCode.DONE, status="planned", nights=tuple(nights))


def _print(report: DriftReport) -> None:
    out = console()
    points = (("before", report.against), ("after", report.run))
    for name, point in points:
        click.echo(f"{name}: run {point.run_id}, version {point.version}, model {point.model_digest[:12]}")
    shown = Table("images", box=None)
    for name in ("maps", "", "rejected", "", "confidence", "", "median", "", "distance", "largest change"):
        shown.add_column(name, justify="right")
    for name, change in report.groups.items():
        shown.add_row(name, *_cells(change))
    out.print(shown)
    click.echo("(new images are compared with all that were there before, deleted ones with all that are there now)")
    everything = report.groups["all"]
    classes = Table("class", box=None)
    for name in ("area before", "after", "change", "probability before", "after"):
        classes.add_column(name, justify="right")
    for found in everything.classes[:_SHOWN_CLASSES]:
        means = (found.probability_before, found.probability_after)
        classes.add_row(
            escape(found.name),
            f"{found.before:.2%}",
            f"{found.after:.2%}",
            f"{found.change:+.2%}",
            *map(_number, means),
        )
    if everything.classes:
        out.print(classes)
    reasons = sorted(everything.before.reasons.keys() | everything.after.reasons.keys())
    for reason in reasons:
        counts = (side.reasons.get(reason, 0) for side in (everything.before, everything.after))
        click.echo("rejected: {}: {:,} before, {:,} after".format(reason, *counts))


def _cells(change: Change) -> Iterator[str]:
    before, after = change.before, change.after
    yield from (f"{before.maps:,}", f"{after.maps:,}")
    yield from (_percent(before.rejection_rate), _percent(after.rejection_rate))
    yield from (_number(before.confidence), _number(after.confidence))
    yield from (_number(before.quantiles.get("0.5")), _number(after.quantiles.get("0.5")))
    yield _number(change.distance)
    largest = change.largest
    yield f"{escape(largest.name)} {largest.change:+.2%}" if largest is not None and largest.change else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _complain(text: str) -> None:
    click.echo(f"densecast: {text}", err=True)


def _silent(text: str) -> None:
    """Says nothing."""
