"""Nets whose cost could grow with the square of their size: linear, or refused."""

from __future__ import annotations

from pathlib import Path

from conversion.errors import NetworkError, UnsupportedError
from conversion.net.network import Network
from tests.attacks.attack import Attack, each
from tests.support.definitions import convolution, data, layer

STAGES = "stage: [" + ", ".join(f"'{i}'" for i in range(20_000)) + "]"
ATTACKS = [
    Attack(
        "stages of rules and states",
        f"state {{ {STAGES} }} layer {{ name: 'x' type: 'y' include {{ {STAGES} }} }}",
        UnsupportedError,
        ("'y'",),
    ),
    Attack(
        "many rules",
        "layer { name: 'x' type: 'y' " + "include { phase: TRAIN } " * 10_000 + "include {} }",
        UnsupportedError,
        ("'y'",),
    ),
    Attack(
        "tops and bottoms of one layer",
        data(1)
        + layer("Split", "s", "data", " ".join(f"s{i}" for i in range(10_000)))
        + layer("Concat", "c", " ".join(f"s{i}" for i in range(10_000)), "a b"),
        NetworkError,
        ("2 top blobs",),
    ),
    Attack(
        "bottoms of different shapes",
        data(1, 1, 4, 4)
        + data(1, 2, 4, 4, name="other")
        + convolution(
            "c", "other " + "data " * 9_999, "num_output: 1 kernel_size: 1", " ".join(f"t{i}" for i in range(10_000))
        ),
        NetworkError,
        ("different shapes",),
    ),
    Attack(
        "learning rates of an old layer",
        "input: 'x' input_dim: [1, 1, 1, 1] layers { name: 'l' type: LRN bottom: 'x' "
        "top: 'y' blobs_lr: [" + "1, " * 40_000 + "1] lrn_param { local_size: 2 } }",
        NetworkError,
        ("local_size",),
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


def test_many_blobs_that_share_memory(tmp_path: Path):
    """Each ReLU writes one of ten thousand blobs in place, all of which Caffe keeps in one place."""
    count = 4_000
    text = data(1) + layer("Split", "s", "data", " ".join(f"s{i}" for i in range(count * 2)))
    text += "".join(layer("ReLU", f"r{i}", f"s{i}", f"s{i}") for i in range(count))
    attack = Attack("shared", text, NetworkError)
    network = attack.run(attack.write(tmp_path))
    assert isinstance(network, Network)
    assert len(network.outputs) == count * 2


def test_a_layer_of_ten_thousand_tops(tmp_path: Path):
    names = [f"t{i}" for i in range(10_000)]
    text = data(1, 1, 4, 4) + layer("Split", "s", "data", " ".join(f"s{i}" for i in range(10_000)))
    text += convolution("c", " ".join(f"s{i}" for i in range(10_000)), "num_output: 1 kernel_size: 1", " ".join(names))
    attack = Attack("wide", text, NetworkError)
    network = attack.run(attack.write(tmp_path))
    assert isinstance(network, Network)
    assert list(network.outputs) == names
