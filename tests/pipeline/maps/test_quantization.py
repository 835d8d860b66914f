"""The one-byte code of probabilities: its bound, its order, and what is exact."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline.maps.classification_map import MapError, top_k
from pipeline.maps.quantization import OCTAVES, RELATIVE_ERROR, dequantize, quantize, restore

ALL = np.arange(256, dtype=np.uint8)
VALUES = dequantize(ALL)
# Values where a code ends and the next begins, and their neighbours, besides values anywhere.
BORDERS = ((VALUES[1:].astype(np.float64) + VALUES[:-1]) / 2).astype(np.float32)
NEAR = np.concatenate([BORDERS, np.nextafter(BORDERS, np.float32(0)), np.nextafter(BORDERS, np.float32(1)), VALUES])
probability = st.floats(0, 1, width=32) | st.sampled_from(NEAR.tolist()) | st.floats(0, 60).map(lambda x: 2**-x)
vectors = arrays(np.float32, st.integers(1, 50), elements=probability.map(lambda x: float(np.float32(x))))


@given(vectors)
@example(NEAR)
def test_the_error_is_bounded(values: np.ndarray) -> None:
    """2.73 % of the probability from 2^-20 on; below that half of the smallest code's value."""
    exact = values.astype(np.float64)
    error = np.abs(dequantize(quantize(values)) - exact)
    rounding = 1e-6  # of the codes' values to float32
    allowed = np.where(exact >= 2.0**-OCTAVES, RELATIVE_ERROR * exact * (1 + rounding), 2.0 ** -(OCTAVES + 1))
    assert (error <= allowed + rounding * exact).all()
    assert RELATIVE_ERROR < 0.0273


@given(vectors)
@example(NEAR)
def test_the_code_is_that_of_the_nearest_value(values: np.ndarray) -> None:
    distance = np.abs(values.astype(np.float64)[:, np.newaxis] - VALUES.astype(np.float64))
    found = np.take_along_axis(distance, quantize(values)[:, np.newaxis].astype(np.intp), axis=1)[:, 0]
    np.testing.assert_allclose(found, distance.min(axis=1), rtol=1e-5, atol=0)


@given(vectors)
@example(NEAR)
def test_a_larger_probability_has_no_smaller_code(values: np.ndarray) -> None:
    codes = quantize(np.sort(values)).astype(int)
    assert (np.diff(codes) >= 0).all()


def test_codes_come_back_as_themselves() -> None:
    """So that a map that is read and stored again does not change."""
    np.testing.assert_array_equal(quantize(VALUES), ALL)
    assert (np.diff(VALUES) > 0).all()
    assert VALUES.dtype == np.float32


def test_nothing_and_certainty_are_exact_and_rounding_beyond_them_is_cut() -> None:
    codes = quantize(np.array([0.0, -0.0, 1.0, -1e-4, 1.0001, 1e30, 1e-45], np.float32))
    assert codes.tolist() == [0, 0, 255, 0, 255, 255, 0]
    assert dequantize(codes).tolist() == [0, 0, 1, 0, 1, 1, 0]


def test_any_shape_and_kind_of_float_is_taken() -> None:
    values = np.linspace(0, 1, 24).reshape(2, 3, 4)
    codes = quantize(values)
    assert (codes.dtype, codes.shape) == (np.uint8, (2, 3, 4))
    np.testing.assert_array_equal(quantize(values.T), codes.T)
    assert quantize(np.array([0.5, 1], np.float16))[1] == 255
    assert quantize(np.zeros((0, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("value", [np.nan, -np.nan, np.inf, -np.inf])
def test_what_is_no_number_has_no_code(value: float) -> None:
    with pytest.raises(MapError, match="NaN and infinity"):
        quantize(np.array([0.5, value], np.float32))


@given(
    values=arrays(np.float32, (2, 3, 6), elements=st.floats(0, 1, width=32)).filter(lambda x: x.sum(-1).min() > 0.1),
    k=st.integers(1, 7),
)
def test_the_top_k_are_restored_exactly_and_stay_the_top_k(values: np.ndarray, k: int) -> None:
    probabilities = (values / values.sum(axis=-1, keepdims=True)).astype(np.float32)
    best = top_k(probabilities, k)
    found = restore(quantize(probabilities), best.classes, best.scores)
    np.testing.assert_array_equal(np.take_along_axis(found, best.classes, axis=-1), best.scores)
    np.testing.assert_array_equal(top_k(found, k).scores, best.scores)
    rounding = 1e-5
    assert np.abs(found - probabilities).max() <= RELATIVE_ERROR / (k + 1) + rounding
