"""Strings of a hundred megabytes, and escapes without end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conversion.errors import LimitError, ReadingError, UnsupportedError, WeightsError
from tests.attacks.attack import Attack, each, lengthed

SIZE = 100_000_000


def huge(*fields: int, tail: bytes = b"", times: int = 1) -> Callable[[Path], None]:
    """A file with a string of that size in fields within fields, made when it is needed."""

    def make(path: Path) -> None:
        content = bytes(SIZE // times)
        for depth, field in enumerate(reversed(fields)):
            content = lengthed(field, content) + (tail if depth == 0 else b"")
        path.write_bytes(content * times)

    return make


BLOB = lengthed(7, b"")
LONG = ("a layer name of", "--max-name-length")
ATTACKS = [
    Attack("a net's name in weights", huge(1), ReadingError, ("no layers",), "weights"),
    Attack("a layer's name in weights", huge(100, 1, tail=BLOB), LimitError, LONG, "weights"),
    Attack("an old layer's name in weights", huge(2, 4, tail=BLOB), LimitError, LONG, "weights"),
    Attack("layers' names in weights", huge(100, 1, tail=BLOB, times=4), LimitError, LONG, "weights"),
    Attack("an unknown field", huge(100, 1000), WeightsError, ("0 of 2",), "weights"),
    Attack("an unknown field of a mean", huge(1000), ReadingError, ("has 0",), "mean", ".binaryproto"),
    Attack("a type", f"layer {{ name: 'x' type: '{'x' * 900_000}' }}", LimitError, ("--max-name-length",)),
    Attack("without an end", "layer { name: '" + "x" * 900_000, ReadingError, ("missing ending quote",)),
    Attack("backslashes", "layer { name: '" + "\\" * 900_001, ReadingError, ()),
    Attack("quotes in turn", "layer { name: '" + "\\'" * 450_000, ReadingError, ()),
    Attack("a bad escape", r"layer { name: '\xzz' }", ReadingError, ()),
    Attack("a surrogate", r"layer { name: '\ud800' }", ReadingError, ()),
    Attack(
        "a stage", "state { stage: '" + "x" * 900_000 + "' } layer { name: 'x' type: 'y' }", UnsupportedError, ("'y'",)
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
