"""Repeated fields by the million: each token costs the text parser microseconds, each field objects."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError
from tests.attacks.attack import Attack, each, lengthed
from tests.support.definitions import data

LAYER = data(1, 1, 2, 2) + 'layer { name: "x" type: "Concat" top: "y" '
ATTACKS = [
    Attack("bottoms", LAYER + 'bottom:"a"' * 90_000 + "}", LimitError, ("tokens", "--max-entries")),
    Attack("bottoms in a list", LAYER + "bottom:[" + "'a'," * 240_000 + "'a']}", LimitError, ("tokens",)),
    Attack("dims", "input_dim: [" + "1," * 500_000 + "1]", LimitError, ("tokens",)),
    Attack("string pieces", "layer { name:" + '""' * 500_000 + "}", LimitError, ("tokens",)),
    Attack("semicolons", ";" * 1_000_000, LimitError, ("tokens",)),
    Attack("brackets", "{}" * 500_000, LimitError, ("tokens",)),
    Attack("empty blobs", lengthed(100, lengthed(7, b"") * 1_000_000), LimitError, ("fields",), "weights"),
    Attack("packed dims", lengthed(7, lengthed(1, b"\1" * 1_000_000)), LimitError, ("fields",), "mean", ".binaryproto"),
    Attack("inputs", lengthed(3, b"") * 10_000_000, LimitError, ("fields",), "weights"),
    Attack("unknown fields", lengthed(100, b"\xf8\x7f\x01" * 1_000_000), LimitError, ("fields",), "weights"),
    Attack("data in pieces", lengthed(5, bytes(4)) * 1_000_000, LimitError, ("fields",), "mean", ".binaryproto"),
    Attack(
        "floats and dims in turn", b"\x2d\0\0\0\0\x08\1" * 1_000_000, LimitError, ("fields",), "mean", ".binaryproto"
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
