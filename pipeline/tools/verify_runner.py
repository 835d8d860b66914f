"""`densecast verify-runner`: scores one collection twice on a runner and on the local one, and compares the tables."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict
from rich.console import Group, RenderableType

from conversion import read_metadata
from pipeline import beam_counters
from pipeline.errors import JobError
from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import ScoringJob, describe_job
from pipeline.maintenance.check import check
from pipeline.maps.recipe import Form
from pipeline.runners.flink import FlinkCluster
from pipeline.runners.registry import describe_runner, open_runner
from pipeline.settings import LOCAL, EngineName, ExecutionSettings, Rounding
from pipeline.storage.address import is_remote, join, local_path
from pipeline.storage.options import StorageOptions
from pipeline.table import diff
from pipeline.table.diff import TableDiff
from pipeline.table.lookup import reading
from pipeline.table.part_file import new_run_id
from pipeline.table.paths import TableRoot
from pipeline.table.reader import MapTable
from pipeline.table.rounding import TOLERANCE
from pipeline.tools.demo import convert_digits
from pipeline.tools.verify_runner_images import MINIMUM_PAGES, SCALES, first_night, second_night, shape_for


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class RunReport(_Frozen):
    """The summary of one run.

    Attributes:
        run_id: The run.
        seconds: How long it took.
        scored: How many maps it added.
        rejected: How many rejections it added.
        images: Counts of the images by outcome, see `pipeline.table.commit.RunSummary`.
        reasons: The rejections by reason.
        counters: What the runner counted, by name; None where it has no counters. Repeated work counts twice.
    """

    run_id: str
    seconds: float
    scored: int
    rejected: int
    images: Mapping[str, int]
    reasons: Mapping[str, int]
    counters: Mapping[str, int] | None

    def agrees(self, other: RunReport) -> bool:
        """Returns whether another run has the same summary, except run id, time and counters."""
        own = {"run_id", "seconds", "counters"}
        return self.model_dump(exclude=own) == other.model_dump(exclude=own)


class Night(_Frozen):
    """One night on both runners.

    Attributes:
        there: The run on the runner that is tested.
        here: The run on the local runner.
        tables: The difference of the table there (left) and the table here (right).
        damage: What `densecast check` finds in the table there.
        promise: `exact` where both tables have to be equal to the last bit: the runs were exact, on processors and
            devices of the same kinds. Else `bounded`: within `TOLERANCE`.
    """

    there: RunReport
    here: RunReport
    tables: TableDiff
    damage: tuple[str, ...]
    promise: Rounding

    @property
    def equal(self) -> bool:
        """Whether both tables have the same rows, as the promise says, and both runs the same summary."""
        kept = self.promise is Rounding.BOUNDED or not self.tables.rounded
        return self.tables.equal and kept and self.there.agrees(self.here) and not self.damage


class TrialReport(_Frozen):
    """How a runner compares with the local one.

    Attributes:
        runner: The runner's name.
        about: Its class, and what it reports about itself.
        flags: The flags for Beam.
        versions: Versions of Beam's SDK, Python and densecast here; workers must have the same.
        folder: The folder of collection, model and tables; None where it was deleted.
        nights: The first night, and a second one with a changed collection.
        equal: Whether all nights were equal.
    """

    runner: str
    about: Mapping[str, str]
    flags: tuple[str, ...]
    versions: Mapping[str, str]
    folder: str | None
    nights: tuple[Night, ...]
    equal: bool


@dataclass(frozen=True, kw_only=True)
class Trial:
    """What is scored on both runners, and where.

    Attributes:
        pages: How many pages of digits the collection has, at least `MINIMUM_PAGES`.
        model: A model directory; by default the digits model, which is converted first.
        images: More images, as `densecast score` takes them; they do not change.
        output: A new folder is made below this one for everything; workers must reach it by the same path. With
            `scheme://` it holds collection and tables. By default a temporary folder, which is deleted.
        storage: How object stores are opened; None: as the environment says.
        rounding: Which bits may differ between the runs, where both runners have processors of one kind.
    """

    pages: int = 12
    model: str | None = None
    images: tuple[str, ...] = ()
    output: str | None = None
    storage: StorageOptions | None = None
    rounding: Rounding = ExecutionSettings.rounding

    def __post_init__(self) -> None:
        if self.pages < MINIMUM_PAGES:
            raise JobError(f"{self.pages} pages are too few", why=f"the second night changes {MINIMUM_PAGES} of them")


def try_runner(
    runner: str,
    flags: Sequence[str] = (),
    *,
    flink_master: str | None = None,
    trial: Trial | None = None,
    run: Callable[[ScoringJob], JobResult] = run_job,
) -> TrialReport:
    """Scores a collection of two nights on a runner and on the local one.

    Args:
        runner: The name of a Beam runner.
        flags: For Beam, on that runner.
        flink_master: The REST address of a Flink cluster; FlinkRunner needs it.
        trial: What is scored, and where; by default pages of digits in a temporary folder.
        run: Runs a job.

    Raises:
        DensecastError: A run failed, see `pipeline.jobs.run.run_job`, or a runner cannot be made or reached.
    """
    trial = trial or Trial()
    target: dict[str, object] = {"runner": runner, "beam_options": tuple(flags), "flink_master": flink_master}
    runner_facts = describe_runner(
        open_runner(runner), flags
    )  # a runner without its program fails before anything is made
    if flink_master:
        runner_facts["flink"] = FlinkCluster(flink_master).overview().version
    with _folder(trial.output) as folder, _model(trial.model, folder) as directory:
        shape = shape_for(read_metadata(directory))
        arguments = first_night(TableRoot(join(folder, "images"), trial.storage), trial.pages, shape)
        values: dict[str, object] = {
            "model": directory,
            "images": (*arguments, *trial.images),
            "top_k": 3,
            "scores": Form.FLOAT32,
            "scales": SCALES,
            "tile_pixels": shape.tile_pixels,
            "prune": True,
            "max_pruned": 1,
            "max_rejected": 1,
            "storage": trial.storage,
            "rounding": trial.rounding,
        }
        tables = {where: TableRoot(join(folder, f"maps-{where}"), trial.storage) for where in ("there", "here")}
        nights = []
        for number in range(2):
            if number:
                second_night(arguments[0], trial.pages, shape)
            there = run(describe_job(**values, **target, output=tables["there"]))
            here = run(describe_job(**values, runner=LOCAL, output=tables["here"]))
            nights.append(_night(tables["there"], there, tables["here"], here))
    return TrialReport(
        runner=runner,
        about=runner_facts,
        flags=tuple(flags),
        versions={
            "python": platform.python_version(),
            **{name: version(name) for name in ("apache-beam", "densecast")},
        },
        folder=folder if trial.output else None,
        nights=tuple(nights),
        equal=all(night.equal for night in nights),
    )


def compare_tables(left: str, right: str) -> TableDiff:
    """Compares the newest versions of two tables within `pipeline.table.rounding.TOLERANCE`, see `compare` there.

    Raises:
        TableError: One is not a table, or a part cannot be read.
    """
    there, here = (MapTable(root).dataset() for root in (left, right))
    both = TableRoot(f"{left}, {right}", TableRoot(left).options)  # an error shows no secret of theirs
    with reading(both):
        return diff.compare(there, here, tolerance=TOLERANCE)


def _night(there_root: str, there: JobResult, here_root: str, here: JobResult) -> Night:
    findings = check(there_root).findings
    runs = [
        next(run for run in MapTable(root).runs() if run["run_id"] == result.summary.run_id)
        for root, result in ((there_root, there), (here_root, here))
    ]
    exact = all(run.get("rounding") == Rounding.EXACT for run in runs)
    alike = all(set(runs[0].get(kind, {})) == set(runs[1].get(kind, {})) for kind in ("processors", "devices"))
    return Night(
        there=_run_report(there),
        here=_run_report(here),
        tables=compare_tables(there_root, here_root),
        promise=Rounding.EXACT if exact and (alike or _same_native(runs)) else Rounding.BOUNDED,
        damage=tuple(f"{finding.kind.value}: {finding.where}: {finding.what}" for finding in findings),
    )


def _same_native(runs: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether all runs used one version of densecast's own engine, whose bits no processor changes."""
    engines = [(run.get("engine", {}).get("name"), run.get("engine", {}).get("versions")) for run in runs]
    return set(map(str, engines)) == {str((EngineName.NATIVE.value, engines[0][1]))}


