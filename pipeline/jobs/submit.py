"""Builds the pipeline of a job, hands it to its runner, and waits for its end."""

from __future__ import annotations

import contextlib
import re
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from conversion.errors import DensecastError, MissingExtraError, ModelError
from pipeline.errors import EngineError, InterruptedRunError, JobError, SourceError, TableError, WorkerError
from pipeline.jobs.calibrate import Calibration
from pipeline.runners.flink import FlinkCluster
from pipeline.runners.registry import RUNNER_LOST, beam_flags, open_runner, runner_lost
from pipeline.storage.errors import StorageError, UnavailableError
from pipeline.table.commit import ConflictError
from pipeline.table.log import open_delta
from pipeline.transforms.list_images import ListImages
from pipeline.transforms.score_images import ScoreImages

if TYPE_CHECKING:
    from pipeline.jobs.spec import ScoringJob


Told: TypeAlias = tuple[type[DensecastError], str]
"""What a worker raised: its kind and message."""


class Target(NamedTuple):
    """Where a job runs.

    Attributes:
        runner: Beam's.
        flags: Beam's.
        name: What a cluster calls the job.
        cluster: The cluster that is watched meanwhile.
    """

    runner: Any
    flags: Sequence[str]
    name: str
    cluster: FlinkCluster | None = None


def open_target(job: ScoringJob) -> Target:
    """Looks whether a job could run where it wants to, before anything else is done.

    Raises:
        JobError: There is no such runner, or its cluster does not answer.
    """
    # A night that is tried again has the run id of before, and a cluster remembers jobs that have failed.
    runner, name = open_runner(job.runner), f"densecast-{job.run_id}-{secrets.token_hex(3)}"
    if not job.flink_master:
        return Target(runner, beam_flags(runner, job.beam_options), name)
    cluster = FlinkCluster(job.flink_master)
    return Target(runner, cluster.flags(job.beam_options, name), name, cluster)


def build_pipeline(settled: Calibration, pipeline: beam.Pipeline, *, check: bool = True) -> beam.Pipeline:
    """Puts a job's transforms into a pipeline.

    Args:
        settled: What is to be done.
        pipeline: An empty one, with its runner and options.
        check: Look for the images here first, for an early error; only where this machine can read them.

    Returns:
        The pipeline.

    Raises:
        DensecastError: The model or the images cannot be read.
    """
    job = settled.job
    _ = (
        pipeline
        | "List images" >> ListImages(list(job.images), check=check)
        | "Score images"
        >> ScoreImages(
            job.model,
            job.output,
            job.recipe(),
            retry_rejected=job.retry_rejected,
            rescore=job.rescore,
            prune=job.prune,
            max_pruned=job.max_pruned,
            run_id=job.run_id,
            limits=job.limits(),
            summary=settled.about(),
            device=job.device,
            compiled=settled.compiled,
        )
    )
    return pipeline


def submit(settled: Calibration, target: Target, show: Callable[[Mapping[str, int]], None]) -> Any:
    """Runs a job's pipeline to its end.

    Args:
        settled: What is to be done.
        target: Where.
        show: Takes what a cluster has counted so far; the local runner counts in this process.

    Returns:
        Beam's own result.

    Raises:
        InterruptedRunError: It was interrupted; a job on a cluster is cancelled then.
        DensecastError: The kind of what a worker raised; JobError for what is not ours.
    """
    job = settled.job
    # A list, if an empty one: without flags Beam would read this process's own command line.
    options = PipelineOptions(list(target.flags))
    pipeline = build_pipeline(settled, beam.Pipeline(runner=target.runner, options=options))
    result = None
    try:
        result = pipeline.run()
        if target.cluster is not None:
            _follow(job, target.name, target.cluster, show)
        result.wait_until_finish()
        return result
    except KeyboardInterrupt as error:
        _cancel(job, target, result)
        raise _interrupted(job) from error
    except RUNNER_LOST as error:
        raise runner_lost(job.runner, error) from error
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, OSError) as error:
        # The runner in this process keeps the type of what a worker raised where it can, and wraps the rest.
        if "KeyboardInterrupt" in str(error):
            raise _interrupted(job) from error
        raise _failed(job, worker_error(str(error) or type(error).__name__)) from error


