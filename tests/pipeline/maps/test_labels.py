"""Short names and shares of classes."""

import pytest

from pipeline.maps.labels import shares, short_name
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
