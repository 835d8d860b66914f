"""The shapes of batches that are to come, guessed from the first images: what XLA compiles before the others flow.

Pure: sizes in, shapes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from pipeline.engines.xla import BatchShape
from pipeline.scoring.batching import BatchBudget, Shape, batch_size
from pipeline.settings import ExecutionSettings

DEFAULT_SHAPES = ExecutionSettings.xla_shapes


def coming_shapes(
    sizes: Iterable[Shape],
    tiles: Callable[[Shape], Iterable[Shape]],
    budget: BatchBudget,
    tile_pixels: int,
    most: int = DEFAULT_SHAPES,
) -> tuple[BatchShape, ...]:
    """The shapes that cost most, by the pixels that go through the net in them.

    Args:
        sizes: (height, width) of each image of the sample, at each scale.
        tiles: The sizes of the tiles that a larger image is cut into.
        budget: Of batches.
        tile_pixels: Images with more pixels are cut.
        most: How many shapes at most: each costs seconds and memory to compile, in every process.

    Returns:
        (images, height, width), in order of size.

    >>> coming_shapes([(227, 227), (451, 451), (227, 227)], lambda size: [size], BatchBudget(), 2048 * 2048, 2)
    ((1, 451, 451), (3, 227, 227))
    """
    pixels: Counter[BatchShape] = Counter()
    for size in sizes:
        if size[0] * size[1] > tile_pixels:
            for height, width in tiles(size):
                pixels[1, height, width] += height * width
        else:
            pixels[batch_size(size, budget), *size] += size[0] * size[1]
    costly = sorted(pixels, key=lambda shape: (-pixels[shape], shape))
    return tuple(sorted(costly[:most]))
