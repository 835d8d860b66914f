"""Batches: what the bit-for-bit promise rests on."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.batching import Batch, BatchBudget, Batcher, batch_size

BUDGETS = st.builds(
    BatchBudget,
    pixel_budget=st.integers(1, 400),
    max_batch=st.integers(1, 5),
    max_pending_pixels=st.integers(1, 800),
)
SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


@pytest.mark.parametrize(
    ("shape", "size"),
    [((451, 451), 1), ((452, 451), 1), ((318, 319), 2), ((227, 227), 3), ((1, 1), 32), ((10_000, 10_000), 1)],
)
def test_batch_size(shape, size):
    assert batch_size(shape, BatchBudget()) == size


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (-1, 5)])
def test_a_shape_without_pixels_is_refused(shape):
    with pytest.raises(ValueError, match="no pixel"):
        Batcher[int](BatchBudget()).add(1, shape)


@pytest.mark.parametrize("field", ["pixel_budget", "max_batch", "max_pending_pixels"])
def test_a_budget_below_one_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} is 0"):
        BatchBudget(**{field: 0})


def test_a_complete_batch_leaves_at_once_and_the_rest_on_flush():
    batcher = Batcher[str](BatchBudget(pixel_budget=8, max_batch=2))
    assert batcher.add("a", (2, 2)) == []
    assert batcher.add("b", (1, 2)) == []
    assert batcher.add("c", (2, 2)) == [Batch((2, 2), ("a", "c"), 2)]
    assert batcher.add("d", (2, 2)) == []
    assert batcher.flush() == [Batch((1, 2), ("b",), 2), Batch((2, 2), ("d",), 2)]
    assert batcher.flush() == []
    assert batcher.pending_pixels == 0


def test_the_bucket_that_waited_longest_is_let_go_when_too_much_waits():
    batcher = Batcher[str](BatchBudget(pixel_budget=100, max_batch=9, max_pending_pixels=10))
    assert batcher.add("a", (1, 4)) == []
    assert batcher.add("b", (1, 5)) == []
    assert batcher.add("c", (1, 3)) == [Batch((1, 4), ("a",), 9)]
    assert batcher.pending_pixels == 8


@given(BUDGETS, st.lists(SHAPES, max_size=60))
def test_properties(budget, shapes):
    batcher = Batcher[int](budget)
    batches = []
    for item, shape in enumerate(shapes):
        batches += batcher.add(item, shape)
        assert 0 <= batcher.pending_pixels <= budget.max_pending_pixels
    batches += batcher.flush()
    assert batcher.pending_pixels == 0

    items = [item for batch in batches for item in batch.items]
    assert sorted(items) == list(range(len(shapes))), "every item comes out exactly once"
    for batch in batches:
        assert {shapes[item] for item in batch.items} == {batch.shape}
        assert batch.size == batch_size(batch.shape, budget)
        assert 1 <= len(batch.items) <= batch.size
        assert batch.size == 1 or batch.size * batch.shape[0] * batch.shape[1] <= budget.pixel_budget
    for shape in set(shapes):
        of_shape = [batch.items for batch in batches if batch.shape == shape]
        arrived = [item for item, other in enumerate(shapes) if other == shape]
        assert list(itertools.chain(*of_shape)) == arrived, "arrival order is kept within a shape"


@given(BUDGETS, st.lists(SHAPES, max_size=30))
def test_the_same_items_give_the_same_batches(budget, shapes):
    def run():
        batcher = Batcher[int](budget)
        batches = [batch for item, shape in enumerate(shapes) for batch in batcher.add(item, shape)]
        return batches + batcher.flush()

    assert run() == run()
