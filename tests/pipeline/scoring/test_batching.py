"""Batches: what the promise of equal bits rests on."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.batching import Batch, BatchBudget, BatchEffect, Batcher, MixedBatcher, batch_size

BUDGETS = st.builds(
    BatchBudget,
    pixel_budget=st.integers(1, 400),
    mixed_pixels=st.integers(1, 400),
    max_batch=st.integers(1, 12),
    max_pending_pixels=st.integers(1, 800),
)
ITEMS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 2**32)), max_size=60)
"""Height, width and key of each."""
EFFECTS = st.sampled_from(BatchEffect)


def batches_of(
    items: list[tuple[int, int, int]], budget: BatchBudget, effect: BatchEffect = BatchEffect.NONE
) -> list[Batch[int]]:
    batcher = Batcher[int](budget, effect)
    batches = []
    for item, (height, width, key) in enumerate(items):
        batches += batcher.add(item, (height, width), key)
        assert 0 <= batcher.pending_pixels <= budget.max_pending_pixels
    batches += batcher.flush()
    assert batcher.pending_pixels == 0
    return batches


@pytest.mark.parametrize(
    ("shape", "size"),
    [((451, 451), 1), ((452, 451), 1), ((318, 319), 2), ((227, 227), 3), ((1, 1), 32), ((10_000, 10_000), 1)],
)
def test_batch_size(shape, size):
    assert batch_size(shape, BatchBudget()) == size


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (-1, 5)])
def test_a_shape_without_pixels_is_refused(shape):
    with pytest.raises(ValueError, match="no pixel"):
        Batcher[int](BatchBudget()).add(1, shape, 0)


@pytest.mark.parametrize("field", ["pixel_budget", "mixed_pixels", "max_batch", "max_pending_pixels"])
def test_a_budget_below_one_is_refused(field):
    with pytest.raises(ValueError, match=f"{field} is 0"):
        BatchBudget(**{field: 0})


def test_a_complete_batch_leaves_at_once_and_the_rest_on_flush():
    batcher = Batcher[str](BatchBudget(pixel_budget=8, max_batch=2))
    assert batcher.add("a", (2, 2), 7) == []
    assert batcher.add("b", (1, 2), 7) == []
    assert batcher.add("c", (2, 2), 7) == [Batch((2, 2), ("a", "c"), (0, 1), 2)]
    assert batcher.add("d", (2, 2), 7) == []
    assert batcher.flush() == [Batch((1, 2), ("b",), (0,), 2), Batch((2, 2), ("d",), (0,), 2)]
    assert batcher.flush() == []
    assert batcher.pending_pixels == 0


def test_the_shape_that_waited_longest_is_let_go_when_too_much_waits():
    batcher = Batcher[str](BatchBudget(pixel_budget=100, max_batch=9, max_pending_pixels=10))
    assert batcher.add("a", (1, 4), 0) == []
    assert batcher.add("b", (1, 5), 0) == []
    assert batcher.add("c", (1, 3), 0) == [Batch((1, 4), ("a",), (0,), 9)]
    assert batcher.pending_pixels == 8


def test_where_the_place_matters_images_wait_for_those_of_the_other_lanes():
    batcher = Batcher[str](BatchBudget(pixel_budget=8, max_batch=2), BatchEffect.PLACE)
    assert batcher.add("a", (2, 2), 1) == []
    assert batcher.add("b", (2, 2), 3) == []
    assert batcher.add("c", (2, 2), 4) == [Batch((2, 2), ("c", "a"), (0, 1), 2)]
    assert batcher.flush() == [Batch((2, 2), ("b",), (1,), 2)]


def test_where_neighbours_matter_every_image_is_alone():
    batcher = Batcher[str](BatchBudget(), BatchEffect.NEIGHBOURS)
    assert batcher.add("a", (2, 2), 1) == [Batch((2, 2), ("a",), (0,), 1)]
    assert batcher.flush() == []


def test_the_images_of_a_batch_one_by_one_keep_their_places_and_halves_do_not():
    batch = Batch((2, 2), ("a", "b", "c"), (0, 2, 3), 4)
    assert list(batch.alone()) == [Batch((2, 2), (i,), (p,), 4) for i, p in zip(batch.items, batch.places, strict=True)]
    assert list(batch.halves()) == [Batch((2, 2), ("a", "b"), (0, 1), 2), Batch((2, 2), ("c",), (0,), 2)]


@given(BUDGETS, ITEMS, EFFECTS)
def test_properties(budget, items, effect):
    batches = batches_of(items, budget, effect)
    out = [item for batch in batches for item in batch.items]
    assert sorted(out) == list(range(len(items))), "every item comes out exactly once"
    for batch in batches:
        assert batch.shape is not None
        assert {items[item][:2] for item in batch.items} == {batch.shape}
        assert batch.size == Batcher[int](budget, effect).size(batch.shape) <= batch_size(batch.shape, budget)
        assert 1 <= len(batch.items) == len(set(batch.places)) <= batch.size
        assert all(0 <= place < batch.size for place in batch.places)
        assert batch.size == 1 or batch.size * batch.shape[0] * batch.shape[1] <= budget.pixel_budget
        if effect is BatchEffect.PLACE:
            assert all(
                items[item][2] % batch.size == place for item, place in zip(batch.items, batch.places, strict=True)
            )


@given(BUDGETS, ITEMS)
def test_where_the_place_is_free_the_order_of_arrival_is_kept_within_a_shape(budget, items):
    batches = batches_of(items, budget)
    for shape in {item[:2] for item in items}:
        of_shape = [batch.items for batch in batches if batch.shape == shape]
        arrived = [number for number, item in enumerate(items) if item[:2] == shape]
        assert list(itertools.chain(*of_shape)) == arrived


@given(BUDGETS, ITEMS, EFFECTS, st.randoms(use_true_random=False))
def test_what_an_image_is_run_in_does_not_depend_on_the_order(budget, items, effect, random):
    """Its batch's size always; its place where that matters."""

    def facts(order: list[int]) -> dict[int, tuple[int, int]]:
        batches = batches_of([items[number] for number in order], budget, effect)
        return {
            order[item]: (batch.size, place if effect is BatchEffect.PLACE else 0)
            for batch in batches
            for item, place in zip(batch.items, batch.places, strict=True)
        }

    order = list(range(len(items)))
    shuffled = random.sample(order, len(order))
    assert facts(order) == facts(shuffled)


