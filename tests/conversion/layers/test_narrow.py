"""Networks in 16 bits: what computes in them, and how far the golden cases then are from Caffe."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from conversion import load_network, to_tensorflow
from conversion.export import onnx_net
from conversion.export.net_module import apply_network
from conversion.export.verification import relative_error
from conversion.layers.base import Narrow
from conversion.layers.layout import from_caffe, import_tensorflow, to_caffe
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.net.network import Network
from tests.conversion.test_golden import CASES, REFUSED
from tests.support.forms import run_onnx
from tests.support.golden_cases import GOLDEN, GoldenCase

TOLERANCE = {"float16": 0.01, "bfloat16": 0.05}  # of absmax; their steps are 0.0005 and 0.004 of a number
OTHERWISE = {
    "pool_max_k1s2_empty_window": "an empty window is -FLT_MAX, which 16 bits do not have",
    "argmax_topk_val": "of values that are equal in 16 bits another may be first",
    "fcn_piece": "likewise",
}


def narrowed(case: GoldenCase, precision: str) -> dict[str, Any]:
    """All blobs, the net's inputs given in 16 bits already so that layers that follow them are tried in these."""
    tf = import_tensorflow()
    network = load_network(case.prototxt, case.weights)
    inputs = case.inputs(next(iter(network.inputs), ""))
    given = {blob: from_caffe(tf.cast(value, precision)) for blob, value in inputs.items()}
    blobs = apply_network(network, to_tensorflow(network).weights, given, tf.as_dtype(precision))
    _TYPES[case.name, precision] = {blob: value.dtype.name for blob, value in blobs.items()}
    return blobs


_TYPES: dict[tuple[str, str], dict[str, str]] = {}


def narrowed_types(case: GoldenCase, precision: str) -> dict[str, str]:
    """The type of each blob; another test of this process has computed most cases already."""
    if (case.name, precision) not in _TYPES:
        narrowed(case, precision)
    return _TYPES[case.name, precision]


@pytest.mark.parametrize("precision", TOLERANCE)
@pytest.mark.parametrize("case", [c for c in CASES if c.name not in {*REFUSED, *OTHERWISE}], ids=lambda case: case.name)
def test_golden_case(case: GoldenCase, precision: str):
    found = narrowed(case, precision)
    for blob, values in case.outputs().items():
        value = import_tensorflow().cast(to_caffe(found[blob]), "float32").numpy()
        assert relative_error(value, values) <= TOLERANCE[precision], blob


def narrowed_graph(network: Network) -> tuple[OnnxGraph, dict[str, Value]]:
    """The ONNX form in float16, its inputs too; and all blobs."""
    graph = OnnxGraph(reserved=network.shapes)
    shapes = onnx_net.free_shapes(network)
    inputs = {blob: graph.cast(graph.input(f"{blob}_in", "float32", shapes[blob]), "float16") for blob in shapes}
    weights = onnx_net.add_weights(network, graph)
    return graph, onnx_net.apply_network(network, graph, weights=weights, inputs=inputs, narrow=True)


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in {*REFUSED, *OTHERWISE}], ids=lambda case: case.name)
def test_golden_case_in_onnx(case: GoldenCase):
    network = load_network(case.prototxt, case.weights)
    graph, blobs = narrowed_graph(network)
    expected = case.outputs()
    for blob in expected:
        graph.output(blob, graph.cast(blobs[blob], "float32"))
    inputs = case.inputs(next(iter(network.inputs), ""))
    found = run_onnx(graph.model("narrow"))({f"{blob}_in": value for blob, value in inputs.items()})
    for blob, values in expected.items():
        assert relative_error(found[blob], values) <= TOLERANCE["float16"], blob


def test_both_forms_narrow_the_same_blobs():
    for case in CASES:
        if case.name not in REFUSED:
            _, values = narrowed_graph(load_network(case.prototxt, case.weights))
            assert {n: v.dtype for n, v in values.items()} == narrowed_types(case, "float16"), case.name


@pytest.mark.parametrize("precision", TOLERANCE)
def test_every_layer_that_may_be_narrow_is_among_the_cases(precision: str):
    """And was computed in 16 bits there."""
    narrow = set()
    for case in CASES:
        if case.name in REFUSED:
            continue
        types = narrowed_types(case, precision)
        for layer in load_network(case.prototxt, case.weights).layers:
            if layer.tops and all(types[top] == precision for top in layer.tops):
                narrow.add((layer.caffe_type, layer.narrow))
    always = ("Convolution", "Deconvolution", "InnerProduct")
    follow = (
        *("BatchNorm", "Bias", "Concat", "Crop", "Dropout", "Eltwise", "Flatten", "PReLU", "Pooling", "ReLU"),
        *("Reshape", "Scale", "Slice", "Split"),
    )
    expected = {(name, Narrow.INFER) for name in follow} | {(name, Narrow.ALLOW) for name in always}
    assert {(name, kind) for name, kind in narrow if name != "Input" and kind is not Narrow.DENY} == expected


@pytest.mark.parametrize("precision", TOLERANCE)
def test_what_needs_range_or_digits_stays_in_float32(precision: str):
    """CaffeNet's LRN squares its input; what follows stays in float32 until the next convolution."""
    tf = import_tensorflow()
    folder = GOLDEN / "nets" / "caffenet_small"
    network = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    module = to_tensorflow(network)
    images = tf.constant(np.random.default_rng(0).normal(0, 60, (1, 227, 227, 3)), tf.float32)
    blobs = apply_network(network, module.weights, {"data": images}, tf.as_dtype(precision))
    narrow = {blob for blob, value in blobs.items() if value.dtype.name == precision}
    assert {"conv1", "pool1", "conv2", "pool2", "conv3", "pool5", "fc6", "fc7", "fc8"} <= narrow
    assert {blob for blob in blobs if blob not in narrow} == {"data", "norm1", "norm2", "prob"}
    assert all(value.dtype == tf.float32 for value in apply_network(network, module.weights, {"data": images}).values())
