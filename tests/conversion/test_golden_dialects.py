"""The golden cases of forks' layers, in every form, and at another size against the reference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from conversion import evaluate, load_network, to_tensorflow
from conversion.errors import NetworkError
from conversion.export.net_module import apply_network
from conversion.export.verification import relative_error
from conversion.layers.base import Narrow
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from tests.support.forms import FORMS
from tests.support.golden_cases import GOLDEN, GoldenCase

FOLDER = GOLDEN / "dialects"
INDEX = json.loads((FOLDER / "index.json").read_text())
REFERENCE_TOLERANCE = 1e-6  # of absmax: the truth was computed in float64, and written in float32
FORM_TOLERANCE = 1e-4
NARROW_TOLERANCE = {"float16": 0.01, "bfloat16": 0.05}


def test_no_case_is_left_out():
    folders = {path.name for path in FOLDER.iterdir() if path.is_dir()}
    assert folders == {entry["case"] for entry in INDEX}
    assert all(entry["source"] for entry in INDEX)


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["case"])
def test_case(entry: dict):
    case = GoldenCase(entry["case"], FOLDER / entry["case"], frozenset(entry["tags"]))
    network = load_network(case.prototxt, case.weights, dialect=entry["dialect"])
    inputs = case.inputs(next(iter(network.inputs)))
    reference = evaluate(network, inputs)
    forms = {name: form(network) for name, form in FORMS.items()}
    answers = {name: form(inputs) for name, form in forms.items()}
    for blob, values in case.outputs().items():
        expected = values.astype(np.float64)
        assert reference[blob].shape == values.shape
        assert relative_error(reference[blob], expected) <= REFERENCE_TOLERANCE, blob
        for name, answer in answers.items():
            assert relative_error(answer[blob], expected) <= FORM_TOLERANCE, (name, blob)
    larger = {
        blob: np.pad(values, [(0, 0), (0, 0), (0, 3), (1, 4)], mode="wrap") if values.ndim == 4 else values
        for blob, values in inputs.items()
    }
    try:
        reference = evaluate(network, larger)
    except NetworkError:
        return  # the layer states a size
    for name, form in forms.items():
        answer = form(larger)
        for blob in network.outputs:
            assert relative_error(answer[blob], reference[blob]) <= FORM_TOLERANCE, (name, blob)


@pytest.mark.parametrize("precision", NARROW_TOLERANCE)
def test_cases_in_16_bits(precision: str):
    """Layers that need range or digits keep float32; what the others lose is bounded. One case of each kind."""
    tf = import_tensorflow()
    computed = set()
    for entry in INDEX:
        if not entry["case"].endswith("_0"):
            continue
        case = GoldenCase(entry["case"], FOLDER / entry["case"], frozenset(entry["tags"]))
        network = load_network(case.prototxt, case.weights, dialect=entry["dialect"])
        inputs = case.inputs(next(iter(network.inputs)))
        given = {blob: from_caffe(tf.cast(value, precision)) for blob, value in inputs.items()}
        blobs = apply_network(network, to_tensorflow(network).weights, given, tf.as_dtype(precision))
        layer = network.layers[-1]
        narrow = all(blobs[top].dtype.name == precision for top in layer.tops)
        assert narrow == (layer.narrow is not Narrow.DENY), entry["case"]
        computed |= {layer.caffe_type} if narrow else set()
        for blob, values in case.outputs().items():
            value = tf.cast(to_caffe(blobs[blob]), "float32").numpy()
            assert relative_error(value, values) <= NARROW_TOLERANCE[precision], (entry["case"], blob)
    assert {"Axpy", "BN", "CReLU", "Permute", "PixelShuffle", "Reorg", "ShuffleChannel", "Upsample"} <= computed
