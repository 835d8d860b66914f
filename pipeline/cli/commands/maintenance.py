"""Commands that look after a table: runs, check, compact, vacuum, restore."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from pipeline.cli.commands.options import storage_options, table_root
from pipeline.cli.console import console, fits, printing_does_not_count, say, say_fields, say_json, show
from pipeline.cli.param_types import FILE_SIZE, RETENTION
from pipeline.exit_codes import ExitCode

if TYPE_CHECKING:
    from rich.table import Table

    from pipeline.maintenance.check import Report
    from pipeline.maintenance.untracked_files import Leftover
    from pipeline.table.run_history import RunLine


@click.command()
@click.argument("table")
@click.option("--json", "as_json", is_flag=True, help="Print the runs for programs.")
@storage_options
def runs(table: str, as_json: bool) -> None:
    """List the runs of a table, the newest last.

    The list says how many images each run listed, kept, scored and rejected, and which version a restore brought back.

    \b
    densecast runs maps
    densecast runs s3://bucket/maps --json
    """
    from pipeline.table.run_history import run_lines

    lines = run_lines(table_root(table))
    if as_json:
        say_json([dataclasses.asdict(line) for line in lines])
        return
    if not lines:
        say("no run of this table has a summary")
        return
    if fits(listing := _runs_table(lines)):
        show(listing)
        return
    # A run id is given to other commands, so it is never cut.
    for line in lines:
        say(line.run_id)
        counts = ", ".join(f"{count:,} {name}" for name, count in _run_counts(line).items() if count is not None)
        seconds = "" if line.seconds is None else f"; {line.seconds:,.1f} s"
        made = _made(line) if line.restored is not None else f"model {_made(line)}"
        say(f"  {line.published_at or 'no time'}; {counts}{seconds}; {made}")


def _run_counts(line: RunLine) -> dict[str, int | None]:
    names = ("version", "listed", "kept", "adopted", "scored", "rejected", "deleted")
    return {name: getattr(line, name) for name in names}


def _made(line: RunLine) -> str:
    """Returns the digest of the model, or which version was brought back."""
    return (line.model_digest or "-")[:12] if line.restored is None else f"version {line.restored} restored"


def _runs_table(lines: list[RunLine]) -> Table:
    from rich.table import Table

    listing = Table("run", "published", box=None)
    for name in (*_run_counts(lines[0]), "seconds"):
        listing.add_column(name, justify="right")
    listing.add_column("model")
    for line in lines:
        listing.add_row(
            line.run_id,
            line.published_at or "-",
            *("-" if count is None else f"{count:,}" for count in _run_counts(line).values()),
            "-" if line.seconds is None else f"{line.seconds:,.1f}",
            _made(line),
        )
    return listing


@click.command()
@click.argument("table")
@click.option("--json", "as_json", is_flag=True, help="Print the report for programs.")
@storage_options
@click.pass_context
def check(ctx: click.Context, /, table: str, as_json: bool) -> None:
    """Read a whole table and report what is damaged: files, checksums, maps, images, counts.

    Exits with 0 if nothing is damaged, with 4 if something is, with 1 if there is no table that can be read. Files that
    a dead run left are mentioned; they are not damage.

    \b
    densecast check maps
    densecast check maps --json > report.json
    """
    from pipeline.maintenance.check import check as check_table

    with _progress("checking", quiet=as_json) as on_progress:
        report = check_table(table_root(table), on_progress)
    if as_json:
        say_json(report.as_json())
    else:
        _print(report)
    if not report.clean:
        ctx.exit(ExitCode.DAMAGED)


@click.command()
@click.argument("table")
@click.option(
    "--target-size",
    type=FILE_SIZE,
    default="128MB",
    show_default=True,
    help="The approximate size of the merged files.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
@storage_options
def compact(table: str, target_size: int, as_json: bool) -> None:
    """Merge the small files of a table into a few large ones; its rows stay the same.

    Runs may write to the table at the same time. The merged files stay for readers of earlier versions until
    `densecast vacuum` deletes them. The command takes three times the target size of memory, and about 300 MB.

    \b
    densecast compact maps
    densecast compact maps --target-size 512MB
    """
    from pipeline.maintenance.compact import compact as compact_table

    printing_does_not_count()
    with _progress("compacting", quiet=as_json) as on_progress:
        done = compact_table(table_root(table), target_size, on_progress)
    if as_json:
        say_json(dataclasses.asdict(done))
    elif not done.passes:
        say(f"nothing to do: {done.files_before:,} files, {done.bytes_before:,} bytes")
    else:
        say(
            f"{done.files_before:,} files ({done.bytes_before:,} bytes) became {done.files_after:,}"
            f" ({done.bytes_after:,} bytes); {table} version {done.version}"
        )
    if not as_json:
        for part in done.left:
            say(f"left as it is: {part.path}: {part.why}")


@click.command()
@click.argument("table")
@click.option(
    "--retention", type=RETENTION, default="7d", show_default=True, help="How long to keep files that are not needed."
)
@click.option("--dry-run", is_flag=True, help="List what would be deleted, and delete nothing.")
@click.option("--force", is_flag=True, help="Allow a retention below 1h; no run may be writing to the table.")
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
@storage_options
def vacuum(table: str, *, retention: int, dry_run: bool, force: bool, as_json: bool) -> None:
    """Delete the files of a table that are no longer needed.

    These are superseded files, and files that dead runs left. Versions of the table from before the retention can no
    longer be read afterwards. Other files in the folder stay.

    \b
    densecast vacuum maps --dry-run
    densecast vacuum maps --retention 12h
    """
    from pipeline.maintenance.vacuum import vacuum as vacuum_table

    if not dry_run:
        printing_does_not_count()
    done = vacuum_table(table_root(table), retention, dry_run=dry_run, force=force)
    if as_json:
        files = {name: [file._asdict() for file in getattr(done, name)] for name in ("deleted", "kept", "foreign")}
        say_json({"retention_hours": done.retention_hours, "dry_run": done.dry_run, **files})
        return
    if dry_run:
        for file in done.deleted:
            say_fields(file.path, file.kind, f"{file.size_bytes:,} bytes")
    say(f"{'would delete' if dry_run else 'deleted'} {_files(done.deleted)}")
    if done.kept:
        say(f"kept {_files(done.kept)} that are not needed and younger than {_hours(done.retention_hours)}")
    if done.foreign:
        names = ", ".join(file.path for file in done.foreign[:3])
        say(f"did not touch {_files(done.foreign)} that are not densecast's: {names}")


@click.command()
@click.argument("table")
@click.option("--version", type=click.IntRange(min=0), required=True, help="The version to bring back, see `runs`.")
@click.option("--dry-run", is_flag=True, help="Print what would change, and change nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the result for programs.")
@storage_options
def restore(table: str, *, version: int, dry_run: bool, as_json: bool) -> None:
    """Bring an earlier version of a table back, as its newest version.

    Nothing is deleted, so a restore can be undone by another one, until `densecast vacuum` deletes the files. No
    nightly run may be at work. The next run scores what has changed since that version.

    
    densecast restore maps --version 12 --dry-run
    densecast restore maps --version 12
    """
    from pipeline.maintenance.restore import plan_restore
    from pipeline.maintenance.restore import restore as restore_table

    root = table_root(table)
    done = plan_restore(root, version) if dry_run else restore_table(root, version)
    if as_json:
        say_json({**dataclasses.asdict(done), "dry_run": dry_run})
        return
    for name, content in (("now", done.before), ("then", done.target)):
        say(
            f"{name}: version {content.version}: {content.scored:,} maps, {content.rejected:,} rejected,"
            f" {content.deleted:,} deleted; {content.parts:,} files"
        )
    if not done.needed:
        say(f"nothing to do: the table has the files of version {version}")
        return
    for run_id in done.undone:
        say(f"{'would undo' if dry_run else 'undid'} run {run_id}")
    say(
        f"{'would bring back' if dry_run else 'brought back'} {done.added:,} files and"
        f" {'take' if dry_run else 'took'} {done.removed:,} out"
        + ("" if dry_run else f"; {table} version {done.version} by {done.run_id}")
    )


def _files(files: tuple[Leftover, ...]) -> str:
    return f"{len(files):,} files, {sum(file.size_bytes for file in files):,} bytes"


def _hours(hours: int) -> str:
    return f"{hours // 24}d" if hours and hours % 24 == 0 else f"{hours}h"


def _print(report: Report) -> None:
    from rich.table import Table

    if report.findings:
        shown = Table("finding", "where", "what", box=None)
        for finding in report.findings:
            shown.add_row(finding.kind.value, finding.where, finding.what)
        show(shown)
    more = sum(report.damage.values()) - sum(finding.kind in report.damage for finding in report.findings)
    if more:
        say(f"... and {more:,} more")
    for note in report.notes:
        say(f"note: {note}")
    rows = ", ".join(f"{count:,} {status}" for status, count in report.rows.items())
    rounding = ", ".join(f"{count:,} {kind}" for kind, count in report.rounding.items() if count)
    say(
        f"{report.table} version {report.version}: {report.images:,} images, rows: {rows};"
        f" rounding of the maps: {rounding or 'no maps'}; {report.files:,} files, {report.size_bytes:,} bytes;"
        f" {report.seconds:.1f} s"
    )
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.damage.items())
    say(f"DAMAGED: {kinds}" if kinds else "clean: everything was read, and nothing is damaged")


@contextmanager
def _progress(label: str, *, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """Shows a bar on a terminal, and nothing elsewhere."""
    terminal = console(stderr=True)
    if quiet or not terminal.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task(label, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
