"""`ScoreImages`: the whole job as a PTransform that others can put into their own pipelines."""

from __future__ import annotations

import functools
import os
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import apache_beam as beam

from conversion import read_metadata
from pipeline import progress
from pipeline.batching import BatchBudget
from pipeline.decoding import DecodeLimits
from pipeline.engines import OpenEngine, TensorFlowEngine
from pipeline.errors import JobError
from pipeline.inference import PublishFn, ScoreFn
from pipeline.maps import DEFAULT_K
from pipeline.parts import FLUSH_BYTES, check_run_id
from pipeline.recipe import Form, Recipe
from pipeline.sources import ImageReference

MAX_IMAGE_BYTES = 512 * 2**20


class ScoreImages(beam.PTransform):
    """PCollection[ImageReference] -> PCollection[Published] of one element, the run's.

    References are shuffled, never pixels; after the shuffle one fused stage reads, decodes, infers and writes part
    files; their receipts are published in one Delta transaction. For bounded, globally windowed collections.

    Args:
        model: A model directory that `conversion.convert` wrote; workers must reach it under the same name.
        output: The table to write, a local path or `scheme://`.
        k: How many classes a cell keeps.
        form: How much of a map is kept besides.
        run_id: Names the run; a repeated run id publishes nothing new. Made up from the time by default.
        limits: What is decoded at all.
        budget: Of batches.
        max_image_bytes: Larger files are refused unread.
        flush_bytes: Size of gathered rows at which a part file is written.
        summary: Anything to keep with the run, as JSON.
        open_engine: Makes the engine on the worker; TensorFlow by default.

    Raises:
        ModelError: `model` is no model.
        JobError: An argument is out of range.
        TableError: The run id cannot be part of a file name.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        output: str | os.PathLike[str],
        *,
        k: int = DEFAULT_K,
        form: Form = Form.TOP_K,
        run_id: str = "",
        limits: DecodeLimits | None = None,
        budget: BatchBudget | None = None,
        max_image_bytes: int = MAX_IMAGE_BYTES,
        flush_bytes: int = FLUSH_BYTES,
        summary: Mapping[str, Any] | None = None,
        open_engine: OpenEngine | None = None,
    ) -> None:
        super().__init__()
        model, output = os.fspath(model), os.fspath(output)
        if k < 1:
            raise JobError(f"k is {k}", why="a cell keeps at least one class")
        self.run_id = run_id or new_run_id()
        check_run_id(self.run_id)
        metadata = read_metadata(model)
        recipe = Recipe(metadata.digest, form=form, k=k)
        self._score = ScoreFn(
            open_engine or functools.partial(TensorFlowEngine, model, k, form),
            output,
            self.run_id,
            recipe,
            limits=limits or DecodeLimits(),
            budget=budget or BatchBudget(),
            max_image_bytes=max_image_bytes,
            flush_bytes=flush_bytes,
        )
        self._publish = PublishFn(output, self.run_id, metadata.model_dump(mode="json"), dict(summary or {}))

    def expand(self, references: Any) -> Any:
        """See the class."""
        return (
            references
            | "Count listed" >> beam.Map(_count_listed).with_output_types(ImageReference)
            | "Shuffle references" >> beam.Reshuffle()
            | "Decode, infer, write" >> beam.ParDo(self._score)
            | "Gather receipts" >> beam.combiners.ToList()
            | "Publish" >> beam.ParDo(self._publish)
        )


def new_run_id() -> str:
    """A run's name: when it began, in UTC, and a few random letters; names sort by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(3)}"


def _count_listed(reference: ImageReference) -> ImageReference:
    progress.count(progress.LISTED)
    return reference
