"""The smallest form within a bound: against a table of errors worked out by hand."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import EngineError, JobError
from pipeline.maps.classification_map import CellScores, MapError, top_k
from pipeline.maps.quantization import RELATIVE_ERROR
from pipeline.maps.recipe import Form
from pipeline.scoring.calibration.form import bytes_a_cell, choose_form, form_errors
from tests.support.fakes import FakeEngine, probabilities


class WholeEngine(FakeEngine):
    """Gives all probabilities."""

    def score(self, images: np.ndarray) -> list[CellScores]:
        return [top_k(p, 2)._replace(probabilities=p) for p in map(probabilities, images)]


def sample(count: int = 2) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (count, 32, 48, 3), dtype=np.uint8))


def test_the_smallest_form_within_the_bound_is_chosen() -> None:
    images = sample()
    maps = [probabilities(image) for image in images]
    third = max(float(np.sort(p, axis=-1)[..., -3].max()) for p in maps)
    half = max(float(np.abs(p.astype(np.float16) - p).max()) for p in maps)
    choice = choose_form(WholeEngine(), images, 1.0, k=2)
    assert (choice.form, choice.images, choice.cells) == (Form.TOP_K, 2, 2 * 3 * 5)
    assert choice.errors[Form.TOP_K] == pytest.approx(third)
    assert choice.errors[Form.FLOAT16] == pytest.approx(half)
    assert choice.errors[Form.FLOAT32] == 0
    coded = choice.errors[Form.LOG_UINT8]
    assert half < coded <= RELATIVE_ERROR * third * 1.001
    for bound, form, error in (
        (third, Form.TOP_K, third),
        (third * 0.99, Form.LOG_UINT8, coded),
        (coded, Form.LOG_UINT8, coded),
        (coded * 0.99, Form.FLOAT16, half),
        (half * 0.99, Form.FLOAT32, 0),
        (0, Form.FLOAT32, 0),
    ):
        found = choose_form(WholeEngine(), images, bound, k=2)
        assert (found.form, found.error, found.bound) == (form, pytest.approx(error), bound)


def test_all_classes_in_the_top_k_leave_nothing_out() -> None:
    choice = choose_form(WholeEngine(), iter(sample(1)), 0.0, k=5)
    assert (choice.form, choice.error) == (Form.TOP_K, 0)


@given(seed=st.integers(0, 2**32 - 1), k=st.integers(1, 6), classes=st.integers(1, 9), sharpness=st.floats(0, 9))
@settings(max_examples=50, deadline=None)
def test_errors_stay_within_what_the_forms_promise(seed: int, k: int, classes: int, sharpness: float) -> None:
    logits = np.random.default_rng(seed).normal(0, sharpness, (3, 4, classes))
    values = np.exp(logits - logits.max(axis=-1, keepdims=True))
    found = form_errors((values / values.sum(axis=-1, keepdims=True)).astype(np.float32), k)
    assert list(found) == list(Form)
    assert found[Form.TOP_K] <= 1 / (k + 1) + 1e-6
    assert found[Form.LOG_UINT8] <= RELATIVE_ERROR / (k + 1) + 1e-6
    assert found[Form.LOG_UINT8] <= found[Form.TOP_K]
    assert found[Form.FLOAT16] <= 2.0**-12
    assert found[Form.FLOAT32] == 0


def test_a_choice_is_kept_as_json() -> None:
    choice = choose_form(WholeEngine(), sample(), 0.01, k=2)
    about = json.loads(json.dumps(choice.model_dump(mode="json")))
    assert (about["form"], about["bound"], about["images"]) == (choice.form.value, 0.01, 2)
    assert set(about["errors"]) == {form.value for form in Form}
    assert about["bytes_a_cell"] == {"top-k": 20, "log-uint8": 24, "float16": 28, "float32": 36}


def test_bytes_count_what_is_stored_beside_the_probabilities() -> None:
    assert [bytes_a_cell(form, 3, 5) for form in Form] == [28, 31, 34, 40]


def test_what_cannot_be_chosen_by_is_refused() -> None:
    with pytest.raises(JobError, match="no image"):
        choose_form(WholeEngine(), [], 0.01)
    for bound, k in ((-0.1, 5), (1.1, 5), (float("nan"), 5), (0.1, 0)):
        with pytest.raises(JobError, match="accuracy bound"):
            choose_form(WholeEngine(), sample(), bound, k)
    with pytest.raises(EngineError, match="not return float32"):
        choose_form(FakeEngine(), sample(), 0.01)


def test_what_is_no_probability_is_refused() -> None:
    class Broken(WholeEngine):
        def score(self, images: np.ndarray) -> list[CellScores]:
            found = super().score(images)
            return [cells._replace(probabilities=np.full_like(cells.probabilities, np.nan)) for cells in found]

    with pytest.raises(MapError, match="not all between 0 and 1"):
        choose_form(Broken(), sample(), 0.01)
