"""The kernels of the native engine against float64, over random shapes: convolutions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.engines.native import forms
from tests.pipeline.engines.native.kernel_support import (
    ConvolutionCase,
    Filtering,
    convolution_in_float64,
    convolve,
    filtering,
    images,
    relative_error,
)

SLOPES = st.sampled_from([None, 0.0, 0.1])
SMALL_PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def direct_cases(draw):
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    dilation = draw(SMALL_PAIR)
    pad = tuple(draw(st.integers(0, d * (k - 1))) for k, d in zip(kernel, dilation, strict=True))
    least = [max(1, d * (k - 1) + 1 - 2 * p) for k, d, p in zip(kernel, dilation, pad, strict=True)]
    sizes = draw(st.lists(st.tuples(*(st.integers(n, n + 9) for n in least)), min_size=1, max_size=4))
    return ConvolutionCase(
        sizes=tuple(sizes),
        groups=draw(st.integers(1, 3)),
        inside=draw(st.sampled_from([1, 3, 8, 16, 40, 70])),
        outside=draw(st.sampled_from([1, 5, 16, 20, 48, 67])),
        kernel=kernel,
        stride=draw(SMALL_PAIR),
        pad=pad,
        dilation=dilation,
        bias=draw(st.booleans()),
        slope=draw(SLOPES),
        wider=draw(st.sampled_from([0, 0, 1, 13])),
    )


@st.composite
def tiled_cases(draw):
    kernel = draw(st.tuples(st.integers(1, 5), st.integers(1, 5)))
    tile = tuple(draw(st.integers(1, 8 - k + 1)) if k > 1 else 1 for k in kernel)
    pad = tuple(draw(st.integers(0, k - 1)) for k in kernel)
    least = [max(1, k - 2 * p) for k, p in zip(kernel, pad, strict=True)]
    sizes = draw(st.lists(st.tuples(*(st.integers(n, n + 12) for n in least)), min_size=1, max_size=4))
    return ConvolutionCase(
        sizes=tuple(sizes),
        groups=draw(st.integers(1, 2)),
        inside=draw(st.sampled_from([1, 3, 16, 40, 270])),
        outside=draw(st.sampled_from([1, 5, 16, 48, 67])),
        kernel=kernel,
        pad=pad,
        tile=tile,
        bias=draw(st.booleans()),
        slope=draw(SLOPES),
        wider=draw(st.sampled_from([0, 0, 1, 13])),
    )


def check(native, pool, case, bound):
    rng = np.random.default_rng(0)
    weights = case.weights(rng)
    bias = rng.standard_normal(case.groups * case.outside).astype(np.float32)
    pixels = images(rng, case.sizes, case.groups * case.inside)
    tops = convolve(native, pool, case, weights=weights, bias=bias, pixels=pixels)
    for image, top in zip(pixels, tops, strict=True):
        assert relative_error(top, convolution_in_float64(case, weights, bias, image)) < bound


@given(direct_cases())
@settings(max_examples=60, deadline=None)
def test_direct_convolutions(native, pool, case):
    check(native, pool, case, 1e-5)


@given(tiled_cases())
@settings(max_examples=60, deadline=None)
def test_convolutions_by_tiles(native, pool, case):
    check(native, pool, case, 3e-4)


@pytest.mark.parametrize(
    "case",
    [
        ConvolutionCase(((1, 1),), 1, 600, 130, (1, 1)),
        ConvolutionCase(((1, 1),) * 3, 1, 1024, 100, (1, 1)),
        ConvolutionCase(((9, 5), (20, 31)), 1, 512, 200, (1, 1)),
        ConvolutionCase(((6, 6),) * 3, 1, 64, 80, (6, 6)),
        ConvolutionCase(((33, 40),), 1, 3, 96, (11, 11), stride=(4, 4)),
        ConvolutionCase(((33, 40),), 2, 24, 64, (3, 3), pad=(1, 1), tile=(6, 6)),
        ConvolutionCase(((70, 65),), 1, 4, 16, (3, 3), pad=(1, 1), tile=(4, 4)),
    ],
    ids=str,
)
def test_shapes_of_networks(native, pool, case):
    check(native, pool, case, 1e-4)


@pytest.mark.parametrize(("infinity", "mixed"), [*itertools.product((True, False), repeat=2)])
def test_tiles_without_infinity_and_with_matrices_of_any_form(native, pool, infinity, mixed):
    axis = filtering(4, 3, infinity=infinity)
    if mixed:  # products in another order are neither pairs nor zero first
        order = np.random.default_rng(1).permutation(len(axis.inputs))
        axis = Filtering(axis.outputs[:, order].copy(), axis.filters[order].copy(), axis.inputs[order].copy())
    case = ConvolutionCase(((9, 10),), 1, 5, 7, (3, 3), tile=(4, 4), axes=(axis, axis))
    check(native, pool, case, 1e-5)


def test_large_tiles_sum_few_terms_at_a_time_and_so_keep_their_digits(native, pool):
    _, axes = forms.tile((6, 6), 4)
    case = ConvolutionCase(((9, 9),) * 3, 1, 256, 32, (6, 6), tile=(4, 4), axes=axes)
    check(native, pool, case, 1.6e-5)
