"""What a run settles before it starts, on the first images of the collection: form, precision, and shapes for XLA.

A run into a table whose last maps were made by the same settings takes over what was settled then: measured on other
images it might come out otherwise, and with another form all images would have to be scored again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from conversion import ModelMetadata
from pipeline.engines import TensorFlowEngineFactory, counts_of
from pipeline.engines.xla import BatchShape
from pipeline.maps.recipe import Form, Precision
from pipeline.maps.tiling import cut
from pipeline.scoring.calibration.form import Choice, choose_form
from pipeline.scoring.calibration.parity import Parity, measure_parity
from pipeline.scoring.calibration.sample import sample, sample_sizes
from pipeline.scoring.calibration.xla_shapes import coming_shapes
from pipeline.table.log import open_delta
from pipeline.table.reader import MapTable

if TYPE_CHECKING:
    from pipeline.jobs.spec import ScoringJob

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Calibration:
    """What was settled.

    Attributes:
        job: The job, with the form of its maps.
        choice: What the form was chosen by; None where the job names it.
        parity: What the job's precision does to the maps; None in float32.
        compiled: What XLA is to compile; empty without it.
    """

    job: ScoringJob
    choice: Choice | None = None
    parity: Parity | None = None
    compiled: tuple[BatchShape, ...] = ()

    def about(self) -> dict[str, Any]:
        """For the run's summary."""
        found: dict[str, Any] = {"job": self.job.model_dump(mode="json")}
        if self.choice is not None:
            found["accuracy"] = self.choice.model_dump(mode="json")
        if self.parity is not None:
            found["parity"] = self.parity.model_dump(mode="json")
        if self.job.xla:
            found["compiled"] = [list(shape) for shape in self.compiled]
        return found


def calibrate(job: ScoringJob, metadata: ModelMetadata) -> Calibration:
    """Settles what a job leaves open.

    Args:
        job: The job.
        metadata: The model's.

    Raises:
        ParityError: The job's precision changes the maps by more than it allows.
        EngineError: The engine failed, or there is no GPU where one is asked for.
        SourceError: The images cannot be listed.
        JobError: None of the first images can be scored.
    """
    parity = choice = None
    compiled: tuple[BatchShape, ...] = ()
    if job.precision is not Precision.FLOAT32:
        parity = _parity(job, metadata)
        parity.check()
    if job.accuracy_bound is not None:
        choice = _choice(job, metadata, job.accuracy_bound)
        job = job.model_copy(update={"scores": choice.form})
    if job.xla:
        compiled = _shapes(job, metadata)
        _log.info("XLA compiles %s", ", ".join("x".join(map(str, shape)) for shape in compiled) or "nothing")
    return Calibration(job, choice, parity, compiled)


def _earlier(job: ScoringJob, metadata: ModelMetadata) -> Iterator[Mapping[str, Any]]:
    """The summaries of the table's runs with this model, the newest first."""
    for run in reversed(MapTable(job.output).runs()) if open_delta(job.output) is not None else ():
        if run.get("model_digest") == metadata.digest:
            yield run


def _choice(job: ScoringJob, metadata: ModelMetadata, bound: float) -> Choice:
    """The form of the maps: the one that the table's maps have by the same bound, or chosen on a sample."""
    for run in _earlier(job, metadata):
        recipe, accuracy = run.get("recipe", {}), run.get("accuracy", {})
        same = recipe.get("precision", Precision.FLOAT32) == job.precision and recipe.get("k") == job.top_k
        if same and accuracy.get("bound") == bound:
            return Choice.model_validate(run["accuracy"])
    return choose_form(_engine(job, job.precision), _sample(job, metadata), bound, job.top_k)


def _parity(job: ScoringJob, metadata: ModelMetadata) -> Parity:
    """By the same bounds: what was measured for the table's maps, or now on a sample."""
    bounds = {"max_error": job.max_parity_error, "max_flips": job.max_parity_flips}
    for run in _earlier(job, metadata):
        found = run.get("parity", {})
        if found.get("precision") == job.precision and all(found.get(name) == bounds[name] for name in bounds):
            return Parity.model_validate(found)
    exact, narrow = _engine(job, Precision.FLOAT32), _engine(job, job.precision)
    parity = measure_parity(exact, narrow, _sample(job, metadata), job.precision)
    devices = [name.removeprefix("devices.") for name in counts_of(narrow) if name.startswith("devices.")]
    return parity.model_copy(update={**bounds, "devices": tuple(sorted(devices))})


def _shapes(job: ScoringJob, metadata: ModelMetadata) -> tuple[BatchShape, ...]:
    """The shapes that the table's last run with XLA had, or those of a sample: a shape has one way to be computed."""
    for run in _earlier(job, metadata):
        if run.get("compiled") and run.get("job", {}).get("xla_shapes") == job.xla_shapes:
            return tuple((int(n), int(height), int(width)) for n, height, width in run["compiled"])
    limits, alignment = job.limits(), metadata.alignment

    def tiles(size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        for tile in (
            cut(*size, metadata.geometry, tile_pixels=limits.tile_pixels, alignment=alignment) if alignment else ()
        ):
            yield tile.bottom - tile.top, tile.right - tile.left

    sizes = sample_sizes(job.images, metadata, job.recipe(), limits)
    return coming_shapes(sizes, tiles, limits.budget, limits.tile_pixels, job.xla_shapes)


def _engine(job: ScoringJob, precision: Precision) -> Any:
    recipe = job.model_copy(update={"precision": precision, "scores": Form.FLOAT32, "features": ()}).recipe()
    return TensorFlowEngineFactory(job.model, recipe, job.device_here())()


def _sample(job: ScoringJob, metadata: ModelMetadata) -> Any:
    return sample(job.images, metadata, job.recipe(), job.limits())
