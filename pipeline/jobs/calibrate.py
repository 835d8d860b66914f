"""What a run chooses before it starts, on the first images of the collection: form, precision, and shapes for XLA.

A run into a table whose last maps were made by the same settings takes over the choice of that time. Measured on other
images it might come out differently, and another form means that all images are scored again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from conversion import ModelMetadata
from pipeline.engines import Engine, EngineFactory, counts_of
from pipeline.engines.base import BatchShape
from pipeline.images.samples import Pixels
from pipeline.jobs.spec import ScoringJob
from pipeline.maps.recipe import Form, Precision
from pipeline.maps.tiling import cut
from pipeline.scoring.calibration.form import Choice, choose_form
from pipeline.scoring.calibration.parity import Parity, measure_parity
from pipeline.scoring.calibration.sample import sample, sample_sizes
from pipeline.scoring.calibration.xla_shapes import coming_shapes
from pipeline.scoring.engine_choice import EngineChoice
from pipeline.settings import EngineName
from pipeline.sources import list_images
from pipeline.table.log import open_delta
from pipeline.table.reader import MapTable

BEGAN_AT = "began_at"
"""The entry of a run's summary that says when the run began to list its images, ISO 8601."""

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Calibration:
    """A job whose open settings have values.

    Attributes:
        job: The job, with the form of its maps.
        engine: The engine of the run; None where it is not decided yet: `ScoreImages` decides it.
        choice: What the form was chosen by; None where the job names it.
        parity: What the job's precision does to the maps; None in float32.
        compiled: The batches that XLA compiles; empty without XLA.
        began_at: When this was made: before the run lists its images.
    """

    job: ScoringJob
    engine: EngineChoice | None = None
    choice: Choice | None = None
    parity: Parity | None = None
    compiled: tuple[BatchShape, ...] = ()
    began_at: datetime = dataclasses.field(default_factory=lambda: datetime.now(UTC))

    def summary(self) -> dict[str, object]:
        """Returns what the run's summary keeps of it, as JSON."""
        summary: dict[str, object] = {
            "job": self.job.as_json(),
            BEGAN_AT: self.began_at.isoformat(timespec="seconds"),
        }
        if self.choice is not None:
            summary["accuracy"] = self.choice.model_dump(mode="json")
        if self.parity is not None:
            summary["parity"] = self.parity.model_dump(mode="json")
        if self.job.execution.xla:
            summary["compiled"] = [list(shape) for shape in self.compiled]
        return summary


def calibrate(job: ScoringJob, metadata: ModelMetadata, engine: EngineChoice) -> Calibration:
    """Chooses what a job leaves open.

    Args:
        job: The job.
        metadata: The model's.
        engine: The engine of the run.

    Raises:
        ParityError: The job's precision changes the maps by more than it allows.
        EngineError: The engine failed, or there is no GPU where one is asked for.
        SourceError: The images cannot be listed.
        JobError: None of the first images can be scored.
    """
    whole = job
    if job.policy.allow_empty and job.leaves_open:
        listed = tuple(argument for argument in job.images if _has_images(job, argument))
        if not listed:
            return Calibration(job, engine)  # nothing is scored, so nothing is chosen; the next run with images chooses
        job = dataclasses.replace(job, images=listed)
    calibration = _calibrate(job, metadata, engine)
    return dataclasses.replace(calibration, job=dataclasses.replace(calibration.job, images=whole.images))


def _has_images(job: ScoringJob, argument: str) -> bool:
    return next(list_images([argument], job.listing()), None) is not None


def _calibrate(job: ScoringJob, metadata: ModelMetadata, engine: EngineChoice) -> Calibration:
    """Chooses what a job leaves open; each of its arguments has images."""
    parity = choice = None
    compiled: tuple[BatchShape, ...] = ()
    if job.recipe.precision is not Precision.FLOAT32:
        parity = _parity(job, metadata, engine)
        parity.check()
    if job.recipe.accuracy_bound is not None:
        choice = _choice(job, metadata, engine, job.recipe.accuracy_bound)
        job = dataclasses.replace(job, recipe=dataclasses.replace(job.recipe, scores=choice.form))
    if job.execution.xla:
        compiled = _shapes(job, metadata)
        _log.info("XLA compiles %s", ", ".join("x".join(map(str, shape)) for shape in compiled) or "nothing")
    return Calibration(job, engine, choice, parity, compiled)


