"""Layers that read, in a circle, what only they make. Caffe executes in the file's order: the first of them fails."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import NetworkError
from tests.attacks.attack import Attack, each
from tests.support.definitions import data, layer

UNKNOWN = ("unknown bottom blob", "no earlier layer produces it")
ATTACKS = [
    Attack("of two", data(1, 1) + layer("AbsVal", "a", "b") + layer("AbsVal", "b", "a"), NetworkError, UNKNOWN),
    Attack("of itself", data(1, 1) + layer("AbsVal", "a", "a"), NetworkError, UNKNOWN),
    Attack(
        "of a thousand",
        data(1, 1) + "".join(layer("AbsVal", f"l{i}", f"l{(i + 1) % 1000}") for i in range(1000)),
        NetworkError,
        UNKNOWN,
    ),
    Attack(
        "through a sum", data(1, 1) + layer("Eltwise", "e", "data r") + layer("ReLU", "r", "e"), NetworkError, UNKNOWN
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
