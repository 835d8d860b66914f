"""What git leaves of a large file where git-lfs is not installed."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import ReadingError
from tests.attacks.attack import Attack, each

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 553432081\n"
ATTACKS = [
    Attack(f"as {kind}{suffix}", POINTER, ReadingError, ("a git-lfs pointer", "git lfs pull"), kind, suffix)
    for kind, suffix in (
        ("definition", ""),
        ("weights", ""),
        ("mean", ".npy"),
        ("mean", ".binaryproto"),
        ("labels", ""),
    )
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
