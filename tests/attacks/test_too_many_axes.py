"""Blobs of more axes than Caffe's 32."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import LimitError
from conversion.limits import Limits
from tests.attacks.attack import SMALL, Attack, binary, each
from tests.support.definitions import data, layer


def weights(shape: str) -> bytes:
    return binary(f'layer {{ name: "conv" blobs {{ shape {{ {shape} }} data: 1 }} blobs {{ data: 1 }} }}')


def npy(shape: bytes) -> bytes:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + b"), }\n"
    return b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header + bytes(4)


AXES = ("axes, more than the limit of 32", "--max-axes")
ATTACKS = [
    Attack("an input", data(*[1] * 33), LimitError, AXES),
    Attack("an input of thousands", data(*[2**62] * 10_000), LimitError, ("axes",)),
    Attack(
        "a reshape",
        data(1, 1) + layer("Reshape", "r", "data", reshape_param="shape { " + "dim: 1 " * 1_000 + "}"),
        LimitError,
        AXES,
    ),
    Attack("weights", weights("dim: 1 " * 33), LimitError, AXES, "weights"),
    Attack("weights of thousands", weights(f"dim: {2**62} " * 5_000), LimitError, ("axes",), "weights"),
    Attack("npy", npy(b"1, " * 39 + b"1"), LimitError, AXES, "mean"),
    Attack("a limit of one's own", SMALL, LimitError, ("limit of 3",), limits=Limits(axes=3)),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
