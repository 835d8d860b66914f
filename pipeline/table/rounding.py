"""Whether two maps are equal but for rounding: their numbers, and the classes that change places by it. Pure."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.maps.classification_map import CellScores

TOLERANCE = 1e-6
"""How much the numbers of two maps may differ on processors of two kinds, or with `--rounding bounded`.

float32 keeps 24 bits, so a net whose logits are large in magnitude may differ by more: see docs/score.md.
"""

Numbers: TypeAlias = NDArray[np.number]
"""An array of numbers, of any shape and type."""


def arrays_of(name: str, cells: CellScores) -> dict[str, Numbers]:
    """Returns the arrays of a field of `CellScores`: its own, one for each of the features, or none."""
    if name == "features":
        return {feature.name: feature.values for feature in cells.features}
    array = getattr(cells, name)
    return {} if array is None else {name: array}


def numbers_are_near(name: str, left: CellScores, right: CellScores, tolerance: float) -> bool:
    """Returns whether all numbers of a field are equal within a tolerance.

    Args:
        name: `scores`, `residual`, `probabilities` or `features`.
        left: A map.
        right: Another.
        tolerance: The largest absolute difference; in an array with a value above 1, that times its largest one.
    """
    left_arrays, right_arrays = arrays_of(name, left), arrays_of(name, right)
    return list(left_arrays) == list(right_arrays) and all(
        _are_near(left_arrays[key], right_arrays[key], tolerance) for key in left_arrays
    )


def classes_are_near(left: CellScores, right: CellScores, tolerance: float) -> bool:
    """Returns whether the classes of two maps differ only where their scores are within a tolerance."""
    return (
        left.classes.shape == right.classes.shape
        and _ranks_are_near(left, right, tolerance)
        and _ranks_are_near(right, left, tolerance)
    )


def _ranks_are_near(here: CellScores, there: CellScores, tolerance: float) -> bool:
    """Returns whether each class has nearly the same score there; one that is not kept there is near the last one."""
    for cell in np.argwhere((here.classes != there.classes).any(axis=-1)):
        at = tuple(cell)
        scores_there = dict(zip(there.classes[at].tolist(), there.scores[at].tolist(), strict=True))
        last = float(there.scores[at][-1])
        for kept, score in zip(here.classes[at].tolist(), here.scores[at].tolist(), strict=True):
            known = scores_there.get(kept)
            if (score - last if known is None else abs(score - known)) > tolerance:
                return False
    return True


def _are_near(left: Numbers, right: Numbers, tolerance: float) -> bool:
    if (left.shape, left.dtype) != (right.shape, right.dtype):
        return False
    left, right = left.astype(np.float64), right.astype(np.float64)
    largest = float(np.max(np.abs(left), initial=1.0, where=np.isfinite(left)))
    return np.allclose(left, right, rtol=0, atol=tolerance * largest, equal_nan=True)
