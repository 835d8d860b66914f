"""Files beyond the limits of size: refused by their size, unread. They are sparse: they take no space."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError
from conversion.limits import Limits
from tests.attacks.attack import SMALL, Attack, each, sparse

ATTACKS = [
    Attack("definition", sparse(1 << 21), LimitError, ("2,097,152 bytes", "--max-definition-bytes")),
    Attack("weights of 3 GB", sparse(3 << 30), LimitError, ("3,221,225,472 bytes", "--max-weights-bytes"), "weights"),
    Attack("weights of 8 TB", sparse(8 << 40), LimitError, ("--max-weights-bytes",), "weights"),
    Attack("npy", sparse(1 << 40, b"\x93NUMPY"), LimitError, ("--max-mean-bytes",), "mean"),
    Attack("binaryproto", sparse(1 << 40), LimitError, ("--max-mean-bytes",), "mean", ".binaryproto"),
    Attack("labels", sparse(1 << 40), LimitError, ("--max-labels-bytes",), "labels"),
    Attack("a limit of one's own", SMALL, LimitError, ("limit of 100",), limits=Limits(definition_bytes=100)),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_a_raised_limit_lets_it_pass(tmp_path: Path):
    long = SMALL + "# " + "x" * (1 << 20) + "\n"
    raised = Limits(definition_bytes=1 << 21)
    Attack("comment", long, LimitError, ("--max-definition-bytes",)).check(tmp_path)
    attack = Attack("comment", long, LimitError, limits=raised)
    assert attack.run(attack.write(tmp_path)).shapes["conv"] == (1, 2, 6, 6)  # type: ignore[attr-defined]
