"""The first images of a collection, as the model is to see them: what settings are chosen by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from conversion import ModelMetadata
from pipeline.errors import JobError
from pipeline.images.decode import Pixels
from pipeline.images.multiscale import ScaledImage
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits
from pipeline.sources import list_images
from pipeline.storage.options import StorageOptions

IMAGES = 16
LOOKED_AT = 256


def sample(
    arguments: Sequence[str],
    metadata: ModelMetadata,
    recipe: Recipe,
    limits: Limits,
    options: StorageOptions | None = None,
) -> Iterator[Pixels]:
    """The first `IMAGES` images that can be decoded whole, at the first scale that they can be scored at.

    Args:
        arguments: What `ListImages` takes; of what they list, `LOOKED_AT` images are looked at.
        metadata: The model's.
        recipe: What is made of the images.
        limits: What is read and decoded.
        options: How object stores are opened; None: as the environment says.

    Yields:
        uint8 RGB [h, w, 3].

    Raises:
        SourceError: The images cannot be listed.
        JobError: None of them can be scored.
    """
    side = math.isqrt(limits.tile_pixels)
    whole = (
        next((v.pixels for v in views if v.pixels is not None), None)
        for views in _views(arguments, metadata, recipe, limits, options)
    )
    found = 0
    for pixels in itertools.islice((p for p in whole if p is not None), IMAGES):
        yield pixels[:side, :side]  # what is scored in tiles: a corner of it
        found += 1
    if not found:
        raise JobError(
            f"none of the first {LOOKED_AT} images can be decoded whole and scored",
            why="what the run is to do is settled on a sample of them",
            remedy="give images that can be scored; or name the form with --scores instead of --accuracy-bound, and "
            "score in float32",
        )


def sample_sizes(
    arguments: Sequence[str],
    metadata: ModelMetadata,
    recipe: Recipe,
    limits: Limits,
    options: StorageOptions | None = None,
) -> Iterator[tuple[int, int]]:
    """(height, width) at every scale of the first images that can be scored, `IMAGES` times four at most; see `sample`.

    Raises:
        SourceError: The images cannot be listed.
    """
    scored = (
        [(view.height, view.width) for view in views if view.rejected is None]
        for views in _views(arguments, metadata, recipe, limits, options)
    )
    for sizes in itertools.islice((sizes for sizes in scored if sizes), 4 * IMAGES):
        yield from sizes


def _views(
    arguments: Sequence[str],
    metadata: ModelMetadata,
    recipe: Recipe,
    limits: Limits,
    options: StorageOptions | None = None,
) -> Iterator[Sequence[ScaledImage]]:
    with limits.loader(recipe, metadata, options).open() as load:
        for reference in itertools.islice(list_images(arguments, options), LOOKED_AT):
            yield load(reference).views
