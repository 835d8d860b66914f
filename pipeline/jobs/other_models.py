"""What becomes of the maps that another model has made, said before a run; a table is not mixed by accident."""

from __future__ import annotations

import logging

import pyarrow.dataset as pads

from pipeline.errors import TableError
from pipeline.jobs.spec import ScoringJob
from pipeline.settings import LOCAL
from pipeline.sources import list_images
from pipeline.table.image_root import newest_summaries
from pipeline.table.log import open_delta
from pipeline.table.reader import MapTable
from pipeline.table.schema import Status, strings

_log = logging.getLogger("densecast")


def check_other_models(job: ScoringJob, digest: str) -> None:
    """Says so if the last run used another model; refuses a run that would leave some of that model's maps.

    The images are listed only if the model is another one. On a cluster they are not, since this machine may not see
    them.

    Args:
        job: The job.
        digest: The digest of its model.

    Raises:
        TableError: Images that are not listed would keep the maps of another model, and `mix_models` is not given.
        SourceError: The images cannot be listed.
    """
    delta = open_delta(job.table)
    if delta is None:
        return
    runs = newest_summaries(job.table, delta)
    last = next((run["model_digest"] for run in runs if run.get("model_digest")), digest)
    if last == digest:
        return
    _log.warning(
        "the last run into %s used another model (digest %.12s): this run replaces the maps of images that it lists",
        job.output,
        last,
    )
    if job.policy.prune or job.policy.mix_models or job.execution.runner != LOCAL:
        return
    kept = _mapped_by_others(MapTable(job.table), digest)
    for image in list_images(job.images, job.listing()) if kept else ():
        kept.discard(image.uri)
    if kept:
        raise TableError(
            f"{len(kept):,} of its images are not listed, and would keep the maps of another model",
            where=job.output,
            why="the maps of two models cannot be compared, and nothing in a picture tells them apart",
            remedy="list all images; or score into a new table; give --prune to mark the others as deleted, or "
            "--mix-models to keep their maps",
        )


def _mapped_by_others(table: MapTable, digest: str) -> set[str]:
    """Returns the addresses of the images with current maps of other models."""
    columns = table.to_arrow(["uri", "status", "model_digest"])
    others = (pads.field("status") == Status.SCORED) & (pads.field("model_digest") != digest)
    return set(strings(columns.filter(others).column("uri")))
