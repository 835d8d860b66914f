"""Messages within messages: protobuf's text parser recurses, and so did a walker of ours."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError, ReadingError
from conversion.limits import Limits
from tests.attacks.attack import Attack, each, lengthed

DEEP = ("nested too deeply", "--max-nesting")
ATTACKS = [
    Attack("known fields", "layer { include { " * 10_000, LimitError, DEEP),
    Attack("unknown fields", "layer { " + "x { " * 10_000, LimitError, DEEP),
    Attack("unknown fields, closed", "layer { " + "x { " * 10_000 + "} " * 10_001, LimitError, DEEP),
    Attack("angle brackets", "layer < " + "x: < " * 10_000, LimitError, DEEP),
    Attack("lists", "x: " + "[" * 10_000, LimitError, DEEP),
    Attack("lists of messages", "x: " + "[{y:" * 10_000, LimitError, DEEP),
    Attack(
        "as deep as is allowed",
        "layer { " + "x { " * 3_000,
        ReadingError,
        ('Expected "}": the end of the file',),
        limits=Limits(nesting=10_000),
    ),
    Attack("binary groups", lengthed(100, b"\xfb\x7f" * 100_000), ReadingError, ("wire type 3",), "weights"),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
