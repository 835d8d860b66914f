"""The first images of a collection, as the model is to see them: what settings are chosen by."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

from conversion import ModelMetadata
from pipeline.decoding import Pixels
from pipeline.errors import JobError
from pipeline.recipe import Recipe
from pipeline.scorer import Limits
from pipeline.sources import list_images

IMAGES = 16
LOOKED_AT = 256


def sample(arguments: Sequence[str], metadata: ModelMetadata, recipe: Recipe, limits: Limits) -> Iterator[Pixels]:
    """The first `IMAGES` images that can be decoded whole, at the first scale that they can be scored at.

    Args:
        arguments: What `ListImages` takes; of what they list, `LOOKED_AT` images are looked at.
        metadata: The model's.
        recipe: What is made of the images.
        limits: What is read and decoded.

    Yields:
        uint8 RGB [h, w, 3].

    Raises:
        SourceError: The images cannot be listed.
        JobError: None of them can be scored.
    """
    found, side = 0, math.isqrt(limits.tile_pixels)
    with limits.loader(recipe, metadata).open() as load:
        for reference in itertools.islice(list_images(arguments), LOOKED_AT):
            pixels = next((view.pixels for view in load(reference).views if view.pixels is not None), None)
            if pixels is not None:
                yield pixels[:side, :side]  # what is scored in tiles: a corner of it
                found += 1
                if found == IMAGES:
                    return
    if not found:
        raise JobError(
            f"none of the first {LOOKED_AT} images can be decoded whole and scored",
            why="the form of the maps is chosen on a sample of them",
            remedy="name the form with --scores instead of --accuracy-bound",
        )
