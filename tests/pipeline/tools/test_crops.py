"""The map against its crops: zero where nothing is padded, and the arithmetic of the differences where something is."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores, top_k
from pipeline.tools.crops import compare_with_crops, example_images
from tests.support.fakes import METADATA, FakeEngine, probabilities


class WholeEngine(FakeEngine):
    """Gives all probabilities; on images larger than a window it moves `moved` of the mass from class 0 to class 1."""

    def __init__(self, moved: float = 0.0) -> None:
        super().__init__()
        self.moved = moved

    def score(self, images: np.ndarray) -> list[CellScores]:
        cells = []
        for image in images:
            values = probabilities(image)
            if values.shape[:2] != (1, 1):
                values = values + np.array([-self.moved, self.moved, 0, 0], np.float32)
            cells.append(top_k(values, 2)._replace(probabilities=values))
        return cells


def test_a_net_without_padding_is_its_crops():
    engine = WholeEngine()
    report = compare_with_crops(engine, example_images(engine))
    assert (report.images, report.cells) == (2, 32)
    assert (report.largest, report.mean, report.changed) == (0, 0, 0)


def test_differences_are_measured_as_said():
    engine = WholeEngine(moved=0.1)
    report = compare_with_crops(engine, example_images(engine))
    assert report.largest == pytest.approx(0.1, abs=1e-6)
    assert report.mean == pytest.approx(0.05, abs=1e-6)
    assert report.mean_total_variation == pytest.approx(0.1, abs=1e-6)


def test_changed_counts_cells_whose_best_class_is_another():
    engine = WholeEngine(moved=10.0)
    black = np.zeros((32, 32, 3), np.uint8)  # every window is all "dark" by itself
    assert compare_with_crops(engine, [black]).changed == 1


def test_engine_without_probabilities_and_images_without_a_window_are_refused():
    with pytest.raises(EngineError, match="no probabilities"):
        compare_with_crops(FakeEngine(), example_images(FakeEngine()))
    with pytest.raises(EngineError, match="no window"):
        compare_with_crops(WholeEngine(), [])
    assert METADATA.minimum_size == (16, 16)
