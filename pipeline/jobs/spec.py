"""The description of a scoring job."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.engines.devices import AUTO, check_wanted
from pipeline.errors import JobError
from pipeline.images.decode import DecodeLimits
from pipeline.maps.classification_map import DEFAULT_K
from pipeline.maps.recipe import Form, Precision, Recipe
from pipeline.runners.flink import RUNNER as FLINK
from pipeline.runners.registry import LOCAL
from pipeline.scoring.calibration.parity import DEFAULT_ERROR, DEFAULT_FLIPS
from pipeline.scoring.calibration.xla_shapes import DEFAULT_SHAPES
from pipeline.scoring.scorer import Limits
from pipeline.transforms.score_images import new_run_id
from pipeline.units import parse_share


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
        flink_master: The REST address of a Flink cluster, `host:port`; needed by FlinkRunner, and by it alone.
        beam_options: Flags passed on to Beam as they are.
        max_pixels: Larger images are rejected from their header, if they cannot be read by window.
        max_image_bytes: Larger files are rejected unread.
        tile_pixels: Larger images are cut into tiles of at most so many pixels.
        decode_timeout: Seconds that the decoding of one image may take.
        device: What workers compute on: auto (GPUs, or the CPU where there are none), cpu, gpu, or gpu:1.
        precision: What the net computes in.
        max_parity_error: How far that may change a probability of the first images, 0 to 1, before the run is refused.
        max_parity_flips: The share of their cells, 0 to 1, whose best class it may change.
        xla: Have XLA compile the net, for the shapes of batches that the first images have.
        xla_shapes: How many shapes at most.
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
    flink_master: str | None = None
    beam_options: tuple[str, ...] = ()
    max_pixels: int = Field(default=Limits().decode.max_pixels, ge=1)
    max_image_bytes: int = Field(default=Limits().max_image_bytes, ge=1)
    tile_pixels: int = Field(default=Limits().tile_pixels, ge=1)
    decode_timeout: float = Field(default=Limits().decode_timeout_s, gt=0)
    device: str = AUTO
    precision: Precision = Precision.FLOAT32
    max_parity_error: float = Field(default=DEFAULT_ERROR, ge=0, le=1)
    max_parity_flips: float = Field(default=DEFAULT_FLIPS, ge=0, le=1)
    xla: bool = False
    xla_shapes: int = Field(default=DEFAULT_SHAPES, ge=1)
    run_id: str = Field(default_factory=new_run_id)

    @field_validator("max_rejected", "max_pruned", "max_parity_flips", mode="before")
    @classmethod
    def _share(cls, value: object) -> object:
        return parse_share(value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _cluster(self) -> ScoringJob:
        if self.runner == FLINK and not self.flink_master:
            raise ValueError(f"{FLINK} needs the address of a cluster: give flink-master")
        if self.flink_master and self.runner != FLINK:
            raise ValueError(f"flink-master is for the runner {FLINK} only, not for {self.runner}")
        return self

    def recipe(self) -> Recipe:
        """What is made of every image."""
        return Recipe(
            form=self.scores,
            k=self.top_k,
            precision=self.precision,
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

    def device_here(self) -> str:
        """The device of the process that starts the run: a launcher of distant workers need not have theirs."""
        return self.device if self.runner == LOCAL else AUTO


def describe_job(**values: Any) -> ScoringJob:
    """A ScoringJob; raises JobError that names every field that is wrong."""
    try:
        job = ScoringJob(**values)
        _ = job.recipe().scaling  # refuses sizes that are out of range
        check_wanted(job.device)
        return job
    except ValidationError as error:
        raise JobError(f"the job is not valid: {problems(error)}") from error


def problems(error: ValidationError) -> str:
    """What is wrong with the fields of a model, each by its name; some are wrong together."""
    told = [(".".join(map(str, found["loc"])), found["msg"].removeprefix("Value error, ")) for found in error.errors()]
    return "; ".join(": ".join(filter(None, one)) for one in told)
