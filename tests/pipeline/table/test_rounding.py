"""Two maps that differ by rounding are near, and no others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.maps.classification_map import CellScores, top_k
from pipeline.table.rounding import TOLERANCE, classes_are_near, numbers_are_near

CLASSES = 6


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, int, np.random.Generator]:
    """Probabilities [1, 3, 6] with many ties and near ties, the number of classes kept, and a source of noise."""
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = random.choice([0.1, 0.1 + 1e-7, 0.1 - 2e-7, 0.2, 0.3], size=(1, 3, CLASSES)).astype(np.float32)
    return levels, draw(st.integers(1, CLASSES)), random


def near(left: CellScores, right: CellScores) -> bool:
    return classes_are_near(left, right, TOLERANCE) and numbers_are_near("scores", left, right, TOLERANCE)


@given(maps())
def test_rounding_keeps_maps_near(drawn: tuple[np.ndarray, int, np.random.Generator]):
    probabilities, k, random = drawn
    noise = random.uniform(-4e-7, 4e-7, probabilities.shape)
    assert near(top_k(probabilities, k), top_k((probabilities + noise).astype(np.float32), k))


@given(maps(), st.integers(0, CLASSES - 1))
def test_a_class_that_gains_is_not_rounding(drawn: tuple[np.ndarray, int, np.random.Generator], at: int):
    probabilities, _, _ = drawn
    moved = probabilities.copy()
    moved[0, 0, at] += np.float32(1e-4)
    assert not near(top_k(probabilities, CLASSES), top_k(moved, CLASSES))


def test_other_shapes_are_not_near():
    left, right = (top_k(np.full((1, width, 3), 0.2, np.float32), 2) for width in (2, 3))
    assert not classes_are_near(left, right, 1)
    assert not numbers_are_near("scores", left, right, 1)
