"""Blobs that nothing makes; and the search for what may have been meant, which takes hours on long names."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError, NetworkError
from tests.attacks.attack import Attack, each
from tests.support.definitions import data, layer

LONG = "ab" * 490
ATTACKS = [
    Attack(
        "missing",
        data(1, 1) + layer("AbsVal", "a", "date"),
        NetworkError,
        ("unknown bottom blob 'date'", "did you mean 'data'?"),
    ),
    Attack("none", data(1, 1) + layer("AbsVal", "a"), NetworkError, ("0 bottom blobs, Caffe requires 1",)),
    Attack("too many", data(1, 1) + layer("AbsVal", "a", "data data"), NetworkError, ("2 bottom blobs",)),
    Attack("no top", data(1, 1) + layer("AbsVal", "a", "data", " "), NetworkError, ("0 top blobs",)),
    Attack(
        "long names of the same letters",
        data(1)
        + layer("Split", "s", "data", " ".join(f"{LONG}{i}" for i in range(900)))
        + layer("AbsVal", "a", "ba" * 490),
        NetworkError,
        ("unknown bottom",),
    ),
    Attack(
        "many names",
        data(1)
        + layer("Split", "s", "data", " ".join(f"{'abc' * 10}{i}" for i in range(20_000)))
        + layer("AbsVal", "a", "bac" * 10),
        NetworkError,
        ("unknown bottom",),
    ),
    Attack("a very long one", data(1) + layer("AbsVal", "a", "x" * 900_000), LimitError, ("--max-name-length",)),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
