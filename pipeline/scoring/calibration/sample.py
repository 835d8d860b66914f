"""The sample by which settings are chosen: the first images of a collection, as the model sees them."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

from conversion import ModelMetadata
from pipeline.errors import JobError
from pipeline.images.multiscale import ScaledImage
from pipeline.images.samples import Pixels
from pipeline.maps.recipe import Recipe
from pipeline.scoring.scorer import Limits
from pipeline.sources import Listing, list_images

IMAGES = 16
EXAMINED = 256


def sample(
    arguments: Sequence[str],
    metadata: ModelMetadata,
    recipe: Recipe,
    limits: Limits,
    *,
    how: Listing | None = None,
) -> Iterator[Pixels]:
    """Yields the first `IMAGES` images that can be decoded whole, at the first scale at which they can be scored.

    Args:
        arguments: The arguments of `ListImages`. The first `EXAMINED` images are examined.
        metadata: The model's.
        recipe: How maps are computed and stored.
        limits: Limits on what is read and decoded.
        how: How they are listed.

    Yields:
        uint8 RGB [h, w, 3].

    Raises:
        SourceError: The images cannot be listed.
        JobError: None of them can be scored.
    """
    side = math.isqrt(limits.tile_pixels)
    whole = (
        next((image.pixels for image in images if image.pixels is not None), None)
        for images in _scaled(arguments, metadata, recipe, limits, how=how)
    )
    count = 0
    for pixels in itertools.islice((p for p in whole if p is not None), IMAGES):
        yield pixels[:side, :side]  # of an image that is scored in tiles, a corner
        count += 1
    if not count:
        raise JobError(
            f"none of the first {EXAMINED} images can be decoded whole and scored",
            why="a sample of them is needed to choose settings of the run",
            remedy="give images that can be scored; or name the form with --scores instead of --accuracy-bound, and "
            "score in float32",
        )


def sample_sizes(
    arguments: Sequence[str],
    metadata: ModelMetadata,
    recipe: Recipe,
    limits: Limits,
    *,
    how: Listing | None = None,
) -> Iterator[tuple[int, int]]:
    """Yields (height, width) at every scale of the first images that can be scored, at most `4 * IMAGES`; see `sample`.

    Raises:
        SourceError: The images cannot be listed.
    """
    scored = (
        [(image.height, image.width) for image in images if image.rejected is None]
        for images in _scaled(arguments, metadata, recipe, limits, how=how)
    )
    for sizes in itertools.islice((sizes for sizes in scored if sizes), 4 * IMAGES):
        yield from sizes


def _scaled(
    arguments: Sequence[str],
    metadata: ModelMetadata,
    recipe: Recipe,
    limits: Limits,
    *,
    how: Listing | None = None,
) -> Iterator[Sequence[ScaledImage]]:
    how = how or Listing()
    # Windows are not measured: they are computed by the same net as maps of the whole image.
    recipe = dataclasses.replace(recipe, windows=None, scales=recipe.scales or (1.0,))
    with limits.loader(recipe, metadata, how.options).open() as load:
        for reference in itertools.islice(list_images(arguments, how), EXAMINED):
            yield load(reference).images
