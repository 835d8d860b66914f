"""Names that show as other names, write over a terminal, end a C string, or are not text at all."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError, NetworkError, ReadingError, UnsupportedError, WeightsError
from tests.attacks.attack import Attack, binary, each, lengthed
from tests.support.definitions import data, layer

CHARACTERS = {
    "NUL": r"\000",
    "escape": r"\033[2J\033]0;owned\007",
    "line feed": r"\n",
    "carriage return": r"\r",
    "delete": r"\177",
    "right-to-left override": "\u202e",
    "isolate": "\u2066",
    "line separator": "\u2028",
    "C1 control": "\x9b31m",
}
ATTACKS = [
    *(
        Attack(
            f"{name} in {field}", data(1, 1) + text.replace("@", f"x{character}y"), NetworkError, ("control character",)
        )
        for name, character in CHARACTERS.items()
        for field, text in (
            ("a layer's name", layer("AbsVal", "@", "data", "y")),
            ("a blob's name", layer("AbsVal", "a", "data", "@")),
            ("a bottom", layer("AbsVal", "a", "@", "b")),
            ("the net's name", 'name: "@"' + layer("AbsVal", "a", "data", "b")),
        )
    ),
    Attack("an input", "input: 'x\\033[2J' " + layer("AbsVal", "a", "x"), NetworkError, ("control character",)),
    Attack("an old layer", "layers { name: 'a\\033' type: RELU bottom: 'x' top: 'x' }", NetworkError, ("control",)),
    Attack(
        "a layer of 2013",
        "layers { layer { name: 'a\\033' type: 'relu' } bottom: 'x' top: 'x' }",
        NetworkError,
        ("control",),
    ),
    Attack("no layer name", data(1, 1) + layer("Bias", "", "data", "y"), NetworkError, ("a layer without a name",)),
    Attack(
        "no blob name",
        data(1, 1) + 'layer { name: "a" type: "AbsVal" bottom: "data" top: "" }',
        NetworkError,
        ("a blob without a name",),
    ),
    Attack(
        "a long name",
        data(1, 1) + layer("AbsVal", "x" * 1001, "data", "y"),
        LimitError,
        ("1,001 characters", "--max-name-length"),
    ),
    Attack(
        "a type",
        data(1, 1) + layer("AbsVal", "a", "data").replace("AbsVal", r"\033[2J"),
        UnsupportedError,
        (r"'\x1b[2J'",),
    ),
    Attack("not UTF-8", data(1, 1) + layer("AbsVal", r"\377\376", "data", "y"), ReadingError, ("utf-8",)),
    Attack("a NUL in the text", data(1, 1) + "\0", ReadingError),
    Attack("UTF-16", (data(1, 1) + layer("AbsVal", "a", "data")).encode("utf-16"), ReadingError, ("text in UTF-16",)),
    Attack(
        "UTF-16 without a mark",
        (data(1, 1) + layer("AbsVal", "a", "data")).encode("utf-16-le"),
        ReadingError,
        ("text in UTF-16",),
    ),
    Attack(
        "weights",
        binary(r"layer { name: 'a\033[2J' blobs { data: 1 } } layer { name: 'a\033[2J' blobs { data: 1 } }"),
        WeightsError,
        (r"'a\x1b[2J'",),
        "weights",
    ),
    Attack(
        "weights not in UTF-8",
        lengthed(100, lengthed(1, b"\xff\xfe") + lengthed(7, b"")) * 2,
        WeightsError,
        (r"xff\\xfe",),
        "weights",
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_a_byte_order_mark_is_no_attack(tmp_path: Path):
    """Caffe's parser skips it too."""
    text = "\ufeff" + data(1, 1) + layer("AbsVal", "größe/1_1", "data")
    attack = Attack("mark", text, NetworkError)
    assert attack.run(attack.write(tmp_path)).shapes == {"data": (1, 1), "größe/1_1": (1, 1)}  # type: ignore[attr-defined]
