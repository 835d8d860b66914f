"""Shapes whose number of values passes 32 and 64 bits."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError, NetworkError, ReadingError
from tests.attacks.attack import Attack, binary, each
from tests.support.definitions import convolution, data, inner_product, layer


def mean(shape: str) -> bytes:
    net = binary(f"layer {{ blobs {{ {shape} data: [1, 2, 3, 4] }} }}")
    return net[net.index(b"\x3a") + 2 :]


MORE = ("values, more than the limit of 2,147,483,647", "--max-elements")
ATTACKS = [
    Attack("2^31", data(1, 2, 2**15, 2**15), LimitError, MORE),
    Attack("2^64 + 1, which is 1 in 64 bits", data(3, 5, 17, 257, 641, 65537, 6700417), LimitError, MORE),
    Attack("2^64, which is 0 in 64 bits", data(2**16, 2**16, 2**16, 2**16), LimitError, MORE),
    Attack("2^62 an axis", data(*[2**62] * 32), LimitError, MORE),
    Attack("2^63 in text", data(1, 3, 2**63, 1), ReadingError, ("out of range",)),
    Attack(
        "num_output",
        data(1, 3, 8, 8) + convolution("c", "data", f"num_output: {2**32 - 1} kernel_size: 1"),
        LimitError,
        MORE,
    ),
    Attack("InnerProduct", data(1, 3, 8, 8) + inner_product("c", "data", f"num_output: {2**31}"), LimitError, MORE),
    Attack(
        "joined",
        data(1, 3, 8, 8)
        + "".join(
            layer("Tile", f"t{i}", f"t{i - 1}" if i else "data", tile_param=f"tiles: {2**31 - 1}") for i in range(1000)
        ),
        LimitError,
        MORE,
    ),
    Attack(
        "a reshape",
        data(1, 4) + layer("Reshape", "r", "data", reshape_param=f"shape {{ dim: {2**62} dim: {2**62} dim: {2**62} }}"),
        NetworkError,
        ("4 values",),
    ),
    Attack(
        "blob of 2^64 + 4",
        mean(f"shape {{ dim: {2**32} dim: {2**32} }}"),
        ReadingError,
        ("needs 18446744073709551616 values", "has 4"),
        "mean",
        ".binaryproto",
    ),
    Attack(
        "legacy blob of 2^32 + 4",
        mean("num: 2147483647 channels: 2147483647 height: 2147483647 width: 4"),
        ReadingError,
        ("has 4",),
        "mean",
        ".binaryproto",
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
