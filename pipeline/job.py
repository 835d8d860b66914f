"""A scoring job: its validated description, and running it."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from conversion import ModelMetadata, read_metadata
from conversion.errors import DensecastError, ModelError
from pipeline import credentials, progress, storage
from pipeline.accuracy import Choice, choose_form
from pipeline.decoding import DecodeLimits
from pipeline.engines import TensorFlowEngine
from pipeline.errors import EngineError, InterruptedRunError, JobError, SourceError, TableError
from pipeline.files import check_root
from pipeline.maps import DEFAULT_K
from pipeline.publishing import FOLDER, ConflictError, RunSummary, open_delta, read_summary
from pipeline.recipe import Form, Recipe
from pipeline.runners import LOCAL, open_runner
from pipeline.sampling import sample
from pipeline.scorer import Limits
from pipeline.scoring import ScoreImages, new_run_id
from pipeline.sources import ListImages
from pipeline.storage import StorageError, UnavailableError
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
        images: Folders, files, glob patterns, archives, or manifests (`@list.csv`).
        output: The table to write to; made if there is none.
        top_k: Classes a cell keeps, at least 1.
        scores: How much of a map is kept besides: top-k (nothing), log-uint8, float16 or float32 (all probabilities).
        accuracy_bound: Instead of `scores`: how far a probability that is read back may be off, 0 to 1; the smallest
            form that keeps this on a sample of the images is taken.
        features: Blobs to keep beside the map, as `fc7` or `fc7:float16`.
        scales: One map for each of these enlargements of an image.
        resize: The length that an image's shorter side is brought to first, or (height, width).
        max_side: No side of an image is longer than so many pixels then.
        retry_rejected: Try images again that were rejected and have not changed.
        rescore: Score all images again.
        prune: Mark the table's images that are not among `images` as deleted.
        max_pruned: The share of the table's images, 0 to 1, that may be marked so.
        max_rejected: The share of images, 0 to 1, that may be rejected before the run counts as failed.
        runner: `local`, or the name of a Beam runner.
        beam_options: Flags passed on to Beam as they are.
        max_pixels: Larger images are rejected from their header, if they cannot be read by window.
        max_image_bytes: Larger files are rejected unread.
        tile_pixels: Larger images are cut into tiles of at most so many pixels.
        decode_timeout: Seconds that the decoding of one image may take.
        run_id: Names the run.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    images: tuple[str, ...] = Field(min_length=1)
    output: str = Field(min_length=1)
    top_k: int = Field(default=DEFAULT_K, ge=1)
    scores: Form = Form.TOP_K
    accuracy_bound: float | None = Field(default=None, gt=0, lt=1)
    features: tuple[str, ...] = ()
    scales: tuple[float, ...] = (1.0,)
    resize: int | tuple[int, int] | None = None
    max_side: int | None = None
    retry_rejected: bool = False
    rescore: bool = False
    prune: bool = False
    max_pruned: float = Field(default=0.5, ge=0, le=1)
    max_rejected: float = Field(default=0.05, ge=0, le=1)
    runner: str = LOCAL
    beam_options: tuple[str, ...] = ()
    max_pixels: int = Field(default=Limits().decode.max_pixels, ge=1)
    max_image_bytes: int = Field(default=Limits().max_image_bytes, ge=1)
    tile_pixels: int = Field(default=Limits().tile_pixels, ge=1)
    decode_timeout: float = Field(default=Limits().decode_timeout_s, gt=0)
    run_id: str = Field(default_factory=new_run_id)

    @field_validator("max_rejected", "max_pruned", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        return share(value) if isinstance(value, str) else value

    def recipe(self) -> Recipe:
        """What is made of every image."""
        return Recipe(
            form=self.scores,
            k=self.top_k,
            features=self.features,
            scales=self.scales,
            resize=self.resize,
            max_side=self.max_side,
        )

    def limits(self) -> Limits:
        """What is read and decoded."""
        return Limits(
            decode=DecodeLimits(max_pixels=self.max_pixels),
            max_image_bytes=self.max_image_bytes,
            tile_pixels=self.tile_pixels,
            decode_timeout_s=self.decode_timeout,
        )


def describe_job(**values: Any) -> ScoringJob:
    """A ScoringJob; raises JobError that names every field that is wrong."""
    try:
        job = ScoringJob(**values)
        _ = job.recipe().scaling  # refuses sizes that are out of range
        return job
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise JobError(f"the job is not valid: {problems}") from error


@dataclasses.dataclass(frozen=True)
class JobResult:
    """What a run did.

    Attributes:
        summary: What it has published.
        seconds: From the first listing to the commit.
        failed: Whether more images than the job allows have no map.
        choice: The form of the maps and what it was chosen by, where the job left that open.
    """

    summary: RunSummary
    seconds: float
    failed: bool
    choice: Choice | None = None


def run_job(job: ScoringJob, watch: Callable[[str], progress.Watch] = progress.Watch) -> JobResult:
    """Runs a job to its end and says what it did.

    Raises:
        ModelError: The model cannot be read.
        TableError: The output cannot be a table, or the commit failed; ConflictError where another run has published
            the same images meanwhile, so that this one has only to be repeated.
        StorageError: The table cannot be written.
        SourceError: The images cannot be listed.
        JobError: The pipeline failed in another way.
    """
    metadata = read_metadata(job.model)
    if job.runner != LOCAL:
        credentials.current().check_travels(job.runner)
    check_root(job.output)
    check_folder(job.output)
    runner = open_runner(job.runner)
    with watch("scoring") as watching:
        about: dict[str, Any] = {"job": job.model_dump(mode="json")}
        choice = None
        if job.accuracy_bound is not None:
            choice = _choose_form(job, metadata, job.accuracy_bound)
            job = job.model_copy(update={"scores": choice.form})
            about["accuracy"] = choice.model_dump(mode="json")
        _run_pipeline(job, runner, about)
        seconds = watching.seconds()
    summary = read_summary(job.output, job.run_id)
    return JobResult(summary, seconds, too_many_rejected(job, summary), choice)


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
    if storage.is_remote(output):
        storage.list_files(output)  # wrong credentials are found out now, not when the first part is written
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


def _choose_form(job: ScoringJob, metadata: ModelMetadata, bound: float) -> Choice:
    """The form of the maps: the one that the table's maps have by the same bound, or chosen on a sample."""
    for run in reversed(MapTable(job.output).runs()) if open_delta(job.output) is not None else ():
        same = run.get("model_digest") == metadata.digest and run.get("recipe", {}).get("k") == job.top_k
        if same and run.get("accuracy", {}).get("bound") == bound:
            # Another form would have all images scored again.
            return Choice.model_validate(run["accuracy"])
    engine = TensorFlowEngine(job.model, job.top_k, Form.FLOAT32)
    return choose_form(engine, sample(job.images, metadata, job.recipe(), job.limits()), bound, job.top_k)


