"""A layer that is a program: never run, not even imported."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import UnsupportedError
from tests.attacks.attack import Attack, each
from tests.support.definitions import data, layer

MODULE = (
    "python_param { module: 'antigravity' layer: 'Layer' param_str: '__import__(\\\"os\\\").system(\\\"false\\\")' }"
)
ATTACKS = [
    Attack(
        "alone",
        data(1, 1) + f"layer {{ name: 'p' type: 'Python' bottom: 'data' top: 'p' {MODULE} }}",
        UnsupportedError,
        ("layer type 'Python'", "layer 'p'"),
    ),
    Attack(
        "in phase TEST only",
        data(1, 1) + f"layer {{ name: 'p' type: 'Python' bottom: 'data' include {{ phase: TEST }} {MODULE} }}",
        UnsupportedError,
        ("'Python'",),
    ),
    Attack("by a name of its own", data(1, 1) + layer("os.system", "p", "data"), UnsupportedError, ("'os.system'",)),
    Attack(
        "among others",
        data(1, 1) + "".join(layer("Python", f"p{i}", "data") for i in range(3)),
        UnsupportedError,
        ("3 unsupported", "'p0'", "'p2'"),
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_its_module_is_not_imported(tmp_path: Path):
    import sys

    ATTACKS[0].check(tmp_path)
    assert "antigravity" not in sys.modules