@given(BUDGETS, ITEMS, EFFECTS)
def test_the_same_items_give_the_same_batches(budget, items, effect):
    assert batches_of(items, budget, effect) == batches_of(items, budget, effect)


@given(BUDGETS, ITEMS)
def test_images_of_several_sizes_are_batched_as_they_come(budget, items):
    batcher = MixedBatcher[int](budget)
    batches = []
    for item, (height, width, key) in enumerate(items):
        batches += batcher.add(item, (height, width), key)
        assert 0 <= batcher.pending_pixels < budget.mixed_pixels
    batches += batcher.flush()
    assert [item for batch in batches for item in batch.items] == list(range(len(items)))
    for batch in batches:
        assert batch.shape is None
        assert batch.places == tuple(range(batch.size))
        assert 1 <= batch.size == len(batch.items) <= budget.max_batch
        pixels = sum(items[item][0] * items[item][1] for item in batch.items)
        assert batch.size == 1 or pixels <= budget.mixed_pixels


def test_a_batch_of_several_sizes_is_halved_and_taken_apart():
    batch = Batch(None, ("a", "b", "c"), (0, 1, 2), 3)
    assert [half.items for half in batch.halves()] == [("a",), ("b",), ("c",)]
    assert list(batch.alone()) == [Batch(None, (item,), (0,), 1) for item in batch.items]
    four = Batch(None, ("a", "b", "c", "d"), (0, 1, 2, 3), 4)
    assert list(four.halves()) == [Batch(None, ("a", "b"), (0, 1), 2), Batch(None, ("c", "d"), (0, 1), 2)]
