"""The way back from the layout of a model's weights to Caffe's blobs."""

from __future__ import annotations

import contextlib
import json

import numpy as np
import pytest

from conversion import load_network
from conversion.errors import CastError
from conversion.layers import registered
from conversion.layers.item_norms import BN
from conversion.layers.normalization import BatchNorm
from conversion.passes.cast import cast
from tests.support.golden_cases import GOLDEN, GoldenCase, cases

WITH_WEIGHTS = [
    case
    for kind in ("layers", "nets", "dialects")
    for case in cases(kind)
    if case.weights.exists() and case.name != "fmt_weights_missing_layer"
]

DIALECTS = {entry["case"]: entry["dialect"] for entry in json.loads((GOLDEN / "dialects" / "index.json").read_text())}


@pytest.mark.parametrize("case", WITH_WEIGHTS, ids=lambda case: case.name)
def test_what_prepare_returns_gives_the_blobs_back(case: GoldenCase):
    network = load_network(case.prototxt, case.weights, dialect=DIALECTS.get(case.name))
    networks = [network]
    with contextlib.suppress(CastError):
        networks.append(cast(network))
    for net in networks:
        for layer in net.layers:
            blobs = net.parameters.get(layer.name, ())
            prepared = layer.prepare(blobs)
            restored = layer.restore(prepared)
            if isinstance(layer, (BatchNorm, BN)):  # `prepare` computes: of the restored blobs it computes the same
                for found, expected in zip(layer.prepare(restored), prepared, strict=True):
                    np.testing.assert_allclose(found, expected, rtol=1e-6)
                continue
            for found, expected in zip(restored, blobs, strict=True):
                np.testing.assert_array_equal(found, expected, strict=True)


def test_a_layer_that_changes_the_layout_states_the_way_back():
    one_way = [name for name, cls in registered().items() if _owner(cls, "prepare") is not _owner(cls, "restore")]
    assert one_way == []


def _owner(cls: type, method: str) -> type:
    return next(base for base in cls.__mro__ if method in vars(base))
