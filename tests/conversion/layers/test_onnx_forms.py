"""The ONNX forms of layers: that each has one, how plain it is, and how the graph refers to weights."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from conversion import cast, evaluate, load_network
from conversion.arrays import Array
from conversion.errors import MissingExtraError, NetworkError, UnsupportedError, WeightsError
from conversion.export.onnx_net import add_weights, apply_network, free_shapes, to_onnx
from conversion.export.verification import relative_error
from conversion.layers import registered
from conversion.layers.activation import Dropout
from conversion.layers.base import Layer
from conversion.layers.onnx_graph import OPSET, OnnxGraph
from conversion.layers.onnx_pooling import PoolWindow, pool
from conversion.layers.onnx_sizes import padded, size_of
from conversion.net.network import Network
from tests.conversion.layers.test_layers_dynamic import CONVOLUTION, MAPS, network, one, values
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
    assert stated == {name: list(subject.shapes[name]) for name in stated}


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


def test_names_of_free_axes():
    one_input, two = network(one("ReLU"), x=(2, 3, 8, 9)), network(one("Eltwise", "", "a b"), a=(1, 2), b=(1, 2))
    assert free_shapes(one_input) == {"x": ("batch", 3, "height", "width")}
    assert free_shapes(two) == {"a": ("a_batch", 2), "b": ("b_batch", 2)}
    top = to_onnx(one_input).graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in top] == ["batch", 3, "height", "width"]


def test_the_opset_is_one_that_runtimes_have():
    model = to_onnx(network(one("ReLU"), x=(2, 3, 8, 9)))
    assert (OPSET, [o.version for o in model.opset_import], model.ir_version) == (13, [13], 8)


def test_outputs_that_are_chosen():
    layers = one("ReLU", top="r") + one("Sigmoid", bottom="r", top="s") + one("TanH", bottom="r", top="t")
    subject = network(layers, x=(1, 2, 3, 3))
    model = to_onnx(subject, outputs=["s"])
    assert operations(model) == {"Relu", "Sigmoid"}  # what no output needs is left out
    for blob in ("x", "nothing"):
        with pytest.raises(NetworkError, match=f"no blob '{blob}'"):
            to_onnx(subject, outputs=[blob])


def test_what_does_not_fit_is_refused():
    subject = network(one("Convolution", CONVOLUTION.format("kernel_size: 5")), x=(1, 2, 9, 9))
    with pytest.raises(NetworkError, match="smaller than the window"):
        to_onnx(subject, shapes={"x": ("batch", 2, 4, 4)})
    with pytest.raises(NetworkError, match="the network takes"):
        to_onnx(subject, shapes={"y": (1, 2, 9, 9)})
    with pytest.raises(WeightsError):
        to_onnx(dataclasses.replace(subject, parameters={}))


def test_without_onnx_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="onnx is not installed") as caught:
        OnnxGraph()
    assert "`onnx`" in caught.value.remedy


def test_an_input_changed_in_place_and_names_that_collide():
    """The blob has another name as an output; layers and blobs may be called what values would be."""
    layers = (
        'layer { name: "y" type: "ReLU" bottom: "x" top: "x" }\n'
        'layer { name: "y" type: "Sigmoid" bottom: "x" top: "y/Sigmoid" }\n'
        'layer { name: "z" type: "Split" bottom: "x" top: "x_after" top: "b" }\n'
    ).replace('name: "y" type: "Sigmoid"', 'name: "y/" type: "Sigmoid"')
    subject = network(layers, x=(1, 2, 3, 3))
    assert {output.name for output in to_onnx(subject).graph.output} == {"x_after_after", "y/Sigmoid", "x_after", "b"}
    x = values({"x": (1, 2, 3, 3)}, 0)
    found = onnx_form(subject)(x)
    for blob, expected in evaluate(subject, x).items():
        assert relative_error(found[blob], expected) <= 1e-6, blob


def test_layers_that_share_weights_have_them_once():
    def convolution(name: str, bottom: str) -> str:
        return (
            f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" param {{ name: "w" }}'
            f" convolution_param {{ num_output: 4 kernel_size: 3 pad: 1 bias_term: false }} }}\n"
        )

    subject = network(convolution("a", "x") + convolution("b", "a"), x=(1, 4, 9, 9))
    shared = subject.parameters["a"]
    subject = dataclasses.replace(subject, parameters={"a": shared, "b": shared})
    model = to_onnx(subject)
    assert len(model.graph.initializer) == 1
    assert list(model.graph.initializer[0].dims) == [4, 4, 3, 3]


def test_stored_weights_are_referred_to_not_copied(tmp_path: Path):
    """One file serves other forms too: the graph changes the layout that `prepare` gives when it is loaded."""
    subject = golden("caffenet_small")
    written = bytearray()

    def store(layer: str, index: int, array: Array) -> onnx.TensorProto:
        tensor = onnx.TensorProto(data_type=onnx.TensorProto.FLOAT, dims=array.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": "weights", "offset": len(written), "length": array.nbytes}.items():
            tensor.external_data.add(key=key, value=str(value))
        written.extend(array.tobytes())
        return tensor

    graph = OnnxGraph(reserved=subject.shapes)
    inputs = {"data": graph.input("data", "float32", free_shapes(subject)["data"])}
    blobs = apply_network(subject, graph, weights=add_weights(subject, graph, store), inputs=inputs)
    graph.output("prob", blobs["prob"])
    model = graph.model("net", {"note": "text"})
    assert len(model.SerializeToString()) < 60_000
    assert [(prop.key, prop.value) for prop in model.metadata_props] == [("note", "text")]
    (tmp_path / "weights").write_bytes(written)
    onnx.save(model, tmp_path / "net.onnx")
    onnx.checker.check_model(tmp_path / "net.onnx", full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(0, 50, subject.inputs["data"]).astype(np.float32)
    (found,) = session.run(["prob"], {"data": image})
    assert relative_error(found, evaluate(subject, {"data": image})["prob"]) <= 1e-4


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
