"""`densecast verify-runner`: two nights of one collection on a runner and on the local one, and what differs."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType
from rich.markup import escape

from conversion import read_metadata
from pipeline import beam_counters
from pipeline.errors import JobError
from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import describe_job
from pipeline.maintenance.check import check
from pipeline.maps.recipe import Form
from pipeline.runners.flink import FlinkCluster
from pipeline.runners.registry import LOCAL, about_runner, open_runner
from pipeline.storage import files
from pipeline.table import diff
from pipeline.table.diff import TableDiff
from pipeline.table.lookup import reading
from pipeline.table.reader import MapTable
from pipeline.tools.demo import convert_digits
from pipeline.tools.verify_runner_images import MINIMUM_PAGES, SCALES, first_night, second_night, shape_for
from pipeline.transforms.score_images import new_run_id


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True)


class Told(_Model):
    """What a run says of itself.

    Attributes:
        run_id: The run.
        seconds: How long it took.
        scored: Maps that it added.
        rejected: Rejections that it added.
        images: What became of the images, see `pipeline.table.commit.RunSummary`.
        reasons: The rejections by reason.
        counters: What the runner counted, by name; None where it has no counters. What is done twice counts twice.
    """

    run_id: str
    seconds: float
    scored: int
    rejected: int
    images: Mapping[str, int]
    reasons: Mapping[str, int]
    counters: Mapping[str, int] | None

    def agrees(self, other: Told) -> bool:
        """Whether another run says the same, but for its name, its time and its counters."""
        free = {"run_id", "seconds", "counters"}
        return self.model_dump(exclude=free) == other.model_dump(exclude=free)


class Night(_Model):
    """One night on both runners.

    Attributes:
        there: The run on the runner that is tried.
        here: The local one.
        tables: Its table (left) against the local one (right).
        damage: What `densecast check` finds in its table.
    """

    there: Told
    here: Told
    tables: TableDiff
    damage: tuple[str, ...]

    @property
    def equal(self) -> bool:
        """Whether both left the same rows within the tolerance, and said the same of them."""
        return self.tables.equal and self.there.agrees(self.here) and not self.damage


class TrialReport(_Model):
    """How a runner compares with the local one.

    Attributes:
        runner: Its name.
        about: What is known of it, and what it says of itself.
        flags: What went to Beam.
        versions: Of Beam's SDK, of Python and of densecast, here; workers have to have the same.
        folder: Where collection, model and tables are; None where they were deleted.
        nights: The first one, and one that found a changed collection.
        equal: Whether all were equal.
    """

    runner: str
    about: Mapping[str, str]
    flags: tuple[str, ...]
    versions: Mapping[str, str]
    folder: str | None
    nights: tuple[Night, ...]
    equal: bool


def try_runner(
    runner: str,
    flags: Sequence[str] = (),
    *,
    flink_master: str | None = None,
    pages: int = 12,
    model: str | None = None,
    images: Sequence[str] = (),
    output: str | None = None,
    run: Callable[[Any], JobResult] = run_job,
) -> TrialReport:
    """Scores a collection of two nights on a runner and on the local one.

    Args:
        runner: The name of a Beam runner.
        flags: For Beam, on that runner.
        flink_master: The REST address of a Flink cluster, where that is the runner.
        pages: How many pages of digits there are, `MINIMUM_PAGES` at least.
        model: A model directory; by default the digits model, converted for this.
        images: More images, as `densecast score` takes them; they do not change.
        output: A folder for all of it, below which a new one is made, that workers reach by the same path, or
            `scheme://` for collection and tables; by default a temporary one that is deleted.
        run: Runs a job.

    Raises:
        DensecastError: A run failed, see `pipeline.jobs.run.run_job`; a runner cannot be made or reached.
    """
    if pages < MINIMUM_PAGES:
        raise JobError(f"{pages} pages are too few", why=f"the second night changes {MINIMUM_PAGES} of them")
    target: dict[str, Any] = {"runner": runner, "beam_options": tuple(flags), "flink_master": flink_master}
    about = about_runner(open_runner(runner), flags)  # what lacks its program fails before anything is made
    if flink_master:
        about["flink"] = FlinkCluster(flink_master).overview().version
    with _folder(output) as folder, _model(model, folder) as directory:
        shape = shape_for(read_metadata(directory))
        arguments = first_night(files.join(folder, "images"), pages, shape)
        values: dict[str, Any] = {
            "model": directory,
            "images": (*arguments, *images),
            "top_k": 3,
            "scores": Form.FLOAT32,
            "scales": SCALES,
            "tile_pixels": shape.tile_pixels,
            "prune": True,
            "max_pruned": 1,
            "max_rejected": 1,
        }
        tables = {where: files.join(folder, f"maps-{where}") for where in ("there", "here")}
        nights = []
        for number in range(2):
            if number:
                second_night(arguments[0], pages, shape)
            there = run(describe_job(**values, **target, output=tables["there"]))
            here = run(describe_job(**values, runner=LOCAL, output=tables["here"]))
            nights.append(_night(tables["there"], there, tables["here"], here))
    return TrialReport(
        runner=runner,
        about=about,
        flags=tuple(flags),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("apache-beam", "densecast")},
        },
        folder=folder if output else None,
        nights=tuple(nights),
        equal=all(night.equal for night in nights),
    )


def compare_tables(left: str, right: str) -> TableDiff:
    """Compares the newest versions of two tables within `pipeline.table.diff.TOLERANCE`, see `compare` there.

    Raises:
        TableError: One is no table, or a part cannot be read.
    """
    datasets = [MapTable(root).dataset() for root in (left, right)]
    with reading(f"{left}, {right}"):
        return diff.compare(*datasets, tolerance=diff.TOLERANCE)


def _night(there_root: str, there: JobResult, here_root: str, here: JobResult) -> Night:
    findings = check(there_root).findings
    return Night(
        there=_told(there),
        here=_told(here),
        tables=compare_tables(there_root, here_root),
        damage=tuple(f"{finding.kind.value}: {finding.where}: {finding.what}" for finding in findings),
    )


def _told(result: JobResult) -> Told:
    said = result.summary
    return Told(
        run_id=said.run_id,
        seconds=result.seconds,
        scored=said.scored,
        rejected=said.rejected,
        images=dict(said.images),
        reasons=dict(said.reasons),
        counters=beam_counters.counters(result.beam),
    )


@contextmanager
def _folder(output: str | None) -> Iterator[str]:
    """A folder of the trial's own: what others hold is never touched."""
    if output is not None:
        yield files.join(output, f"trial-{new_run_id()}")
        return
    with tempfile.TemporaryDirectory(prefix="densecast-") as folder:
        yield folder


