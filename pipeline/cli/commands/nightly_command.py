"""Commands for nightly jobs: nightly, drift."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from conversion.errors import DensecastError
from pipeline.cli.commands.options import (
    given_storage,
    storage_options,
    table_root,
)
from pipeline.cli.console import printing_does_not_count, say, say_json, say_lines, show
from pipeline.cli.param_types import SHARE, Parsed
from pipeline.exit_codes import ExitCode
from pipeline.quiet_beam import import_lean_beam

if TYPE_CHECKING:
    from pipeline.drift.measure import DriftReport
    from pipeline.drift.statistics import Change

_SHOWN_CLASSES = 10


def _parse_dates(text: str) -> list[date]:
    from pipeline.jobs.dates import parse_dates

    return parse_dates(text)


def _parse_day(text: str) -> date:
    from pipeline.jobs.dates import parse_day

    return parse_day(text)


@click.command()
@click.argument("jobfile", type=click.Path())
@click.option(
    *("--date", "day"),
    type=Parsed("yyyy-mm-dd|today|yesterday", _parse_day),
    default="today",
    show_default=True,
    help="The date to run for; today and yesterday are those of the local clock (TZ).",
)
@click.option("--backfill", type=Parsed("from..to", _parse_dates), help="Run for each of these dates, until one fails.")
@click.option("--dry-run", is_flag=True, help="Check the job, count the images to score, and write nothing.")
@click.option("--force", is_flag=True, help="Run dates again that are done.")
@click.option("--json", "as_json", is_flag=True, help="Print the last line only.")
@storage_options
@click.pass_context
def nightly(
    ctx: click.Context,
    /,
    *,
    jobfile: str,
    day: date,
    backfill: list[date] | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Run the job that a TOML file describes, once for each date.

    A date is done if the images depend on the date, and a run listed them after the date was over. It is not run again;
    the command exits with the code of its run, judged by today's limits. Other jobs list their images again whenever
    they run, and score those that are new or have changed. The last line on standard output is always the result as
    JSON.

    Exit codes: 0 done, or nothing to do; 1 failed, or the result could not be reported; 3 more images rejected than
    allowed; 5 another run holds the lease on the table; 6 drift exceeds a threshold; 130 interrupted. A backfill goes
    on after 3 and 6, and exits with the code of the date that failed, or else the first that is not 0.

    \b
    densecast nightly photos.toml
    densecast nightly photos.toml --date yesterday
    densecast nightly photos.toml --date 2026-11-23 --dry-run
    densecast nightly photos.toml --backfill 2026-11-01..2026-11-05
    """
    import_lean_beam()
    from pipeline.jobs.night_report import Failure, Report
    from pipeline.jobs.nightly import Output, failed, run_nights
    from pipeline.jobs.notify import announce
    from pipeline.jobs.preview import preview_nights
    from pipeline.jobs.toml_file import load_jobfile

    if backfill is not None and ctx.get_parameter_source("day") is ParameterSource.COMMANDLINE:
        raise click.UsageError("give --date or --backfill, not both")
    days = backfill or [day]
    file, name = None, Path(jobfile).stem
    # Printed if a bug raises: its traceback follows.
    unknown = Failure(type="Bug", message="see the traceback on standard error")
    report = Report(job=name, exit_code=ExitCode.FAILED, status="failed", error=unknown)
    try:
        file = load_jobfile(jobfile)
        if (given := given_storage()) is not None:
            file = dataclasses.replace(file, storage=given.over(file.storage))
        output = Output(report=_silent if as_json else say, warn=_warn)
        if not dry_run:
            printing_does_not_count()
        run = preview_nights if dry_run else run_nights
        report = run(file, days, force=force, backfill=backfill is not None, output=output)
    except (DensecastError, OSError, KeyboardInterrupt) as error:
        report = failed(file.name if file is not None else name, error)
        _warn(str(error) or "interrupted")
    finally:
        if file is not None and not dry_run:
            report = announce(file.nightly, report, _warn)
        say_json(report.as_json())
    ctx.exit(report.exit_code)