def _run_report(result: JobResult) -> RunReport:
    summary = result.summary
    return RunReport(
        run_id=summary.run_id,
        seconds=result.seconds,
        scored=summary.scored,
        rejected=summary.rejected,
        images=dict(summary.images),
        reasons=dict(summary.reasons),
        counters=beam_counters.counters(result.beam),
    )


@contextmanager
def _folder(output: str | None) -> Iterator[str]:
    """Yields a folder of the trial's own: files of others are never touched."""
    if output is not None:
        yield join(output, f"trial-{new_run_id()}")
        return
    with tempfile.TemporaryDirectory(prefix="densecast-") as folder:
        yield folder


@contextmanager
def _model(model: str | None, folder: str) -> Iterator[str]:
    """Yields the model's directory; the digits model is made beside the collection, or here if that is remote."""
    if model is not None:
        yield model
    elif is_remote(folder):
        with tempfile.TemporaryDirectory(prefix="densecast-") as local_folder:
            convert_digits(Path(local_folder, "model"))
            yield str(Path(local_folder, "model"))
    else:
        directory = local_path(join(folder, "model")).absolute()
        directory.parent.mkdir(parents=True, exist_ok=True)
        convert_digits(directory)
        yield str(directory)


def render(report: TrialReport) -> RenderableType:
    """Returns the report for a terminal."""
    facts = ", ".join(f"{name} {value}" for name, value in report.about.items())
    versions = ", ".join(f"{name} {value}" for name, value in report.versions.items())
    lines = [f"{report.runner} ({facts}) compared with {LOCAL}; {versions}"]
    if report.flags:
        lines.append(f"flags: {' '.join(report.flags)}")
    for number, night in enumerate(report.nights, 1):
        lines += [f"night {number}: {'equal' if night.equal else 'DIFFERENT'}", *map("  {}".format, _lines(night))]
    if report.folder:
        lines.append(f"collection and tables are in {report.folder}")
    lines.append(f"the runners are {'equal' if report.equal else 'NOT EQUAL'}")
    return Group(*lines)


def _lines(night: Night) -> Iterator[str]:
    there, here = night.there, night.here
    yield f"{_totals(there)} there, in {there.seconds:.1f} s"
    if not there.agrees(here):
        yield f"{_totals(here)} here: the summaries differ"
    if there.counters is None:
        yield "the runner has no counters"
    elif there.counters != here.counters:
        counts = f"{_counts(there.counters)}; here: {_counts(here.counters or {})}"
        yield f"its counters: {counts} (repeated work counts again)"
    else:
        yield f"counters as here: {_counts(there.counters)}"
    if night.promise is Rounding.EXACT:
        yield "all bits have to be equal: the runs were exact, on processors of one kind or by the engine native"
    else:
        yield f"scores have to be equal within {TOLERANCE:g}: the runs were bounded, or the processors differ"
    yield from diff.summary(night.tables, "there", "here")
    yield from (f"damage: {finding}" for finding in night.damage)


def _totals(run: RunReport) -> str:
    return f"{run.scored:,} maps, {run.rejected:,} rejections ({_counts(run.reasons)}); images: {_counts(run.images)}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()) if count)
