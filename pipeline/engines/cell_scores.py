"""From the arrays that a graph returns to the maps of the images, the same for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from pipeline.maps.classification_map import CellScores, Feature, residual_mass, top_k
from pipeline.maps.features import Wanted
from pipeline.maps.recipe import Form

CLASSES, SCORES, PROBABILITIES = "classes", "scores", "probabilities"
FEATURE = "feature/"
"""Prefix of a feature's name among a graph's outputs."""

Arrays = Mapping[str, NDArray[np.generic]]


def cell_scores(out: Arrays, form: Form, k: int, features: Sequence[Wanted]) -> list[CellScores]:
    """Returns the maps of a batch.

    Args:
        out: `classes` [N, h, w, k] and `scores`, best first, of equal ones the lower class first; or `probabilities`
            [N, h, w, C]; and the features by `FEATURE` and name, [N, h', w', channels].
        form: What is kept of a map.
        k: Number of classes that a cell keeps.
        features: The features in their order.
    """
    if CLASSES in out:
        classes, scores = out[CLASSES].astype(np.int32, copy=False), out[SCORES].astype(np.float32, copy=False)
        maps = [CellScores(*cells) for cells in zip(classes, scores, residual_mass(scores), strict=True)]
    else:
        probabilities = out[PROBABILITIES].astype(np.float32, copy=False)
        maps = [top_k(p, k) for p in probabilities]
        if form is not Form.TOP_K:
            whole = probabilities.astype(np.float16 if form is Form.FLOAT16 else np.float32, copy=False)
            maps = [cells._replace(probabilities=p) for cells, p in zip(maps, whole, strict=True)]
    if not features:
        return maps
    blobs = [_values(out[FEATURE + wanted.name], wanted) for wanted in features]
    return [cells._replace(features=kept) for cells, kept in zip(maps, zip(*blobs, strict=True), strict=True)]


def _values(batch: NDArray[np.generic], wanted: Wanted) -> list[Feature]:
    with np.errstate(over="ignore"):  # `check_values` reports infinity
        return [Feature(wanted.name, values) for values in batch.astype(wanted.dtype, copy=False)]
