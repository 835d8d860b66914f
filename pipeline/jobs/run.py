"""Running a scoring job."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from conversion import read_metadata
from pipeline.engines.factory import TensorFlowEngineFactory
from pipeline.errors import TableError
from pipeline.jobs import progress
from pipeline.jobs.calibrate import calibrate
from pipeline.jobs.spec import ScoringJob
from pipeline.jobs.submit import open_target, submit
from pipeline.runners.registry import LOCAL
from pipeline.scoring.calibration.form import Choice
from pipeline.scoring.calibration.parity import Parity
from pipeline.storage import files, options
from pipeline.table.log import FOLDER
from pipeline.table.paths import check_root
from pipeline.table.summaries import RunSummary, read_summary


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a run did.

    Attributes:
        summary: What it has published.
        seconds: From the first listing to the commit.
        failed: Whether more images than the job allows have no map.
        choice: The form of the maps and what it was chosen by, where the job left that open.
        parity: What the precision does to the maps, where it is not float32.
        beam: Beam's own result, for those who want what the runner counted: see `pipeline.beam_counters.counters`.
    """

    summary: RunSummary
    seconds: float
    failed: bool
    choice: Choice | None = None
    parity: Parity | None = None
    beam: Any = None


def run_job(job: ScoringJob, watch: Callable[[str], progress.Watch] = progress.Watch) -> JobResult:
    """Runs a job to its end and says what it did.

    Raises:
        ModelError: The model cannot be read.
        TableError: The output cannot be a table, or the commit failed; ConflictError where another run has published
            the same images meanwhile, so that this one has only to be repeated.
        StorageError: The table cannot be written.
        SourceError: The images cannot be listed.
        EngineError: There is no GPU where one is asked for, or the engine failed.
        ParityError: The precision changes the maps by more than the job allows.
        JobError: The pipeline failed in another way.
    """
    metadata = read_metadata(job.model)
    if job.runner != LOCAL:
        options.current().check_travels(job.runner)
    check_root(job.output)
    check_folder(job.output)
    target = open_target(job)
    TensorFlowEngineFactory(job.model, job.recipe(), job.device_here()).check()
    with watch("scoring") as watching:
        settled = calibrate(job, metadata)
        result = submit(settled, target, watching.show)
        seconds = watching.seconds()
    summary = read_summary(job.output, job.run_id)
    return JobResult(summary, seconds, too_many_rejected(job, summary), settled.choice, settled.parity, result)


def too_many_rejected(job: ScoringJob, summary: RunSummary) -> bool:
    """Whether more images than a job allows have no map, for the first time or still."""
    without_map = summary.rejected + summary.images.get("still_rejected", 0)
    return without_map > job.max_rejected * summary.images.get("listed", 0) * len(job.scales)


def check_folder(output: str) -> None:
    """A table goes into a folder of its own: what shares one with it may be deleted with it some day.

    Raises:
        TableError: The folder holds something else, or is a file.
        StorageError: The store that it is in cannot be used.
    """
    if files.is_remote(output):
        files.list_files(output)  # wrong credentials are found out now, not when the first part is written
        return
    folder = files.local_path(output)
    if folder.exists() and not folder.is_dir():
        raise TableError("is a file", where=output, why="a table is a folder", remedy="name another --output")
    ours = ("part-", FOLDER, "_delta_log", ".")
    foreign = [path.name for path in folder.iterdir() if not path.name.startswith(ours)] if folder.exists() else []
    if foreign:
        raise TableError(
            f"the folder holds something else: {', '.join(sorted(foreign)[:3])}",
            where=output,
            remedy="name a new folder with --output",
        )
