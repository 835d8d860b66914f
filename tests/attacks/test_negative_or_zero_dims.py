"""Dimensions below 1."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import NetworkError, ReadingError
from tests.attacks.attack import Attack, binary, each
from tests.support.definitions import convolution, data, layer


def weights(shape: str) -> bytes:
    return binary(f'layer {{ name: "conv" blobs {{ {shape} data: [1, 2] }} blobs {{ data: [1, 2] }} }}')


BELOW = ("at least 1",)
ATTACKS = [
    Attack("zero", data(1, 3, 0, 8), NetworkError, ("below 1",)),
    Attack("negative", data(1, 3, -8, -8), NetworkError, ("below 1",)),
    Attack("least", data(-(2**63)), NetworkError, ("below 1",)),
    Attack(
        "input_dim",
        f"input: 'x' input_dim: [1, 3, {-(2**31)}, 8] {layer('ReLU', 'r', 'x')}",
        NetworkError,
        ("below 1",),
    ),
    Attack("Parameter", layer("Parameter", "p", parameter_param="shape { dim: -1 }"), NetworkError, ("below 1",)),
    Attack(
        "Reshape",
        data(4) + layer("Reshape", "r", "data", reshape_param="shape { dim: -2 dim: -2 }"),
        NetworkError,
        ("below -1",),
    ),
    Attack("no output", data(1, 1, 4, 4) + convolution("c", "data", "kernel_size: 1"), NetworkError, ("num_output",)),
    Attack(
        "a kernel of 0",
        data(1, 1, 4, 4) + convolution("c", "data", "num_output: 1 kernel_size: 0"),
        NetworkError,
        ("kernel_size 0",),
    ),
    Attack(
        "a window larger than the image",
        data(1, 1, 4, 4) + convolution("c", "data", "num_output: 1 kernel_size: 9"),
        NetworkError,
        ("smaller than the window",),
    ),
    Attack(
        "a stride of 0",
        data(1, 1, 4, 4) + convolution("c", "data", "num_output: 1 kernel_size: 1 stride: 0"),
        NetworkError,
        ("stride 0",),
    ),
    Attack(
        "a group of 0",
        data(1, 1, 4, 4) + convolution("c", "data", "num_output: 1 kernel_size: 1 group: 0"),
        NetworkError,
        ("group 0",),
    ),
    Attack("weights of zero", weights("shape { dim: 0 }"), ReadingError, BELOW, "weights"),
    Attack("weights of -1 by -2", weights("shape { dim: -1 dim: -2 }"), ReadingError, BELOW, "weights"),
    Attack("legacy weights", weights("num: -1 channels: -1 height: 1 width: 2"), ReadingError, BELOW, "weights"),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)
