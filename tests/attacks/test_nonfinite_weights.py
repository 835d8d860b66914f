"""NaN and infinity among the weights: refused, unless they are allowed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conversion.caffe.caffe_pb2 import NetParameter
from conversion.caffe.reading import blob_message
from conversion.errors import WeightsError
from conversion.limits import Limits
from conversion.net.network import Network
from tests.attacks.attack import Attack, binary, each
from tests.support.definitions import data, inner_product


def weights(value: float, index: int = 0, bias: float = 0.0) -> bytes:
    filters = np.zeros((2, 3, 3, 3), np.float32)
    filters.reshape(-1)[index] = value
    blobs = [blob_message(filters), blob_message(np.full(2, bias, np.float32))]
    net = NetParameter()
    net.layer.add(name="conv", blobs=blobs)
    return net.SerializeToString()


NAN, INF = float("nan"), float("inf")
BIG = data(1, 1, 1000, 3000) + inner_product("fc", "data", "num_output: 1 bias_term: false")


def last_of_many() -> bytes:
    """Beyond the first part that is looked at."""
    values = np.zeros((1, 3_000_000), np.float32)
    values[0, -1] = NAN
    net = NetParameter()
    net.layer.add(name="fc", blobs=[blob_message(values)])
    return net.SerializeToString()


ATTACKS = [
    Attack("NaN", weights(NAN), WeightsError, ("value 0 of the weights is nan", "--allow-nonfinite"), "weights"),
    Attack("infinity", weights(INF, 53), WeightsError, ("value 53 of the weights is inf",), "weights"),
    Attack("minus infinity", weights(-INF, 7), WeightsError, ("value 7 of the weights is -inf",), "weights"),
    Attack("a bias", weights(0.0, 0, NAN), WeightsError, ("is nan",), "weights"),
    Attack("the last of many", last_of_many(), WeightsError, ("value 2,999,999",), "weights", net=BIG),
    Attack(
        "a double beyond float32",
        binary(
            "layer { name: 'conv' blobs { shape { dim: [2, 3, 3, 3] } double_data: ["
            + "1, " * 53
            + "1e300] } blobs { shape { dim: 2 } data: [1, 2] } }"
        ),
        WeightsError,
        ("value 53 of the weights is inf",),
        "weights",
    ),
]


@each(ATTACKS)
def test_refused(attack: Attack, tmp_path: Path):
    attack.check(tmp_path)


@pytest.mark.parametrize("value", [NAN, INF])
def test_allowed_where_asked_for(value: float, tmp_path: Path):
    attack = Attack("allowed", weights(value), WeightsError, kind="weights", limits=Limits(allow_nonfinite=True))
    network = attack.run(attack.write(tmp_path))
    assert isinstance(network, Network)
    assert not np.isfinite(network.parameters["conv"][0]).all()


def test_in_a_layer_that_is_not_used(tmp_path: Path):
    """What is never computed with does no harm."""
    net = NetParameter.FromString(weights(1.0))
    net.layer.add(name="loss", blobs=[blob_message(np.array([NAN], np.float32))])
    attack = Attack("unused", net.SerializeToString(), WeightsError, kind="weights")
    network = attack.run(attack.write(tmp_path))
    assert isinstance(network, Network)
    assert network.notes == ("weights of layer 'loss' are not used",)
