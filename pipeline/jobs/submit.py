"""Builds the pipeline of a job, submits it to its runner, and waits for its end."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.runners.runner import PipelineResult, PipelineRunner

from conversion.errors import DensecastError, MissingExtraError, ModelError
from pipeline.errors import (
    EngineError,
    InterruptedRunError,
    JobError,
    NoImagesError,
    SettingError,
    SourceError,
    TableError,
    WorkerError,
)
from pipeline.jobs.ahead import scores_all
from pipeline.jobs.calibrate import Calibration
from pipeline.jobs.spec import ScoringJob
from pipeline.runners.flink import FlinkCluster
from pipeline.runners.options import SharedViews
from pipeline.runners.registry import RUNNER_LOST, beam_flags, open_runner, runner_lost
from pipeline.stopping import run_stoppable
from pipeline.storage.errors import AccessError, OutageError, StorageError, UnavailableError
from pipeline.table.commit import ConflictError
from pipeline.table.log import open_delta
from pipeline.transforms.list_images import ListImages
from pipeline.transforms.score_images import ScoreImages

WorkerFailure: TypeAlias = tuple[type[DensecastError], str]
"""What a worker raised: its type and message."""

ShowCounts: TypeAlias = Callable[[Mapping[str, int]], None]
"""Takes what a cluster's workers have counted so far."""


class Target(NamedTuple):
    """Where a job runs.

    Attributes:
        runner: Beam's runner.
        flags: Beam's flags.
        name: The job's name on a cluster.
        cluster: The cluster that is watched while the job runs; None for other runners.
    """

    runner: PipelineRunner
    flags: Sequence[str]
    name: str
    cluster: FlinkCluster | None = None


def open_target(job: ScoringJob) -> Target:
    """Opens the runner of a job, before anything else is done.

    Raises:
        JobError: There is no such runner, or its cluster does not answer.
    """
    settings = job.execution
    # A night that is tried again keeps its run id, and a cluster remembers jobs that have failed.
    runner, name = open_runner(settings.runner), f"densecast-{job.run_id}-{secrets.token_hex(3)}"
    if not settings.flink_master:
        return Target(runner, beam_flags(runner, settings.beam_options), name)
    cluster = FlinkCluster(settings.flink_master)
    flags = beam_flags(runner, settings.beam_options)
    return Target(runner, cluster.flags(flags, name), name, cluster)


def build_pipeline(
    calibration: Calibration, pipeline: beam.Pipeline, *, check: bool = True, open_ahead: bool = False
) -> beam.Pipeline:
    """Puts a job's transforms into a pipeline.

    Args:
        calibration: The job.
        pipeline: An empty pipeline, with its runner and options.
        check: Whether the images are looked for here first, for an early error; this machine must be able to read them.
        open_ahead: Whether this process starts to open the model meanwhile, since it will run it.

    Returns:
        The pipeline.

    Raises:
        DensecastError: The model or the images cannot be read.
    """
    job = calibration.job
    list_images = ListImages(
        list(job.images),
        check=check,
        frames=job.limits.frames,
        root=job.policy.root,
        storage_options=job.storage,
        allowed=job.listing().allowed,
        allow_empty=job.policy.allow_empty,
    )
    score_images = ScoreImages(
        job.model,
        job.output,
        job.map_recipe(),
        retry_rejected=job.policy.retry_rejected,
        rescore=job.policy.rescore,
        prune=job.policy.prune,
        max_pruned=job.policy.max_pruned,
        root=job.policy.root,
        run_id=job.run_id,
        limits=job.worker_limits(),
        summary=calibration.summary(),
        device=job.execution.device,
        engine=calibration.engine or job.execution.engine,
        rounding=job.execution.rounding,
        storage_options=job.storage,
        compiled=calibration.compiled,
    )
    if open_ahead:
        score_images.open_ahead()
    _ = pipeline | "List images" >> list_images | "Score images" >> score_images
    return pipeline


def check_pipeline(job: ScoringJob, target: Target) -> None:
    """Checks what can be checked of a job's arguments without listing its images: builds the pipeline, runs nothing.

    Raises:
        DensecastError: The model or the images cannot be read, or a setting does not fit the model.
    """
    build_pipeline(Calibration(job), beam.Pipeline(runner=target.runner, options=SharedViews([])))


def submit(calibration: Calibration, target: Target, show: ShowCounts) -> PipelineResult:
    """Runs a job's pipeline to its end.

    Args:
        calibration: The job.
        target: Where it runs.
        show: Takes what a cluster has counted so far; the local runner counts in this process.

    Returns:
        Beam's own result.

    Raises:
        InterruptedRunError: The run was interrupted; a job on a cluster is then cancelled.
        DensecastError: A worker failed. The type is that of the worker's error, or WorkerError for a foreign one.
    """
    job = calibration.job
    # A list even where it is empty: without flags Beam would read this process's own command line.
    options = SharedViews(list(target.flags))
    pipeline = beam.Pipeline(runner=target.runner, options=options)
    build_pipeline(calibration, pipeline, open_ahead=scores_all(job) and not job.policy.allow_empty)
    result = None
    try:
        if isinstance(target.runner, FnApiRunner):
            return run_stoppable(job.run_id, lambda: _run_here(pipeline))
        result = pipeline.run()
        if target.cluster is not None:
            _follow(job, target.name, target.cluster, show)
        result.wait_until_finish()
        return result
    except KeyboardInterrupt as error:
        shutil.rmtree(pipeline.local_tempdir, ignore_errors=True)  # Beam's own, where the local runner was left
        _cancel(job, target, result)
        raise _interrupted(job) from error
    except RUNNER_LOST as error:
        raise runner_lost(job.execution.runner, error) from error
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, OSError) as error:
        # The runner in this process keeps the type of a worker's error where it can, and wraps other errors.
        if "KeyboardInterrupt" in str(error):
            raise _interrupted(job) from error
        raise _failed(job, worker_error(str(error) or type(error).__name__)) from error


