"""Mean files as .npy: the header is believed no further than the file reaches, and never evaluated."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conversion.errors import LimitError, OptionError, ReadingError
from conversion.limits import Limits
from tests.attacks.attack import Attack, each


class Bomb:
    """Unpickled, it would show."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pytest.exit, ("unpickled",))


def saved(array: np.ndarray, **options: bool) -> bytes:
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def headed(text: str, body: bytes = b"", version: int = 1) -> bytes:
    header = text.encode("latin-1") + b"\n"
    return b"\x93NUMPY" + bytes((version, 0)) + len(header).to_bytes(2 if version == 1 else 4, "little") + header + body


def header(shape: str, descr: str = "<f4") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"


NO_HEADER = ("its header is not one that numpy.save writes",)
ATTACKS = [
    Attack(
        "10^12 elements",
        headed(header("(1000000, 1000, 1000)")),
        ReadingError,
        ("needs 4,000,000,000,000 bytes", "has 0"),
        "mean",
    ),
    Attack(
        "2^64 + 1 elements",
        headed(header("(3, 5, 17, 257, 641, 65537, 6700417)"), bytes(4)),
        ReadingError,
        ("has 4",),
        "mean",
    ),
    Attack(
        "more elements than 64 bits",
        headed(header(f"({'9' * 18}, {'9' * 18}, {'9' * 18})")),
        ReadingError,
        ("has 0",),
        "mean",
    ),
    Attack("longer numbers", headed(header(f"({'9' * 1000},)")), ReadingError, NO_HEADER, "mean"),
    Attack("no element", headed(header("(0, 3)")), ReadingError, ("needs 0 bytes",), "mean"),
    Attack("a negative size", headed(header("(-1,)")), ReadingError, NO_HEADER, "mean"),
    Attack("truncated", saved(np.zeros((3, 9, 9)))[:-1], ReadingError, ("truncated",), "mean"),
    Attack("longer than it says", saved(np.zeros((3, 9, 9))) + b"x", ReadingError, ("needs",), "mean"),
    Attack(
        "objects",
        saved(np.array([Bomb(), 1], dtype=object), allow_pickle=True),
        ReadingError,
        ("real numbers",),
        "mean",
    ),
    Attack("text", saved(np.array(["a", "b", "c"])), ReadingError, ("real numbers",), "mean"),
    Attack("complex numbers", saved(np.zeros(3, complex)), ReadingError, ("real numbers",), "mean"),
    Attack("booleans", saved(np.zeros(3, bool)), ReadingError, ("real numbers",), "mean"),
    Attack("dates", saved(np.zeros(3, "M8[s]")), ReadingError, NO_HEADER, "mean"),
    Attack("records", saved(np.zeros(3, "f4,f4")), ReadingError, NO_HEADER, "mean"),
    Attack("a program", headed(header("(__import__('os').abort(),)")), ReadingError, NO_HEADER, "mean"),
    Attack("nesting", headed("(" * 50_000), ReadingError, NO_HEADER, "mean"),
    Attack("a header of 4 GB", b"\x93NUMPY\2\0\xff\xff\xff\xff{", ReadingError, NO_HEADER, "mean"),
    Attack("a comma too many", headed(header("(3,, 3)")), ReadingError, NO_HEADER, "mean"),
    Attack(
        "digits without end", headed(header("(" + "1, " * 20_000 + "x)"), version=2), ReadingError, NO_HEADER, "mean"
    ),
    Attack("version 9", headed(header("(3,)"), bytes(12), version=9), ReadingError, ("not a NumPy array",), "mean"),
    Attack("only the magic", b"\x93NUMPY", ReadingError, ("not a NumPy array",), "mean"),
    Attack("NaN", saved(np.full(3, np.nan)), OptionError, ("finite",), "mean"),
    Attack("infinity", saved(np.full((3, 2, 2), np.inf)), OptionError, ("finite",), "mean"),
    Attack("infinity less infinity", saved(np.array([[[np.inf, -np.inf]]] * 3)), OptionError, ("finite",), "mean"),
    Attack("a sum that overflows", saved(np.full((3, 2, 2), 1e308)), OptionError, ("finite",), "mean"),
    Attack("four axes", saved(np.zeros((2, 3, 4, 4))), OptionError, ("(2, 3, 4, 4)",), "mean"),
    Attack("many axes", saved(np.zeros((1,) * 40)), LimitError, ("--max-axes",), "mean"),
    Attack(
        "a limit of one's own",
        saved(np.zeros(3)),
        LimitError,
        ("--max-mean-bytes",),
        "mean",
        limits=Limits(mean_bytes=100),
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_python_2_wrote_long_integers(tmp_path: Path):
    """Caffe's own ilsvrc_2012_mean.npy is of that time."""
    content = headed(
        "{'descr': '<f4', 'fortran_order': False, 'shape': (3L, 1L, 2L), }", np.array([1, 3] * 3, np.float32).tobytes()
    )
    attack = Attack("long", content, ReadingError, kind="mean")
    assert attack.run(attack.write(tmp_path))[0] == (2.0, 2.0, 2.0)  # type: ignore[index]
