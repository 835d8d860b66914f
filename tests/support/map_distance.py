"""How far maps of one image are apart that two batches, threads, devices or processes give."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pipeline.maps.classification_map import CellScores
from pipeline.maps.recipe import Precision
from pipeline.table.rounding import TOLERANCE

ROUNDING = {Precision.FLOAT32: TOLERANCE, Precision.FLOAT16: 2e-3, Precision.BFLOAT16: 2e-2}
"""What the kernels of a processor may make of it, by the precision in which they compute."""


def distance(found: Sequence[CellScores], expected: Sequence[CellScores], *, classes: bool = True) -> float:
    """The largest difference of two scores or probabilities; infinite where shapes or, if asked for, classes differ.

    Classes with nearly the same score may change places, so a test asks for few of the best and for all probabilities.
    """
    if len(found) != len(expected):
        return math.inf
    largest = 0.0
    for cells, other in zip(found, expected, strict=True):
        if cells.scores.shape != other.scores.shape or (classes and not np.array_equal(cells.classes, other.classes)):
            return math.inf
        largest = max(largest, float(np.abs(cells.scores - other.scores).max()))
        if cells.probabilities is not None and other.probabilities is not None:
            largest = max(largest, float(np.abs(cells.probabilities - other.probabilities).max()))
    return largest
