"""Measures what the bits of a map depend on: where an engine runs, on this processor, with this model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from conversion import ModelMetadata
from pipeline.engines import Engine
from pipeline.engines.base import BatchShape, ExactEngine
from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores
from pipeline.scoring.batching import BatchBudget, BatchEffect, Shape, batch_size
from pipeline.scoring.machine import recall, remember
from pipeline.settings import Rounding

_log = logging.getLogger(__name__)


def batch_effect(
    engine: Engine, rounding: Rounding, budget: BatchBudget, compiled: Sequence[BatchShape] = ()
) -> BatchEffect:
    """Returns what batches have to respect, so that maps are what `rounding` promises.

    The measurement takes four batches of each of up to three shapes: half a second for CaffeNet on two cores. It is
    kept for the next process on this machine, see `pipeline.scoring.machine`.

    Args:
        engine: The engine.
        rounding: `BOUNDED` measures nothing and respects nothing; nor does an engine that promises its bits.
        budget: The size of batches.
        compiled: Batches that XLA compiles; they are measured as well.
    """
    if rounding is Rounding.BOUNDED or (isinstance(engine, ExactEngine) and engine.exact):
        return BatchEffect.NONE
    shapes = probe_shapes(engine.metadata, budget) + [(count, (h, w)) for count, h, w in compiled if count > 1]
    key = ("batch-effect", engine.identity, engine.metadata.digest, str(shapes))
    known = recall(key)
    if known in list(BatchEffect):
        return BatchEffect(known)
    effect = measure(engine, shapes)
    _log.info("the bits of a map depend on, besides the image: %s (%s)", effect, engine.identity)
    remember(key, effect)
    return effect


def probe_shapes(metadata: ModelMetadata, budget: BatchBudget) -> list[tuple[int, Shape]]:
    """Returns up to three batches to measure, as (images, shape): the smallest images, two images, and one between.

    Shapes of which a batch has one image are left out: nothing is beside them.
    """
    least = metadata.minimum_size
    largest = int((budget.pixel_budget / 2) ** 0.5)
    between = tuple((side + max(side, largest)) // 2 for side in least)
    shapes = dict.fromkeys([least, (between[0], least[1]), (max(least[0], largest), max(least[1], largest))])
    return [(size, shape) for shape in shapes if (size := batch_size(shape, budget)) > 1]


def measure(engine: Engine, batches: Sequence[tuple[int, Shape]]) -> BatchEffect:
    """Returns the strongest effect in some batches of seeded images.

    Each batch runs four times: as it is, with every second image replaced, with the others replaced, and with all
    images moved by one place. A batch that fails (memory, say) counts as `NEIGHBOURS`: one image at a time may fit.

    Args:
        engine: The engine.
        batches: The number of images, and their shape.
    """
    effects = [_effect(engine, count, shape) for count, shape in batches]
    return max(effects, key=list(BatchEffect).index, default=BatchEffect.NONE)


def _effect(engine: Engine, count: int, shape: Shape) -> BatchEffect:
    random = np.random.default_rng(count)
    images, others = (random.integers(0, 256, (count, *shape, 3), dtype=np.uint8) for _ in range(2))
    even = np.arange(count) % 2 == 0
    try:
        straight = engine.score(images)
        for kept in (even, ~even):
            maps = engine.score(np.where(kept[:, None, None, None], images, others))
            if any(not _same_bits(straight[i], maps[i]) for i in np.flatnonzero(kept)):
                return BatchEffect.NEIGHBOURS
        moved = engine.score(np.roll(images, 1, axis=0))
    except EngineError as error:
        _log.warning("%d images of %d x %d cannot be run together: %s", count, *shape, error)
        return BatchEffect.NEIGHBOURS
    same = all(_same_bits(straight[i], moved[(i + 1) % count]) for i in range(count))
    return BatchEffect.NONE if same else BatchEffect.PLACE


def _same_bits(left: CellScores, right: CellScores) -> bool:
    return _bits(left) == _bits(right)


def _bits(cells: CellScores) -> list[bytes]:
    arrays = (cells.classes, cells.scores, cells.residual, cells.probabilities)
    return [
        *(array.tobytes() for array in arrays if array is not None),
        *(feature.values.tobytes() for feature in cells.features),
    ]
