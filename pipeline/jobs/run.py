"""`run_job`: runs a scoring job to its end."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from conversion import partial_name, read_metadata
from pipeline.beam_counters import counters
from pipeline.counters import LEFT_OUT, OUTSIDE_ROOT
from pipeline.errors import TableError
from pipeline.jobs import progress
from pipeline.jobs.ahead import decide_engine, starting_engine
from pipeline.jobs.calibrate import calibrate
from pipeline.jobs.other_models import check_other_models
from pipeline.jobs.spec import ScoringJob
from pipeline.jobs.submit import open_target, submit
from pipeline.scoring.calibration.form import Choice
from pipeline.scoring.calibration.parity import Parity
from pipeline.settings import LOCAL
from pipeline.storage.address import absolute, is_remote, local_path
from pipeline.storage.errors import StorageError
from pipeline.table.image_root import check_image_root
from pipeline.table.log import FOLDER, open_delta
from pipeline.table.paths import TableRoot, check_root
from pipeline.table.summaries import RunSummary, read_summary

_log = logging.getLogger("densecast")


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a run did.

    Attributes:
        summary: What it has committed.
        seconds: From the first listing to the commit.
        failed: Whether more images than the job allows have no map.
        choice: The form of the maps and what it was chosen by; None where the job names the form.
        parity: What the precision does to the maps; None in float32.
        beam: Beam's own result; `pipeline.beam_counters.counters` reads the runner's counters from it.
        left_out: What listed folders leave out: the number of files by extension, of hidden files and so on by kind;
            empty where the runner reports no counters.
        outside_root: The number of listed files that are not below the job's root; 0 where the runner reports none.
    """

    summary: RunSummary
    seconds: float
    failed: bool
    choice: Choice | None = None
    parity: Parity | None = None
    beam: object = None
    left_out: Mapping[str, int] = dataclasses.field(default_factory=dict)
    outside_root: int = 0


def run_job(job: ScoringJob, watch: Callable[[str], progress.Watch] = progress.Watch) -> JobResult:
    """Runs a job to its end.

    Args:
        job: The job.
        watch: Shows progress while a block runs.

    Returns:
        What the run did.

    Raises:
        ModelError: The model cannot be read.
        TableError: The output cannot be a table, its addresses are not relative to a root as those of the job, or the
            commit failed. ConflictError: another run has committed the same images meanwhile; run the job again.
        StorageError: The table cannot be written; this is found before an image is read.
        SourceError: The images cannot be listed.
        EngineError: No engine can run the model, there is no GPU where one is asked for, or the engine failed.
        ParityError: The precision changes the maps by more than the job allows.
        JobError: The pipeline failed in another way.
    """
    metadata = read_metadata(job.model)
    if metadata.random_weights:
        _log.warning("the weights of the model %s are random: its classes mean nothing", metadata.name)
    if job.execution.runner != LOCAL:
        job.storage.check_travels(job.execution.runner)
    check_root(job.output)
    delta = open_delta(job.table, writes=True)
    check_folder(job.table)
    if job.execution.runner == LOCAL:  # on a cluster the workers read and write, perhaps with other rights
        check_writable(job.table)
    check_other_models(job, metadata.digest)
    target = open_target(job)
    check_image_root(job.table, delta, job.listing().root, rescore=job.policy.rescore)
    with starting_engine(job):
        engine = decide_engine(job, metadata)
        with watch("scoring") as watching:
            calibration = calibrate(job, metadata, engine)
            result = submit(calibration, target, watching.show)
            seconds = watching.seconds()
    summary = read_summary(job.table, job.run_id)
    failed = too_many_rejected(job, summary)
    counted = counters(result) or {}
    prefix = f"{LEFT_OUT}."
    left_out = {name.removeprefix(prefix): count for name, count in counted.items() if name.startswith(prefix)}
    outside = counted.get(OUTSIDE_ROOT, 0)
    return JobResult(summary, seconds, failed, calibration.choice, calibration.parity, result, left_out, outside)


def too_many_rejected(job: ScoringJob, summary: RunSummary) -> bool:
    """Returns whether more images than a job allows have no map, newly or since an earlier run."""
    without_map = summary.rejected + summary.images.get("still_rejected", 0)
    return without_map > job.policy.max_rejected * summary.images.get("listed", 0) * len(job.map_recipe().row_scales)


def check_folder(output: str) -> None:
    """Checks that a table has a folder of its own: other files there might be deleted with it one day.

    Raises:
        TableError: The folder has other files, or is a file.
        StorageError: The store that holds it cannot be used.
    """
    if is_remote(output):
        TableRoot(output).store.list_files(output)  # wrong credentials fail now, not when the first part is written
        return
    folder = local_path(output)
    if folder.exists() and not folder.is_dir():
        raise TableError("is a file", where=output, why="a table is a folder", remedy="name another --output")
    ours = ("part-", FOLDER, "_delta_log", ".")
    foreign = [path.name for path in folder.iterdir() if not path.name.startswith(ours)] if folder.exists() else []
    if (folder / "_delta_log").exists():  # other programs give the parts that they append names of their own
        foreign = [name for name in foreign if not name.endswith(".parquet")]
    if foreign:
        raise TableError(
            f"the folder has other files: {', '.join(sorted(foreign)[:3])}",
            where=output,
            remedy="name a new folder with --output",
        )


def check_writable(table: TableRoot) -> None:
    """Checks that the table's folder can be written, or made, by writing a small file; leaves nothing behind.

    Raises:
        StorageError: It cannot.
    """
    if is_remote(table):
        probe = table.path(FOLDER, ".writable")
    else:
        path = Path(absolute(local_path(table)))
        # A folder is not made here: a run that is refused leaves none, and one may not remove another run's.
        present = next(folder for folder in (path, *path.parents) if folder.is_symlink() or folder.exists())
        probe = str(present / partial_name("writable"))
    table.store.write_atomically(probe, b"")
    with contextlib.suppress(StorageError):  # a store may allow writing but not deleting; no reader sees the file
        table.store.delete(probe)
