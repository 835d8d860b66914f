"""A scoring job: its validated description, and running it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from conversion import ModelMetadata, read_metadata
from pipeline import progress, storage
from pipeline.decoding import DecodeLimits
from pipeline.errors import InterruptedRunError, JobError, TableError
from pipeline.maps import DEFAULT_K
from pipeline.parts import check_root
from pipeline.publishing import FOLDER, Published, open_delta, table_exists
from pipeline.recipe import Form
from pipeline.runners import LOCAL, open_runner
from pipeline.scoring import MAX_IMAGE_BYTES, ScoreImages, new_run_id
from pipeline.sources import ListImages
from pipeline.table import MapTable

_PERCENT = re.compile(r"(\d+(?:\.\d+)?)\s*(%?)")


def share(text: str) -> float:
    """A share of a whole, 0 to 1, as people write it; raises JobError.

    >>> share("5%"), share("0.05"), share("0"), share("100%")
    (0.05, 0.05, 0.0, 1.0)
    """
    match = _PERCENT.fullmatch(text.strip())
    value = float(match[1]) / (100 if match[2] else 1) if match else -1.0
    if not 0 <= value <= 1:
        raise JobError(f"{text!r} is not a share", remedy="write 5% or 0.05, between 0 and 100%")
    return value


class ScoringJob(BaseModel):
    """All that a run depends on.

    Attributes:
        model: A model directory.
        images: Folders, files, glob patterns, or manifests (`@list.csv`).
        output: The table to write.
        top_k: Classes a cell keeps, at least 1.
        scores: How much of a map is kept besides: top-k (nothing), float16 or float32 (all probabilities).
        max_rejected: The share of images, 0 to 1, that may be rejected before the run counts as failed.
        runner: `local`, or the name of a Beam runner.
        beam_options: Flags passed on to Beam as they are.
        max_pixels: Larger images are rejected from their header.
        max_image_bytes: Larger files are rejected unread.
        run_id: Names the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    images: tuple[str, ...] = Field(min_length=1)
    output: str = Field(min_length=1)
    top_k: int = Field(default=DEFAULT_K, ge=1)
    scores: Form = Form.TOP_K
    max_rejected: float = Field(default=0.05, ge=0, le=1)
    runner: str = LOCAL
    beam_options: tuple[str, ...] = ()
    max_pixels: int = Field(default=DecodeLimits().max_pixels, ge=1)
    max_image_bytes: int = Field(default=MAX_IMAGE_BYTES, ge=1)
    run_id: str = Field(default_factory=new_run_id)

    @field_validator("max_rejected", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        return share(value) if isinstance(value, str) else value


def describe_job(**values: Any) -> ScoringJob:
    """A ScoringJob; raises JobError that names every field that is wrong."""
    try:
        return ScoringJob(**values)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise JobError(f"the job is not valid: {problems}") from error


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a run did.

    Attributes:
        run_id: The run.
        published: The version it made and its rows.
        reasons: Rejected images by reason.
        seconds: From the first listing to the commit.
        failed: Whether more images than the job allows were rejected.
    """

    run_id: str
    published: Published
    reasons: dict[str, int]
    seconds: float
    failed: bool


def run_job(job: ScoringJob, watch: Callable[[str], progress.Watch] = progress.Watch) -> JobResult:
    """Runs a job to its end and says what it did.

    Raises:
        ModelError: The model cannot be read.
        TableError: The output is a table already, or the commit failed.
        SourceError: The images cannot be listed.
        JobError: The pipeline failed.
    """
    metadata = read_metadata(job.model)
    check_root(job.output)
    _check_folder(job.output)
    if open_delta(job.output) is not None:
        raise table_exists(job.output)
    runner = open_runner(job.runner)
    with watch("scoring") as watching:
        _run_pipeline(job, metadata, runner)
        seconds = watching.seconds()
    summary = json.loads(storage.read_bytes(storage.join(job.output, FOLDER, "runs", f"{job.run_id}.json")))
    published = Published(*(summary[name] for name in Published._fields))
    reasons = MapTable(job.output).counts().by_reason if published.rejected else {}
    allowed = job.max_rejected * published.rows
    return JobResult(job.run_id, published, reasons, seconds, failed=published.rejected > allowed)


def _check_folder(output: str) -> None:
    """A table goes into a folder of its own: what shares one with it may be deleted with it some day."""
    if storage.is_remote(output):
        return
    folder = storage.local_path(output)
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


def _run_pipeline(job: ScoringJob, metadata: ModelMetadata, runner: Any) -> None:
    # An empty list, not None: without flags Beam would read this process's own command line.
    options = PipelineOptions(list(job.beam_options))
    limits = DecodeLimits(max_pixels=job.max_pixels)
    pipeline = beam.Pipeline(runner=runner, options=options)
    _ = (
        pipeline
        | "List images" >> ListImages(list(job.images))
        | "Score images"
        >> ScoreImages(
            job.model,
            job.output,
            k=job.top_k,
            form=job.scores,
            run_id=job.run_id,
            limits=limits,
            max_image_bytes=job.max_image_bytes,
            summary={"job": job.model_dump(mode="json"), "model": metadata.name},
        )
    )
    try:
        pipeline.run().wait_until_finish()
    except KeyboardInterrupt as error:
        raise _interrupted(job) from error
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError, OSError) as error:
        # The runner in this process keeps the type of what a worker raised where it can, and wraps the rest.
        if "KeyboardInterrupt" in str(error):
            raise _interrupted(job) from error
        message = worker_message(str(error)) if str(error) else type(error).__name__
        raise JobError(f"run {job.run_id} failed: {message}") from error


def _interrupted(job: ScoringJob) -> InterruptedRunError:
    done = open_delta(job.output) is not None
    what = "after it had published" if done else "and published nothing"
    return InterruptedRunError(f"run {job.run_id} was interrupted {what}", where=job.output)


# Where a traceback names what was raised; what follows, to the end, is its message.
_RAISED = re.compile(r"^[\w.]*(?:Error|Exception|Rejected|Interrupt)\b:? ?", re.MULTILINE)


def worker_message(text: str) -> str:
    r"""What a worker raised, from the traceback that Beam makes its RuntimeError of.

    >>> worker_message('Traceback ...\n  File "x.py"\npipeline.errors.SourceError: a.csv: bad\n  why: so' +
    ...                " [while running 'List']")
    'a.csv: bad\n  why: so'
    """
    text = re.sub(r"\s*\[while running .*?\]\s*$", "", text.strip())
    starts = [match.end() for match in _RAISED.finditer(text)]
    return text[starts[-1] if starts else 0 :].strip() or "no reason given"
