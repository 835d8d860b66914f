"""Layers by the hundred thousand. Three bytes of file are two hundred of memory once parsed."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError
from conversion.limits import Limits
from tests.attacks.attack import SMALL, Attack, each
from tests.support.definitions import data, layer

ATTACKS = [
    Attack("text, a hundred thousand", "layer{}" * 100_000, LimitError, ("--max-entries",)),
    Attack("text", "layer{}" * 20_000, LimitError, ("layers", "--max-layers")),
    Attack("text, old form", "layers{}" * 20_000, LimitError, ("--max-layers",)),
    Attack("text, a list", "layer: [" + "{}, " * 20_000 + "{}]", LimitError, ("--max-layers",)),
    Attack("text, angle brackets", "layer<>" * 20_000, LimitError, ("--max-layers",)),
    Attack("binary", b"\xa2\x06\x00" * 10_000_000, LimitError, ("--max-layers",), "weights"),
    Attack("binary, old form", b"\x12\x00" * 10_000_000, LimitError, ("--max-layers",), "weights"),
    Attack(
        "a limit of one's own",
        SMALL,
        LimitError,
        ("at least 2 layers, more than the limit of 1",),
        limits=Limits(layers=1),
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_ten_thousand_blobs_in_a_chain_are_fine(tmp_path: Path):
    """Near the limit of tokens, everything is linear."""
    chain = data(1, 1, 2, 2) + "".join(layer("AbsVal", f"l{i}", f"l{i - 1}" if i else "data") for i in range(5_000))
    attack = Attack("chain", chain, LimitError)
    assert len(attack.run(attack.write(tmp_path)).layers) == 5_001  # type: ignore[attr-defined]
