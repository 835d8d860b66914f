"""Blobs with more or fewer values than their shape says."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import ReadingError, WeightsError
from tests.attacks.attack import Attack, binary, each


def weights(first: str, second: str = "shape { dim: 2 } data: [1, 2]") -> bytes:
    return binary(f'layer {{ name: "conv" blobs {{ {first} }} blobs {{ {second} }} }}')


FULL = "shape { dim: [2, 3, 3, 3] } data: [" + "1, " * 53 + "1]"
ATTACKS = [
    Attack(
        "fewer",
        weights("shape { dim: [2, 3, 3, 3] } data: [1, 2]"),
        ReadingError,
        ("needs 54 values", "has 2"),
        "weights",
    ),
    Attack("none", weights("shape { dim: [2, 3, 3, 3] }"), ReadingError, ("has 0",), "weights"),
    Attack("more", weights("shape { dim: 1 } data: [1, 2]"), ReadingError, ("needs 1 values",), "weights"),
    Attack("only a diff", weights("shape { dim: 2 } diff: [1, 2]"), ReadingError, ("has 0",), "weights"),
    Attack("no shape", weights("data: [1, 2]"), ReadingError, ("needs 1 values",), "weights"),
    Attack("a second blob", weights(FULL, "shape { dim: 2 } data: 1"), ReadingError, ("needs 2 values",), "weights"),
    Attack(
        "another shape",
        weights(FULL.replace("[2, 3, 3, 3]", "[3, 2, 3, 3]", 1)),
        WeightsError,
        ("(3, 2, 3, 3)", "(2, 3, 3, 3)"),
        "weights",
    ),
    Attack(
        "too few blobs", binary(f'layer {{ name: "conv" blobs {{ {FULL} }} }}'), WeightsError, ("1 of 2",), "weights"
    ),
    Attack(
        "too many blobs",
        binary('layer { name: "conv" blobs {} blobs {} blobs {} }'),
        WeightsError,
        ("3 of 2",),
        "weights",
    ),
    Attack(
        "another layer",
        binary('layer { name: "fc" blobs { data: 1 } }'),
        WeightsError,
        ("0 of 2", "matched by layer name"),
        "weights",
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