def _run_pipeline(job: ScoringJob, runner: Any, about: dict[str, Any]) -> None:
    # An empty list, not None: without flags Beam would read this process's own command line.
    options = PipelineOptions(list(job.beam_options))
    pipeline = beam.Pipeline(runner=runner, options=options)
    _ = (
        pipeline
        | "List images" >> ListImages(list(job.images))
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
            summary=about,
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
        kind, message = worker_error(str(error)) if str(error) else (JobError, type(error).__name__)
        raise kind(f"run {job.run_id} failed: {message}") from error


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
    for kind in (ConflictError, TableError, StorageError, UnavailableError, SourceError, EngineError, ModelError)
}


def worker_error(text: str) -> tuple[type[DensecastError], str]:
    r"""What a worker raised, its kind and message, from the traceback that Beam makes its RuntimeError of.

    >>> worker_error('Traceback ...\n  File "x.py"\npipeline.errors.SourceError: a.csv: bad\n  why: so' +
    ...              " [while running 'List']")
    (<class 'pipeline.errors.SourceError'>, 'a.csv: bad\n  why: so')
    """
    text = re.sub(r"\s*\[while running .*?\]\s*$", "", text.strip())
    *_, last = [None, *_RAISED.finditer(text)]
    message = text[last.end() if last else 0 :].strip() or "no reason given"
    return _KINDS.get(last[1] if last else "", JobError), message
