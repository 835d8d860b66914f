"""NaN, infinity and what becomes infinite in float32, as parameters of layers."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion.errors import NetworkError
from conversion.limits import Limits
from conversion.net.network import Network
from tests.attacks.attack import Attack, each
from tests.support.definitions import convolution, data, layer

IMAGE = data(1, 3, 8, 8)
ATTACKS = [
    *(
        Attack(
            f"{kind} {text}", IMAGE + layer(kind, "l", "data", **{parameter: text}), NetworkError, (field, "layer 'l'")
        )
        for kind, parameter, field, text in (
            ("LRN", "lrn_param", "alpha", "alpha: nan"),
            ("LRN", "lrn_param", "beta", "beta: inf"),
            ("LRN", "lrn_param", "k", "k: -inf"),
            ("Power", "power_param", "scale", "scale: inf"),
            ("Power", "power_param", "shift", "shift: -infinity"),
            ("Power", "power_param", "power", "power: 1e39"),
            ("Power", "power_param", "scale", "scale: -1e999"),
            ("BatchNorm", "batch_norm_param", "eps", "eps: nan"),
            ("ReLU", "relu_param", "negative_slope", "negative_slope: NaN"),
            ("Dropout", "dropout_param", "dropout_ratio", "dropout_ratio: inf"),
            ("Clip", "clip_param", "max", "min: 0 max: inff"),
            ("ELU", "elu_param", "alpha", "alpha: nan"),
        )
    ),
    Attack(
        "a filler",
        IMAGE + convolution("l", "data", "num_output: 1 kernel_size: 1 weight_filler { std: nan }"),
        NetworkError,
        ("std is nan",),
    ),
    Attack(
        "an old form",
        "input: 'x' input_dim: [1, 3, 8, 8] layers { name: 'l' type: LRN bottom: 'x' top: 'y' "
        "lrn_param { alpha: nan } }",
        NetworkError,
        ("alpha is nan",),
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


@pytest.mark.parametrize("text", ["-0", "0x10", "010", "1e-46", "3.4e38"])
def test_odd_but_finite_numbers_are_read(text: str, tmp_path: Path):
    whole = "0x" in text or text == "010"
    subject = (
        convolution("l", "data", f"num_output: {text} kernel_size: 1")
        if whole
        else layer("Power", "l", "data", power_param=f"scale: {text}")
    )
    attack = Attack(text, IMAGE + subject, NetworkError)
    network = attack.run(attack.write(tmp_path))
    assert isinstance(network, Network)
    assert network.shapes["l"][1] == {"0x10": 16, "010": 8}.get(text, 3)


def test_allowed_where_asked_for(tmp_path: Path):
    text = IMAGE + layer("Clip", "l", "data", clip_param="min: 0 max: inf")
    attack = Attack("allowed", text, NetworkError, limits=Limits(allow_nonfinite=True))
    assert isinstance(attack.run(attack.write(tmp_path)), Network)
