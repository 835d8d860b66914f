"""`ScoreImages`: the whole job as a PTransform that others can put into their own pipelines."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import apache_beam as beam

from conversion import NETWORK_FILE, ModelMetadata, load_network, read_metadata
from pipeline.engines import OpenEngine, TensorFlowEngineFactory
from pipeline.engines.xla import BatchShape
from pipeline.errors import JobError
from pipeline.maps.features import check_tileable, parse_features
from pipeline.maps.recipe import Recipe
from pipeline.maps.tiling import cut
from pipeline.scoring.scorer import UNALIGNED, Limits
from pipeline.sources.reference import resolve
from pipeline.table.part_file import FLUSH_BYTES, check_run_id
from pipeline.table.paths import check_root
from pipeline.transforms.plan_run import PlanRun
from pipeline.transforms.publish_fn import PublishFn
from pipeline.transforms.reconcile import Policy
from pipeline.transforms.score_fn import ScoreFn

_LARGE = 1 << 16  # pixels: an image that certainly has to be cut


class ScoreImages(beam.PTransform):
    """PCollection[ImageReference] -> PCollection[RunSummary] of one element, the run's.

    What is listed is joined with what the table knows, and only the difference is scored: a run that was killed is
    resumed, and an unchanged collection costs no more than its listing. References are shuffled, never pixels; after
    the shuffle one fused stage reads, decodes, infers and writes part files; their receipts are published in one Delta
    transaction. For bounded, globally windowed collections.

    Args:
        model: A model directory that `conversion.convert` wrote; workers must reach it under the same name.
        output: The table to write to, a local path or `scheme://`; made if there is none.
        recipe: What is made of every image, but for the model's digest, which is filled in; by default the top 5
            classes at scale 1. A precision is taken at its word: `measure_parity` measures its effect.
        retry_rejected: Whether images that were rejected are tried again though they have not changed.
        rescore: Whether all images are scored again.
        prune: Whether images of the table that are not among the references are marked as deleted.
        max_pruned: The share of the table's images, 0 to 1, that may be marked so before the run fails instead.
        run_id: Names the run; a repeated run id publishes nothing new. Made up from the time by default.
        limits: What is read and decoded at all, and how.
        flush_bytes: Size of gathered rows at which a part file is written.
        summary: Anything to keep with the run, as JSON.
        open_engine: Makes the engine on the worker; TensorFlow by default, on `device`.
        device: `auto` (a GPU where there is one), `cpu`, `gpu` (all of a process, or an error), `gpu:1`.
        compiled: Batches (images, rows, columns) that XLA compiles when a model is opened; others are run without it.

    Raises:
        ModelError: `model` is no model.
        JobError: An argument is out of range.
        TableError: The run id cannot be part of a file name, or the output cannot be a table's folder.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        output: str | os.PathLike[str],
        recipe: Recipe | None = None,
        *,
        retry_rejected: bool = False,
        rescore: bool = False,
        prune: bool = False,
        max_pruned: float = 0.5,
        run_id: str = "",
        limits: Limits | None = None,
        flush_bytes: int = FLUSH_BYTES,
        summary: Mapping[str, Any] | None = None,
        open_engine: OpenEngine | None = None,
        device: str = "auto",
        compiled: Sequence[BatchShape] = (),
    ) -> None:
        super().__init__()
        # Absolute here, where the user's current folder is known: workers have others.
        model, self._output = resolve(os.fspath(model)), resolve(os.fspath(output))
        if not 0 <= max_pruned <= 1:
            raise JobError(f"max_pruned is {max_pruned}", why="it is a share, from 0 to 1")
        self.run_id = run_id or new_run_id()
        check_run_id(self.run_id)
        check_root(self._output)
        metadata = read_metadata(model)
        recipe = self._recipe = (recipe or Recipe()).of_model(metadata.digest)
        self._limits = limits or Limits()
        self._policy = Policy(self._recipe.digest, self._recipe.scales, retry_rejected, rescore, prune)
        self._score = ScoreFn(
            open_engine or TensorFlowEngineFactory(model, recipe, device, tuple(compiled)),
            self._output,
            self.run_id,
            self._recipe,
            limits=self._limits,
            flush_bytes=flush_bytes,
            uncut=_uncut(model, metadata, recipe, self._limits),
        )
        self._publish = PublishFn(
            self._output,
            self.run_id,
            metadata.model_dump(mode="json"),
            summary={"recipe": self._recipe.as_json(), **(summary or {})},
            max_pruned=max_pruned,
        )

    def expand(self, references: Any) -> Any:
        """See the class."""
        planned = references | "Plan" >> PlanRun(self._output, self.run_id, self._policy, self._limits.max_image_bytes)
        receipts = (
            planned.work | "Shuffle references" >> beam.Reshuffle() | "Decode, infer, write" >> beam.ParDo(self._score)
        )
        return (
            (planned.reports, receipts)
            | "All reports" >> beam.Flatten()
            | "Gather reports" >> beam.combiners.ToList()
            | "Publish" >> beam.ParDo(self._publish)
        )


def _uncut(model: str, metadata: ModelMetadata, recipe: Recipe, limits: Limits) -> str:
    """Why images cannot be cut into tiles; empty where they can. Raises JobError if the tiles are too small."""
    if metadata.alignment is None:
        return UNALIGNED
    axes = metadata.geometry.y.axis, metadata.geometry.x.axis
    cut(_LARGE, _LARGE, axes, limits.tile_pixels, metadata.alignment)
    wanted = parse_features(recipe.features, metadata)
    try:
        if wanted:
            check_tileable(wanted, load_network(Path(model) / NETWORK_FILE), metadata.output_blob)
    except JobError as error:
        return error.what
    return ""


def new_run_id() -> str:
    """A run's name: when it began, in UTC, and a few random letters; names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"
