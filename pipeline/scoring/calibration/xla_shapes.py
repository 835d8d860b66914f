"""Predicts the shapes of batches from the first images, so that XLA compiles them before the run.

Pure: sizes in, shapes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from pipeline.engines.base import BatchShape
from pipeline.scoring.batching import BatchBudget, Shape, batch_size
from pipeline.settings import ExecutionSettings

DEFAULT_SHAPES = ExecutionSettings.xla_shapes


def coming_shapes(
    sizes: Iterable[Shape],
    tiles: Callable[[Shape], Iterable[Shape]],
    budget: BatchBudget,
    *,
    tile_pixels: int,
    most: int = DEFAULT_SHAPES,
) -> tuple[BatchShape, ...]:
    """Returns the most expensive shapes, by the pixels that the network processes in them.

    Args:
        sizes: (height, width) of each image of the sample, at each scale.
        tiles: Returns the sizes of the tiles that a larger image is cut into.
        budget: The size of batches.
        tile_pixels: Images with more pixels are cut into tiles.
        most: The most shapes to return: each takes seconds and memory to compile, in every process.

    Returns:
        (images, height, width), in order of size.

    >>> sizes = [(227, 227), (451, 451), (227, 227)]
    >>> coming_shapes(sizes, lambda size: [size], BatchBudget(), tile_pixels=2**22, most=2)
    ((1, 451, 451), (3, 227, 227))
    """
    pixels: Counter[BatchShape] = Counter()
    for size in sizes:
        if size[0] * size[1] > tile_pixels:
            for height, width in tiles(size):
                pixels[1, height, width] += height * width
        else:
            pixels[batch_size(size, budget), *size] += size[0] * size[1]
    ranked = sorted(pixels, key=lambda shape: (-pixels[shape], shape))
    return tuple(sorted(ranked[:most]))