def _follow(job: ScoringJob, name: str, cluster: FlinkCluster, show: Callable[[Mapping[str, int]], None]) -> None:
    """Waits until a cluster is done with a job, or there is no hope for it; no error here leaves it running."""
    with contextlib.ExitStack() as undo:
        undo.callback(cluster.cancel, name)
        for state in cluster.follow(name):
            show(state.counts)
            told = failure(state.failures, ended=state.state == "FAILED")
            if told is not None:
                raise _failed(job, told)
        undo.pop_all()


def _cancel(job: ScoringJob, target: Target, result: Any) -> None:
    """Cancels what goes on elsewhere; the local runner has come back with the interruption, and gave no result."""
    try:
        if target.cluster is not None:
            # Flink may have taken the job without our having heard of it yet.
            target.cluster.cancel(target.name, wait=result is None)
        elif result is not None:
            result.cancel()
    except RUNNER_LOST as error:
        raise runner_lost(job.runner, error) from error


def _failed(job: ScoringJob, told: Told) -> DensecastError:
    kind, message = told
    return kind(f"run {job.run_id} failed: {message}")


def _interrupted(job: ScoringJob) -> InterruptedRunError:
    table = open_delta(job.output)
    done = table is not None and table.transaction_version(job.run_id) is not None
    if done:
        return InterruptedRunError(f"run {job.run_id} was interrupted after it had published", where=job.output)
    return InterruptedRunError(
        f"run {job.run_id} was interrupted and published nothing",
        where=job.output,
        remedy="run it again: the images whose maps it had written are not scored twice",
    )


# Where a traceback names what was raised; what follows, to the end, is its message.
_RAISED = re.compile(r"^[\w.]*?(\w*(?:Error|Exception|Rejected|Interrupt))\b:? ?", re.MULTILINE)
_KINDS: dict[str, type[DensecastError]] = {
    kind.__name__: kind
    for kind in (
        *(ConflictError, TableError, StorageError, UnavailableError, SourceError, EngineError, ModelError),
        *(JobError, MissingExtraError),
    )
}
# Of a runner in Java: its own frames, around the traceback of the worker.
_FRAMES = re.compile(r"^\s+(?:at [\w.$/<>-]+\(.*|\.\.\. \d+ more)$\n?", re.MULTILINE)

_LASTING = {ModelError, EngineError, TableError, ConflictError, JobError, MissingExtraError}
"""What another attempt will not mend; storage and sources may be back in a while."""
_ENOUGH = 3


def failure(failures: Sequence[str], *, ended: bool) -> Told | None:
    """What a job on a cluster fails of; None while there is hope.

    A cluster tries again what failed, many times, whatever the reason; a model that cannot be read stays so.

    Args:
        failures: Why its tasks have failed so far, the last one first.
        ended: Whether the cluster has given up.
    """
    told = [worker_error(text) for text in failures]
    if ended and told:
        return told[0]
    return next((one for one, times in Counter(told).items() if times >= _ENOUGH and one[0] in _LASTING), None)


def worker_error(text: str) -> Told:
    r"""What a worker raised, its kind and message, from the traceback that Beam makes its RuntimeError of.

    >>> worker_error('Traceback ...\n  File "x.py"\npipeline.errors.SourceError: a.csv: bad\n  why: so' +
    ...              " [while running 'List']")
    (<class 'pipeline.errors.SourceError'>, 'a.csv: bad\n  why: so')
    """
    text = re.sub(r"\s*\[while running .*?\]\s*$", "", _FRAMES.sub("", text).strip())
    *_, last = [None, *_RAISED.finditer(text)]
    name, message = last[1] if last else "", text[last.end() if last else 0 :].strip()
    # Beam raises some of them again, as the message of an error of its own.
    while (inner := _RAISED.match(message)) is not None and inner[1] in _KINDS:
        name, message = inner[1], message[inner.end() :]
    return _KINDS.get(name, WorkerError), message or "no reason given"
