"""Two things of one name: which one is meant would be a guess."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import NetworkError, ReadingError, WeightsError
from tests.attacks.attack import SMALL, Attack, binary, each
from tests.support.definitions import data, layer

ATTACKS = [
    Attack(
        "layers",
        data(1, 1) + layer("Bias", "a", "data") + layer("Bias", "a", "data", "b"),
        NetworkError,
        ("two layers named 'a'",),
    ),
    Attack(
        "blobs",
        data(1, 1) + layer("AbsVal", "a", "data") + layer("AbsVal", "b", "data", "a"),
        NetworkError,
        ("produced by multiple sources",),
    ),
    Attack("tops", data(1, 1) + layer("Split", "a", "data", "x x"), NetworkError, ("produced by multiple sources",)),
    Attack(
        "inputs",
        "input: 'x' input: 'x' input_shape { dim: 1 } input_shape { dim: 2 }" + layer("AbsVal", "a", "x"),
        NetworkError,
        ("multiple sources",),
    ),
    Attack(
        "weights",
        binary('layer { name: "conv" blobs { data: 1 } } layer { name: "conv" blobs { data: 2 } }'),
        WeightsError,
        ("two layers named 'conv' have weights",),
        "weights",
    ),
    Attack(
        "weights of unused layers",
        binary('layer { name: "x" blobs { data: 1 } } layer { name: "x" blobs { data: 2 } }'),
        WeightsError,
        ("two layers named 'x'",),
        "weights",
    ),
    Attack("fields", SMALL + 'name: "a" name: "b"', ReadingError, ("multiple",)),
    Attack(
        "parameters",
        SMALL + 'layer { name: "p" type: "Pooling" bottom: "data" top: "p" pooling_param {} pooling_param {} }',
        ReadingError,
        ("multiple",),
    ),
    Attack(
        "both forms",
        SMALL + "layers { name: 'r' type: RELU bottom: 'conv' top: 'conv' }",
        NetworkError,
        ("both `layer` and `layers`",),
    ),
    Attack(
        "both forms of weights",
        binary("layer { name: 'a' } layers { name: 'b' }"),
        NetworkError,
        ("both `layer` and `layers`",),
        "weights",
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