def _run_here(pipeline: beam.Pipeline) -> PipelineResult:
    result = pipeline.run()
    result.wait_until_finish()
    return result


def _follow(job: ScoringJob, name: str, cluster: FlinkCluster, show: ShowCounts) -> None:
    """Waits until a job on a cluster ends or can no longer succeed; an error here cancels the job."""
    with contextlib.ExitStack() as undo:
        undo.callback(cluster.cancel, name)
        for state in cluster.follow(name):
            show(state.counts)
            worker_failure = failure(state.failures, ended=state.state == "FAILED")
            if worker_failure is not None:
                raise _failed(job, worker_failure)
        undo.pop_all()


def _cancel(job: ScoringJob, target: Target, result: PipelineResult) -> None:
    """Cancels a job that still runs elsewhere; the local runner ends with the interruption and gives no result."""
    try:
        if target.cluster is not None:
            # Flink may have accepted the job before its answer reached this process.
            target.cluster.cancel(target.name, wait=result is None)
        elif result is not None:
            result.cancel()
    except RUNNER_LOST as error:
        raise runner_lost(job.execution.runner, error) from error


def _failed(job: ScoringJob, worker_failure: WorkerFailure) -> DensecastError:
    error_type, message = worker_failure
    return error_type(f"run {job.run_id} failed: {message}")


def _interrupted(job: ScoringJob) -> InterruptedRunError:
    table = open_delta(job.table)
    committed = table is not None and table.transaction_version(job.run_id) is not None
    if committed:
        return InterruptedRunError(f"run {job.run_id} was interrupted after it had published", where=job.output)
    return InterruptedRunError(
        f"run {job.run_id} was interrupted and published nothing",
        where=job.output,
        remedy="run it again: images whose maps were written are not scored twice",
    )


# The line of a traceback that names the error; the rest, to the end, is its message.
_RAISED = re.compile(r"^[\w.]*?(\w*(?:Error|Exception|Rejected|Interrupt))\b:? ?", re.MULTILINE)
_KINDS: dict[str, type[DensecastError]] = {
    kind.__name__: kind
    for kind in (
        *(ConflictError, TableError, StorageError, UnavailableError, OutageError, AccessError, SourceError),
        *(EngineError, ModelError, JobError, NoImagesError, SettingError, MissingExtraError),
    )
}
# A runner in Java writes its own frames around the traceback of the worker.
_FRAMES = re.compile(r"^\s+(?:at [\w.$/<>-]+\(.*|\.\.\. \d+ more)$\n?", re.MULTILINE)

_PERMANENT = {ModelError, EngineError, TableError, ConflictError, JobError, SettingError, MissingExtraError}
"""Errors that another attempt does not mend. A store or a source that fails may answer later."""
_ENOUGH = 3


def failure(failures: Sequence[str], *, ended: bool) -> WorkerFailure | None:
    """Returns the reason that a job on a cluster fails; None while it may still succeed.

    A cluster tries a failed task again many times, whatever the reason. A model that cannot be read stays unreadable.

    Args:
        failures: Why its tasks have failed so far, the last failure first.
        ended: Whether the cluster has given up.
    """
    reasons = [worker_error(text) for text in failures]
    if ended and reasons:
        return reasons[0]
    counts = Counter(reasons).items()
    return next((reason for reason, times in counts if times >= _ENOUGH and reason[0] in _PERMANENT), None)


def worker_error(text: str) -> WorkerFailure:
    r"""Returns what a worker raised, from the traceback that Beam makes its RuntimeError of.

    >>> worker_error('Traceback ...\n  File "x.py"\npipeline.errors.SourceError: a.csv: bad\n  why: so' +
    ...              " [while running 'List']")
    (<class 'pipeline.errors.SourceError'>, 'a.csv: bad\n  why: so')
    """
    text = re.sub(r"\s*\[while running .*?\]\s*$", "", _FRAMES.sub("", text).strip())
    *_, last = [None, *_RAISED.finditer(text)]
    name, message = last[1] if last else "", text[last.end() if last else 0 :].strip()
    # Beam raises some errors again, as the message of an error of its own.
    while (inner := _RAISED.match(message)) is not None and inner[1] in _KINDS:
        name, message = inner[1], message[inner.end() :]
    return _KINDS.get(name, WorkerError), message or "no reason given"
