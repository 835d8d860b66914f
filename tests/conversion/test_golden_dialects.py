"""The golden cases of forks' layers, in both forms, and at another size and batch against the reference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conversion import evaluate, load_network, to_tensorflow
from conversion.export.verification import relative_error
from tests.support.golden_cases import GOLDEN, GoldenCase

FOLDER = GOLDEN / "dialects"
INDEX = json.loads((FOLDER / "index.json").read_text())
REFERENCE_TOLERANCE = 1e-6  # of absmax: the truth was computed in float64, and written in float32
TENSORFLOW_TOLERANCE = 1e-4


def test_no_case_is_left_out():
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert folders == {entry["case"] for entry in INDEX}
    assert all(entry["source"] for entry in INDEX)


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["case"])
def test_case(entry: dict):
    case = GoldenCase(entry["case"], FOLDER / entry["case"], frozenset(entry["tags"]))
    network = load_network(case.prototxt, case.weights, dialect=entry["dialect"])
    inputs = case.inputs(next(iter(network.inputs)))
    reference, tensors = evaluate(network, inputs), to_tensorflow(network)(inputs)
    for blob, values in case.outputs().items():
        assert reference[blob].shape == values.shape
        assert relative_error(reference[blob], values.astype(np.float64)) <= REFERENCE_TOLERANCE, blob
        assert relative_error(tensors[blob].numpy(), values.astype(np.float64)) <= TENSORFLOW_TOLERANCE, blob
