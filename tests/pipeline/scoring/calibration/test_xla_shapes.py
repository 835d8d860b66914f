"""The shapes that XLA compiles are those of the batches and tiles to come, the most expensive ones first."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.scoring.batching import BatchBudget, batch_size
from pipeline.scoring.calibration.xla_shapes import coming_shapes

SIZES = st.tuples(st.integers(1, 60), st.integers(1, 60))


def halves(size: tuple[int, int]) -> list[tuple[int, int]]:
    return [(size[0], (size[1] + 1) // 2), (size[0], size[1] // 2)]


@given(st.lists(SIZES), st.integers(1, 5), st.integers(50, 2000))
def test_shapes_are_those_of_batches_and_tiles(sizes: list[tuple[int, int]], most: int, tile_pixels: int):
    budget = BatchBudget(pixel_budget=1000)
    found = coming_shapes(sizes, halves, budget, tile_pixels=tile_pixels, most=most)
    whole = {(batch_size(size, budget), *size) for size in sizes if size[0] * size[1] <= tile_pixels}
    tiles = {(1, *tile) for size in sizes if size[0] * size[1] > tile_pixels for tile in halves(size)}
    assert set(found) <= whole | tiles
    assert len(found) == len(set(found)) == min(most, len(whole | tiles))
    assert (
        found == coming_shapes(sizes[::-1], halves, budget, tile_pixels=tile_pixels, most=most) == tuple(sorted(found))
    )


def test_what_costs_most_comes_first():
    sizes = [(10, 10)] * 5 + [(30, 30)] + [(20, 20)] * 2 + [(100, 100)]
    found = coming_shapes(sizes, lambda size: [(50, 50)] * 4, BatchBudget(), tile_pixels=2000, most=3)
    assert found == ((1, 50, 50), (32, 20, 20), (32, 30, 30))