@contextmanager
def _model(model: str | None, folder: str) -> Iterator[str]:
    """The model's directory; the digits model goes beside the collection, or where that is remote, to this machine."""
    if model is not None:
        yield model
    elif files.is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="densecast-") as here:
            convert_digits(Path(here, "model"))
            yield str(Path(here, "model"))
    else:
        directory = files.local_path(files.join(folder, "model")).absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        convert_digits(directory)
        yield str(directory)


def render(report: TrialReport) -> RenderableType:
    """The report for a terminal."""
    about = ", ".join(f"{name} {value}" for name, value in report.about.items())
    with_ = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    lines = [f"{report.runner} ({about}) against {LOCAL}; {with_}"]
    if report.flags:
        lines.append(f"flags: {' '.join(report.flags)}")
    for number, night in enumerate(report.nights, 1):
        lines += [f"night {number}: {'equal' if night.equal else 'DIFFERENT'}", *map("  {}".format, _lines(night))]
    if report.folder:
        lines.append(f"all of it is in {report.folder}")
    lines.append(f"the runners are {'equal' if report.equal else 'NOT EQUAL'}")
    return Group(*map(escape, lines))


def _lines(night: Night) -> Iterator[str]:
    there, here = night.there, night.here
    yield f"{_said(there)} there, in {there.seconds:.1f} s"
    if not there.agrees(here):
        yield f"{_said(here)} here: the summaries differ"
    if there.counters is None:
        yield "the runner has no counters"
    elif there.counters != here.counters:
        yield f"its counters: {_counts(there.counters)}; here: {_counts(here.counters or {})} (what is repeated counts)"
    else:
        yield f"counters as here: {_counts(there.counters)}"
    yield from diff.summary(night.tables, "there", "here")
    yield from (f"damage: {finding}" for finding in night.damage)


def _said(told: Told) -> str:
    return (
        f"{told.scored:,} maps, {told.rejected:,} rejections ({_counts(told.reasons)}); images: {_counts(told.images)}"
    )


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count)
