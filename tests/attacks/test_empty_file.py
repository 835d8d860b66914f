"""A file of nothing, or of nothing but layers without weights."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import ReadingError, WeightsError
from tests.attacks.attack import SMALL, Attack, binary, each

ATTACKS = [
    Attack("definition", b"", ReadingError, ("no layers",)),
    Attack("definition of blanks", " \n" * 1000, ReadingError, ("no layers",)),
    Attack("weights", b"", ReadingError, ("no layers",), "weights"),
    Attack("weights of a name", binary('name: "net"'), ReadingError, ("no layers",), "weights"),
    Attack("a definition in binary form as weights", binary(SMALL), WeightsError, ("0 of 2 weight blobs",), "weights"),
    Attack("npy", b"", ReadingError, ("not a NumPy array",), "mean"),
    Attack("binaryproto", b"", ReadingError, ("has 0",), "mean", ".binaryproto"),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