@click.command()
@click.argument("table")
@click.option("--run", help="The run to look at. Default: the last.")
@click.option("--against", metavar="RUN", help="The run to compare with. Default: the last before it that added maps.")
@click.option("--max-area", type=SHARE, help="Exit with 6 if a class's share of the area changed by more.")
@click.option(
    "--max-distance", type=SHARE, help="Exit with 6 if the Jensen-Shannon distance of the areas, 0 to 1, is larger."
)
@click.option("--max-confidence", type=SHARE, help="Exit with 6 if the mean confidence changed by more.")
@click.option("--max-rejections", type=SHARE, help="Exit with 6 if the rejection rate rose by more.")
@click.option(
    "--min-maps",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    help="The least number of new images, and of images of a new model, that thresholds are applied to.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
@storage_options
@click.pass_context
def drift(
    ctx: click.Context, /, table: str, *, run: str | None, against: str | None, as_json: bool, **limits: Any
) -> None:
    """Compare a table's maps after a run with those after an earlier run.

    The report has classes, confidence and rejections. Images are compared in groups: unchanged, scored by another
    model, edited, new, deleted.

    \b
    densecast drift maps
    densecast drift maps --against nightly-2026-11-01-1a2b3c4d --max-area 5% --max-rejections 1%
    """
    from pipeline.drift.measure import measure_drift
    from pipeline.drift.statistics import Thresholds

    report = measure_drift(table_root(table), run, against, Thresholds(**limits))
    if as_json:
        say_json(report.model_dump(mode="json"))
    else:
        _print(report)
    for exceeded in report.exceeded:
        say(f"drift: {exceeded}", err=True)
    if report.exceeded:
        ctx.exit(ExitCode.DRIFTED)


def _print(report: DriftReport) -> None:
    from rich.table import Table
    from rich.text import Text

    points = (("before", report.against), ("after", report.run))
    for name, point in points:
        say(f"{name}: run {point.run_id}, version {point.version}, model {point.model_digest[:12]}")
    if report.unchanged:
        side = report.groups["all"].after
        say(f"no change: all {side.maps:,} maps and {side.rejected:,} rejections are those of before")
        return
    shown = Table("images", box=None)
    pairs = ("maps", "rejected", "confidence", "median")
    for name in (*(f"{pair}\n{when}" for pair in pairs for when in ("before", "after")), "distance", "largest\nchange"):
        shown.add_column(Text(name), justify="right")
    for name, group in report.groups.items():
        shown.add_row(name, *_cells(group))
    show(shown)
    say("(new images are compared with all earlier images, deleted images with all present ones)")
    everything = report.groups["all"]
    classes = Table("class", box=None)
    for name in ("area before", "after", "change", "probability before", "after"):
        classes.add_column(name, justify="right")
    for change in everything.classes[:_SHOWN_CLASSES]:
        means = (change.probability_before, change.probability_after)
        classes.add_row(
            change.name,
            f"{change.before:.2%}",
            f"{change.after:.2%}",
            f"{change.change:+.2%}",
            *map(_number, means),
        )
    if everything.classes:
        show(classes)
    reasons = sorted(everything.before.reasons.keys() | everything.after.reasons.keys())
    for reason in reasons:
        counts = (side.reasons.get(reason, 0) for side in (everything.before, everything.after))
        say("rejected: {}: {:,} before, {:,} after".format(reason, *counts))


def _cells(change: Change) -> Iterator[str]:
    before, after = change.before, change.after
    yield from (f"{before.maps:,}", f"{after.maps:,}")
    yield from (_percent(before.rejection_rate), _percent(after.rejection_rate))
    yield from (_number(before.confidence), _number(after.confidence))
    yield from (_number(before.quantiles.get("0.5")), _number(after.quantiles.get("0.5")))
    yield _number(change.distance)
    largest = change.largest
    yield f"{largest.name} {largest.change:+.2%}" if largest is not None and largest.change else "-"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _warn(text: str) -> None:
    say_lines(f"densecast: {text}", err=True)


def _silent(text: str) -> None:
    """Prints nothing."""
