"""F(2, k) by its matrices, against the sums that define a filter."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from conversion.layers.minimal_filtering import LARGEST_KERNEL, OUTPUTS, filtering, transformed_filters

TAPS = st.integers(2, LARGEST_KERNEL)
NUMBERS = st.floats(-1000, 1000, width=32)


@given(TAPS, st.data())
def test_two_outputs_from_one_product_more_than_taps(taps: int, data: st.DataObject):
    a, g, b = filtering(taps)
    filters = data.draw(arrays.arrays(np.float64, taps, elements=NUMBERS))
    inputs = data.draw(arrays.arrays(np.float64, taps + 1, elements=NUMBERS))
    assert (a.shape, g.shape, b.shape) == ((OUTPUTS, taps + 1), (taps + 1, taps), (taps + 1, taps + 1))
    expected = [filters @ inputs[start : start + taps] for start in range(OUTPUTS)]
    np.testing.assert_allclose(a @ ((g @ filters) * (b @ inputs)), expected, rtol=0, atol=1e-4)


@given(TAPS)
def test_finite_points_alone_give_the_first_output(taps: int):
    """They read neither the last input, nor does infinity count: a single output costs no more than it does without."""
    a, _, b = filtering(taps)
    assert a[0, -1] == 0
    assert not b[:-1, -1].any()


@pytest.mark.parametrize("taps", range(2, LARGEST_KERNEL + 1))
def test_float32_keeps_five_digits(taps: int):
    random = np.random.default_rng(taps)
    weights = random.normal(size=(taps, taps, 256, 8)).astype(np.float32)
    cells = np.maximum(random.normal(size=(taps + 1, taps, 256)), 0).astype(np.float32)
    a, _, b = (matrix.astype(np.float32) for matrix in filtering(taps))
    inputs = np.tensordot(b, cells, 1).reshape(taps + 1, taps * 256)
    matrices = np.stack(list(transformed_filters(weights)))
    found = a @ np.einsum("ir,iro->io", inputs, matrices)
    expected = [np.einsum("abc,abco->o", cells[y : y + taps].astype(float), weights) for y in range(OUTPUTS)]
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("taps", [1, LARGEST_KERNEL + 1])
def test_other_kernels_are_refused(taps: int):
    with pytest.raises(ValueError, match=f"{taps} taps"):
        filtering(taps)
