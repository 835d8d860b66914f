"""Numbers that no field holds."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import NetworkError, ReadingError
from tests.attacks.attack import SMALL, Attack, each

FIELD = "layer { name: 'x' type: 'Convolution' convolution_param { num_output: %s } }"
ATTACKS = [
    Attack("5,000 digits", SMALL + FIELD % ("9" * 5_000), ReadingError, ("parse integer: 999",)),
    Attack("a megabyte of digits", FIELD % ("9" * 1_000_000), ReadingError, ("integer",)),
    Attack("hexadecimal", FIELD % ("0x" + "f" * 900_000), ReadingError, ("4300 digits",)),
    Attack("octal", FIELD % ("07" * 400_000), ReadingError, ("integer",)),
    Attack("2^32", FIELD % 2**32, ReadingError, ("out of range",)),
    Attack("negative", FIELD % -1, ReadingError, ("out of range",)),
    Attack("a fraction", FIELD % 1.5, ReadingError, ("integer",)),
    Attack("NaN", FIELD % "nan", ReadingError, ("integer",)),
    Attack("an enum", "layer { pooling_param { pool: 99 } }", ReadingError, ("99",)),
    Attack("a level", SMALL + f"state {{ level: {2**40} }}", ReadingError, ("out of range",)),
    Attack(
        "a long fraction",
        SMALL + f"layer {{ name: 'x' type: 'Power' bottom: 'conv' top: 'x' power_param {{ scale: {'9' * 900_000} }} }}",
        NetworkError,
        ("scale is inf",),
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
