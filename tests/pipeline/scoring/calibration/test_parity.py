"""The gate before 16 bits: what it measures, and what it lets through."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import JobError
from pipeline.maps.classification_map import CellScores, top_k
from pipeline.maps.recipe import Precision, Recipe
from pipeline.scoring.calibration.parity import Parity, ParityError, measure_parity
from tests.support.fakes import METADATA

IMAGES = [np.full((16, 24, 3), n, np.uint8) for n in range(3)]
EXACT = np.array([[[0.5, 0.3, 0.2], [0.4, 0.35, 0.25]]], np.float32)


class Constant:
    """Gives one map for every image."""

    metadata = METADATA

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities = probabilities

    def score(self, images: np.ndarray) -> list[CellScores]:
        best = top_k(np.nan_to_num(self.probabilities), 2)
        return [best._replace(probabilities=self.probabilities)] * len(images)


def test_what_is_measured():
    found = EXACT.copy()
    found[0, 1] = [0.35, 0.4, 0.25]  # its best class is another
    parity = measure_parity(Constant(EXACT), Constant(found), IMAGES, Precision.FLOAT16)
    assert parity.largest == pytest.approx(0.05, abs=1e-6)
    assert parity.mean == pytest.approx(0.1 / 6, abs=1e-6)
    assert (parity.flips, parity.images, parity.cells) == (0.5, 3, 6)


def test_no_difference_passes_any_bound():
    parity = measure_parity(Constant(EXACT), Constant(EXACT), IMAGES, Precision.BFLOAT16)
    parity.model_copy(update={"max_error": 0.0, "max_flips": 0.0}).check()
    assert parity.largest == parity.mean == parity.flips == 0


@pytest.mark.parametrize(("largest", "flips"), [(0.011, 0.0), (0.0, 0.011), (1.0, 1.0)])
def test_beyond_either_bound_it_is_refused_with_the_numbers(largest: float, flips: float):
    parity = Parity(precision=Precision.FLOAT16, largest=largest, mean=0.001, flips=flips, images=2, cells=128)
    with pytest.raises(ParityError, match="in float16 probabilities differ by up to") as caught:
        parity.check()
    assert f"{largest:.2g}" in caught.value.what
    assert f"{flips:.2%}" in caught.value.what
    assert "128 cells" in caught.value.why
    assert "--max-parity-error" in caught.value.remedy


def test_at_the_bounds_it_passes():
    Parity(precision=Precision.FLOAT16, largest=0.01, mean=0.001, flips=0.01, images=2, cells=128).check()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_overflow_is_told(value: float):
    found = EXACT.copy()
    found[0, 0, 0] = value
    with pytest.raises(ParityError, match="in float16 the model does not return probabilities") as caught:
        measure_parity(Constant(EXACT), Constant(found), IMAGES, Precision.FLOAT16)
    assert "bfloat16" in caught.value.remedy


def test_nothing_to_measure_on_is_an_error():
    with pytest.raises(JobError, match="no image"):
        measure_parity(Constant(EXACT), Constant(EXACT), [], Precision.FLOAT16)


def test_a_map_in_another_precision_is_another_map():
    recipes = [Recipe("d" * 64, precision=precision) for precision in Precision]
    assert len({recipe.digest for recipe in recipes}) == len({recipe.key("i", 1.0) for recipe in recipes}) == 3
    assert Recipe("d" * 64).digest == recipes[0].digest
    assert Recipe("d" * 64, precision="float16").digest == recipes[1].digest
