"""The ONNX forms of layers: that each has one, and how plain it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import onnx
import pytest

from conversion import cast, evaluate, load_network
from conversion.errors import UnsupportedError
from conversion.export.onnx_net import output_name, to_onnx
from conversion.export.verification import relative_error
from conversion.layers import registered
from conversion.layers.activation import Dropout
from conversion.layers.base import Layer
from conversion.layers.onnx_graph import OnnxGraph
from conversion.layers.onnx_pooling import PoolWindow, pool
from conversion.layers.onnx_sizes import padded, size_of
from conversion.net.network import Network
from tests.conversion.layers.test_layers_dynamic import MAPS, network, one, values
from tests.support.forms import onnx_form, run_onnx
from tests.support.golden_cases import GOLDEN


def operations(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


def golden(name: str) -> Network:
    folder = GOLDEN / "nets" / name
    return load_network(folder / "net.prototxt", folder / "net.caffemodel")


def test_every_layer_of_ours_has_one():
    ours = {name: cls for name, cls in registered().items() if cls.__module__.startswith("conversion.")}
    assert len(ours) > 30
    assert [name for name, cls in ours.items() if cls.onnx is Layer.onnx] == []


def test_a_layer_without_one_says_so():
    """Such as a layer of another package; the other forms do not need it."""

    class Bare(Dropout):
        onnx = Layer.onnx

    subject = network(one("Dropout"), x=(1, 2, 3, 3))
    bare = Bare(subject.layers[1].definition)
    with pytest.raises(UnsupportedError, match="has no ONNX form") as caught:
        to_onnx(dataclasses.replace(subject, layers=(subject.layers[0], bare)))
    assert "'Dropout_y'" in caught.value.where
    assert "Bare" in caught.value.why
    assert caught.value.remedy


# What these nets are made of where the input is finite; a Shape, Pad or Where would make them slower.
PLAIN = {
    "caffenet_small": {"Conv", "Relu", "LRN", "MaxPool", "Softmax"},
    "densenet_piece": {
        *("Add", "AveragePool", "BatchNormalization", "Concat", "Conv", "GlobalAveragePool", "MaxPool", "Mul"),
        *("Relu", "Softmax"),
    },
    "googlenet_piece": {"AveragePool", "Concat", "Conv", "LRN", "MaxPool", "Relu", "Softmax"},
    "resnet_piece": {"Add", "AveragePool", "BatchNormalization", "Conv", "MaxPool", "Mul", "Relu", "Softmax"},
    "squeezenet_piece": {"AveragePool", "Concat", "Conv", "MaxPool", "Relu", "Softmax"},
    "vgg_piece": {"Conv", "MaxPool", "Relu", "Softmax"},
}


@pytest.mark.parametrize("name", PLAIN)
def test_dense_nets_are_plain(name: str):
    """With sizes that are free: the rounding of runtimes is Caffe's for their windows."""
    assert operations(to_onnx(cast(golden(name)), finite=True)) <= PLAIN[name]


@pytest.mark.parametrize("layers", MAPS.values(), ids=MAPS.keys())
def test_of_a_known_size_nothing_is_computed_at_run_time(layers: str):
    subject = network(layers, x=(2, 4, 11, 13))
    model = to_onnx(subject, shapes=subject.inputs)
    assert not operations(model) & {"Shape", "Range"}
    x = values({"x": (2, 4, 11, 13)}, 0)
    found = onnx_form(subject, shapes=subject.inputs)(x)
    for blob, expected in evaluate(subject, x).items():
        assert found[blob].shape == expected.shape
        assert relative_error(found[blob], expected) <= 1e-4, blob
    stated = {info.name: [dim.dim_value for dim in info.type.tensor_type.shape.dim] for info in model.graph.output}
    assert stated == {
        output_name(subject, blob): list(subject.shapes[blob])
        for blob in subject.shapes
        if output_name(subject, blob) in stated
    }


