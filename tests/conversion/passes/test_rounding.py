"""Branches that round differently: Inception's and Xception's reductions join a convolution and a pooling."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conversion import DenseOptions, load_dense, load_network
from conversion.errors import CastError, NetworkError
from conversion.net.network import Network, to_definition
from conversion.net.reference import evaluate
from conversion.passes.cast import cast
from conversion.passes.rounding import find_misfit, floor_poolings
from models import entries
from tests.support.definitions import convolution, data, inner_product, layer, network, pooling
from tests.support.field import caffe_files


def reduction(size: int, conv: str, pool: str, seed: int | None = None) -> Network:
    text = data(1, 2, size, size) + convolution("conv", "data", f"num_output: 3 {conv}") + pooling("pool", "data", pool)
    text += layer("Concat", "cat", "conv pool") + inner_product("fc", "cat", "num_output: 4")
    return cast(network(text + layer("Softmax", "prob", "fc"), seed=seed))


def test_what_rounds_up_and_what_rounds_down_is_said():
    """15 pixels fit, 16 do not: the conversion evaluated the net for minutes, and then failed on "bottoms differ"."""
    misfit = load_dense(caffe_files("a41_reduction")[0]).misfit
    assert misfit is not None
    assert (misfit.size, misfit.training_size, misfit.remedied) == ((16, 16), (15, 15), ("pool",))
    error = misfit.error()
    assert error.where == "layer 'cat' (Concat)"
    assert error.what == "on an image of 16x16: its bottoms are conv 1x4x7x7, pool 1x3x8x8"
    assert error.why == (
        "rounding down: layer 'conv' (Convolution) from 16 to 7; rounding up: layer 'pool' (Pooling) from 16 to 8; "
        "they agree at the training size, 15x15"
    )
    assert "--pooling-rounding floor" in error.remedy


def test_floor_is_the_definition_with_floor_and_the_same_net_at_the_training_size():
    definition, weights = caffe_files("a41_reduction")
    floored = load_dense(definition, weights, DenseOptions(pooling_rounding="floor"))
    assert floored.misfit is None
    assert floored.network.notes == ("round_mode: FLOOR on 'pool': the same net at the training size",)
    by_hand = cast(load_network(caffe_files("a41_reduction_floor")[0], weights))
    assert to_definition(floored.network) == to_definition(by_hand)
    own = {"data": np.random.default_rng(0).normal(0, 60, (2, 3, 15, 15))}
    np.testing.assert_array_equal(
        evaluate(floored.network, own)["prob"], evaluate(cast(load_network(definition, weights)), own)["prob"]
    )


def test_poolings_that_fit_are_left_alone():
    """Only the pooling that disagrees is changed, and nothing at all where nothing does."""
    text = data(1, 2, 31, 31) + pooling("first", "data", "pool: MAX kernel_size: 3 stride: 2")
    text += convolution("conv", "first", "num_output: 3 kernel_size: 3 stride: 2")
    text += pooling("pool", "first", "pool: AVE kernel_size: 3 stride: 2") + layer("Concat", "cat", "conv pool")
    subject = cast(network(text, seed=1))
    rounds = {m.name: m.pooling_param.round_mode for m in to_definition(floor_poolings(subject)).layer}
    assert (rounds["first"], rounds["pool"]) == (0, 1)
    fitting = cast(network(data(1, 2, 9, 9) + pooling("pool", "data", "kernel_size: 2 stride: 2")))
    assert floor_poolings(fitting) is fitting


def test_what_no_rounding_evens_out_is_refused_without_that_remedy():
    """At its own size the pooling has a cell more when it rounds up: rounding down would be another net."""
    subject = reduction(9, "kernel_size: 3 stride: 3", "kernel_size: 4 stride: 3")
    misfit = find_misfit(subject)
    assert misfit is not None
    assert misfit.remedied == ()
    assert misfit.error().remedy == ""
    with pytest.raises(CastError, match="on an image of 11x11"):
        floor_poolings(subject)


# Each block of SE-ResNet reads the whole image: it has no dense form (tests/models/test_more_definitions.py).
DENSE = [entry for entry in entries() if entry.name != "se_resnet50"]


@pytest.mark.parametrize("entry", DENSE, ids=lambda entry: entry.name)
def test_catalog_nets_fit_at_every_size(entry):
    assert find_misfit(cast(load_network(entry.definition))) is None


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.integers(0, 2), st.integers(1, 4), st.integers(0, 2), st.integers(1, 3), st.integers(8, 17)
)
def test_after_the_pass_every_size_fits_and_the_own_size_is_unchanged(
    kernel: int, pad: int, window: int, margin: int, stride: int, size: int
):
    """Any pooling beside any convolution, where both give as many cells at the training size."""
    pool = f"pool: AVE kernel_size: {window} stride: {stride} pad: {min(margin, window - 1)}"
    try:
        subject = reduction(size, f"kernel_size: {kernel} stride: {stride} pad: {pad}", pool, seed=3)
    except (NetworkError, CastError):
        return  # they differ at the training size, or slide differently
    misfit = find_misfit(subject)
    try:
        floored = floor_poolings(subject)
    except CastError:
        assert misfit is not None
        return
    for more in range(3 * stride):
        floored.shapes_at({"data": (1, 2, size + more, size + more)})
    image = {"data": np.random.default_rng(0).normal(0, 1, (1, 2, size, size))}
    np.testing.assert_array_equal(evaluate(floored, image)["prob"], evaluate(subject, image)["prob"])