def _earlier(job: ScoringJob, metadata: ModelMetadata) -> Iterator[Mapping[str, Any]]:
    """Yields the summaries of the table's runs with this model, the newest first."""
    for run in reversed(MapTable(job.table).runs()) if open_delta(job.table) is not None else ():
        if run.get("model_digest") == metadata.digest:
            yield run


def _choice(job: ScoringJob, metadata: ModelMetadata, engine: EngineChoice, bound: float) -> Choice:
    """Returns the form of the table's maps if it was chosen by the same bound, or the form that a sample asks for."""
    settings = job.recipe
    for run in _earlier(job, metadata):
        recipe, accuracy = run.get("recipe", {}), run.get("accuracy", {})
        same_precision = recipe.get("precision", Precision.FLOAT32) == settings.precision
        if same_precision and recipe.get("k") == settings.top_k and accuracy.get("bound") == bound:
            return Choice.model_validate(run["accuracy"])
    return choose_form(_engine(job, engine, settings.precision), _sample(job, metadata), bound, settings.top_k)


def _parity(job: ScoringJob, metadata: ModelMetadata, engine: EngineChoice) -> Parity:
    """Returns what was measured for the table's maps by the same bounds, or measures it now on a sample."""
    precision = job.recipe.precision
    bounds = {"max_error": job.execution.max_parity_error, "max_flips": job.execution.max_parity_flips}
    for run in _earlier(job, metadata):
        measured = run.get("parity", {})
        by = run.get("engine", {}).get("name", EngineName.TENSORFLOW)  # runs of before had no other
        if (
            by == engine.engine
            and measured.get("precision") == precision
            and all(measured.get(name) == bounds[name] for name in bounds)
        ):
            return Parity.model_validate(measured)
    exact, narrow = _engine(job, engine, Precision.FLOAT32), _engine(job, engine, precision)
    parity = measure_parity(exact, narrow, _sample(job, metadata), precision)
    devices = [name.removeprefix("devices.") for name in counts_of(narrow) if name.startswith("devices.")]
    return parity.model_copy(update={**bounds, "devices": tuple(sorted(devices))})


def _shapes(job: ScoringJob, metadata: ModelMetadata) -> tuple[BatchShape, ...]:
    """Returns the shapes of the table's last run with XLA, or those of a sample: a shape is computed in one way."""
    most = job.execution.xla_shapes
    if not job.recipe.scales:  # windows are run without XLA
        return ()
    for run in _earlier(job, metadata):
        if run.get("compiled") and run.get("job", {}).get("xla_shapes") == most:
            return tuple((int(n), int(height), int(width)) for n, height, width in run["compiled"])
    limits, alignment = job.worker_limits(), metadata.alignment

    def tiles(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for tile in (
            cut(*size, metadata.geometry, tile_pixels=limits.tile_pixels, alignment=alignment) if alignment else ()
        ):
            yield tile.bottom - tile.top, tile.right - tile.left

    sizes = sample_sizes(job.images, metadata, job.map_recipe(), limits, how=job.listing())
    return coming_shapes(sizes, tiles, limits.budget, tile_pixels=limits.tile_pixels, most=most)


def _engine(job: ScoringJob, engine: EngineChoice, precision: Precision) -> Engine:
    """Opens the model so that it gives all probabilities, and no features."""
    recipe = dataclasses.replace(job.map_recipe(), precision=precision, form=Form.FLOAT32, features=(), windows=None)
    return EngineFactory(job.model, recipe, engine.engine, job.launcher_device())()


def _sample(job: ScoringJob, metadata: ModelMetadata) -> Iterator[Pixels]:
    return sample(job.images, metadata, job.map_recipe(), job.worker_limits(), how=job.listing())
