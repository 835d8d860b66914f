"""Short names and shares of classes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.maps.labels import BEST_LABELS, LABEL_LENGTH, best_labels, shares, short_name
from tests.support.example_maps import make_map


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("n02123045 tabby, tabby cat", "tabby"),
        ("tabby, tabby cat", "tabby"),
        ("7", "7"),
        (", odd", ", odd"),
        ("n02123045", "n02123045"),
        ("esc\x1b[31m,red", "esc\\x1b[31m"),
        ("a\t\x9bb\n", "a \\x9bb"),
    ],
)
def test_a_short_name_is_the_first_lemma(label: str, name: str) -> None:
    assert short_name(label) == name


def test_shares_are_of_the_cells_and_background_comes_last() -> None:
    found = shares(make_map([[10, 10, 10], [7, 7, 3]]))
    assert [(item.name, item.share) for item in found] == [("7", 1 / 3), ("3", 1 / 6), ("background", 0.5)]


@given(
    classes=hnp.arrays(np.int32, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=st.integers(0, 11)),
    labels=st.lists(st.text(max_size=200), max_size=12),
)
def test_best_labels_are_few_short_and_by_area(classes: np.ndarray, labels: list[str]) -> None:
    names = best_labels(classes, labels)
    if not labels:
        assert names is None
        return
    assert names is not None
    assert 1 <= len(names) <= BEST_LABELS
    assert all(len(name) <= LABEL_LENGTH for name in names)
    best = classes[..., 0].ravel().tolist()
    numbers = sorted(set(best), key=lambda number: (-best.count(number), number))[:BEST_LABELS]
    known = dict(enumerate(map(short_name, labels)))
    assert names == [(known.get(number) or f"class {number}")[:LABEL_LENGTH] for number in numbers]
