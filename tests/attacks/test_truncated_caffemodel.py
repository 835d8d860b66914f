"""A download that broke off: named as such, at a place, wherever it broke."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import ReadingError, WeightsError
from tests.attacks.attack import Attack, each
from tests.support.golden_cases import GOLDEN

LENET = GOLDEN / "nets" / "lenet_small"
NET = (LENET / "net.prototxt").read_text()
WHOLE = (LENET / "net.caffemodel").read_bytes()

ATTACKS = [
    *(
        Attack(f"at {size}", WHOLE[:size], ReadingError, ("truncated", "fetch the file again"), "weights", net=NET)
        for size in (5, 100, 1000, len(WHOLE) // 2, len(WHOLE) - 1)
    ),
    Attack(
        "a length beyond the file",
        b"\xa2\x06\xff\xff\xff\xff\x0f" + WHOLE[7:],
        ReadingError,
        ("truncated", "4,294,967,295 bytes are announced"),
        "weights",
    ),
    Attack("a length of 2^63", b"\xa2\x06" + b"\xff" * 8 + b"\x7f", ReadingError, ("truncated",), "weights"),
    Attack("a number without end", b"\xa2\x06" + b"\xff" * 100, ReadingError, ("more than 10 bytes",), "weights"),
    Attack("a tag cut off", b"\xa2", ReadingError, ("a number is cut off",), "weights"),
    Attack("a fixed value cut off", b"\xa2\x06\x03\x2d\x00\x00", ReadingError, ("cut off",), "weights"),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_between_two_layers(tmp_path: Path):
    """There the file is a whole message, of fewer layers."""
    from conversion.caffe.caffe_pb2 import NetParameter

    message = NetParameter.FromString(WHOLE)
    boundary = len(NetParameter(name=message.name, layer=message.layer[:3]).SerializeToString())
    Attack("between", WHOLE[:boundary], WeightsError, ("of 2 weight blobs",), "weights", net=NET).check(tmp_path)
