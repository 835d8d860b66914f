"""Class names that are not text, or write over a terminal."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError, ReadingError
from conversion.limits import Limits
from tests.attacks.attack import Attack, each, sparse

ATTACKS = [
    Attack("escape", "cat\n\x1b[2Jdog\n", ReadingError, ("line 2", "control character"), "labels"),
    Attack("NUL", "cat\0\n", ReadingError, ("line 1",), "labels"),
    Attack("right-to-left override", "cat\n\u202edog\n", ReadingError, ("line 2",), "labels"),
    Attack("Latin-1", "caf\xe9".encode("latin-1"), ReadingError, ("cannot be read",), "labels"),
    Attack("zeros", bytes(1000), ReadingError, ("control character",), "labels"),
    Attack("a terabyte", sparse(1 << 40), LimitError, ("--max-labels-bytes",), "labels"),
    Attack("a limit of one's own", "cat\n" * 100, LimitError, ("400 bytes",), "labels", limits=Limits(labels_bytes=10)),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_four_megabytes_of_blank_lines(tmp_path: Path):
    attack = Attack("blank", "\n" * (4 << 20), ReadingError, kind="labels")
    assert attack.run(attack.write(tmp_path)) == ()
