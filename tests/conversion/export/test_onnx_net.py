"""Networks as ONNX models: names, shapes, outputs, and how the graph refers to weights."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from conversion import evaluate
from conversion.arrays import Array
from conversion.errors import MissingExtraError, NetworkError, WeightsError
from conversion.export.onnx_net import add_weights, apply_network, free_shapes, to_onnx
from conversion.export.verification import relative_error
from conversion.layers.onnx_graph import OPSET, OnnxGraph
from tests.conversion.layers.test_layers_dynamic import CONVOLUTION, network, one, values
from tests.conversion.layers.test_onnx_forms import golden, operations
from tests.support.forms import onnx_form


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