@pytest.mark.parametrize(
    ("before", "cleaned"),
    [
        (one("ReLU", top="m"), False),
        (one("LRN", top="m"), False),
        (one("Power", "power_param { power: 2 shift: -3 }", top="m"), False),
        (one("Log", top="l") + one("ReLU", bottom="l", top="m"), True),
        (one("Power", "power_param { power: 0.5 }", top="m"), True),
        (one("LRN", "lrn_param { k: 0 }", top="m"), True),
        (one("MVN", "mvn_param { eps: 0 }", top="m"), True),
        (one("Log", top="l") + one("Threshold", bottom="l", top="m"), False),
    ],
)
def test_a_maximum_is_cleaned_where_finite_numbers_may_have_become_none(before: str, cleaned: bool):
    subject = network(before + one("Pooling", "pooling_param { kernel_size: 2 }", "m"), x=(1, 2, 5, 5))
    assert ("Where" in operations(to_onnx(subject, finite=True))) == cleaned
    assert "Where" in operations(to_onnx(subject)) or "Threshold" in before


def means_inside(x: np.ndarray, window: PoolWindow, cells: Sequence[int]) -> np.ndarray:
    top = np.zeros((*x.shape[:2], *cells))
    for i, j in np.ndindex(*cells):
        rows, columns = (
            [t for t in (at * s - b + d * tap for tap in range(k)) if 0 <= t < n]
            for at, s, b, d, k, n in zip(
                (i, j), window.stride, window.before, window.dilation, window.kernel, x.shape[2:], strict=True
            )
        )
        top[:, :, i, j] = x[:, :, rows][:, :, :, columns].mean(axis=(2, 3))
    return top


@pytest.mark.parametrize("shape", [(1, 2, 8, 9), ("batch", 2, "height", "width")], ids=["known", "free"])
@pytest.mark.parametrize("dilation", [1, 2])
def test_means_of_the_cells_inside_with_unequal_padding(shape: tuple[int | str, ...], dilation: int):
    window = PoolWindow(False, (3, 2), (2, 1), (1, 0), (2, 1), (dilation, dilation), inside=True)
    graph = OnnxGraph(reserved=["y"])
    x = graph.input("x", "float32", shape)
    sums = (
        size_of(graph, x, 2 + axis) + window.before[axis] + window.after[axis] - dilation * (window.kernel[axis] - 1)
        for axis in (0, 1)
    )
    cells = tuple((n - 1) // s + 1 for n, s in zip(sums, window.stride, strict=True))
    (y,) = pool(graph, x, window, cells=None if dilation == 1 else cells, ceil=False)
    graph.output("y", y)
    array = np.random.default_rng(0).standard_normal((1, 2, 8, 9)).astype(np.float32)
    found = run_onnx(graph.model("pool"))({"x": array})["y"]
    np.testing.assert_allclose(found, means_inside(array, window, found.shape[2:]), atol=1e-5)


def test_sizes_compute_like_whole_numbers():
    """Floor division too, on both sides of 0."""
    graph = OnnxGraph(reserved=["y"])
    n = size_of(graph, graph.input("x", "float32", ["n"]), 0)
    results = [n + 2, 2 + n, n - 9, 9 - n, -n, n * 3, 3 * n, n // 3, (n - 9) // 4, -(-n // 4), n + n]
    joined = graph.node("Concat", [size.value for size in results if not isinstance(size, int)], axis=0)
    graph.output("y", joined)
    run = run_onnx(graph.model("sizes"))
    for length in range(1, 14):
        expected = [
            *(length + 2, length + 2, length - 9, 9 - length, -length, length * 3, length * 3, length // 3),
            *((length - 9) // 4, -(-length // 4), 2 * length),
        ]
        np.testing.assert_array_equal(run({"x": np.zeros(length)})["y"], expected)


def test_padding_by_nothing_adds_no_node():
    graph = OnnxGraph()
    x = graph.input("x", "float32", [1, 2, "height", 4])
    assert padded(graph, x, [0, 0, 0, 0], 0.0) is x
    assert padded(graph, x, [1, 0, 0, 2], 0.0).shape == (1, 2, None, 6)
