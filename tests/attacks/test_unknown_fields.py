"""Fields of forks by the ten thousand: the message lists the first hundred."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import ReadingError, UnsupportedError
from tests.attacks.attack import SMALL, Attack, each

ATTACKS = [
    Attack("one", SMALL + "layer { name: 'x' magic: 1 }", UnsupportedError, ("magic (in LayerParameter",)),
    Attack(
        "many",
        "layer {" + "x:1 " * 30_000 + "}",
        UnsupportedError,
        ("x (in LayerParameter, line 1)", "and perhaps more"),
    ),
    Attack(
        "many on one long line, and an error", "layer {" + "x:1 " * 20_000 + "}}", UnsupportedError, ("unknown fields",)
    ),
    Attack("a name of a megabyte", "layer {" + "x" * 900_000 + ": 1 }", UnsupportedError, ("xxxx (in LayerParameter",)),
    Attack(
        "an error on a line of a megabyte",
        "layer { name: 'a' " + " " * 900_000 + " } }",
        ReadingError,
        ("not a Caffe network definition",),
    ),
    Attack("unknown, and broken", "layer { foo: } ", ReadingError, ("Invalid field value",)),
    Attack(
        "within an unknown one, on a long line that is broken at its end",
        "layer { x { " + "a:1 " * 30_000 + " " * 800_000 + "} } }",
        ReadingError,
        ("Expected a field: }",),
    ),
    Attack("unknown, without an end", "layer { x {\n", ReadingError, ("2:1", "the end of the file")),
    Attack("an extension", "layer { [some.extension] { a: 1 } }", ReadingError, ("extensions",)),
    Attack("Any", "[type.googleapis.com/densecast.caffe.NetParameter] { name: 'x' }", ReadingError, ()),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
