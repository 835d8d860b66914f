"""The cast: each pass where it applies and where it must not, and the one property that matters."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conversion import cast, evaluate, load_network
from conversion.caffe.caffe_pb2 import NetParameter
from conversion.caffe.reading import blob_message, parse_definition
from conversion.errors import CastError
from conversion.net.build import build
from conversion.net.network import Network, learned, to_definition
from conversion.net.weights import with_weights
from conversion.passes.bypass_flatten import bypass_flatten
from conversion.passes.cast import PASSES
from conversion.passes.inner_products import inner_products_to_convolutions
from conversion.surgery import initialise, random_parameters
from models import entry
from tests.support.definitions import (
    CLASSIFIER,
    convolution,
    data,
    inner_product,
    layer,
    message_weights,
    network,
    pooling,
)


def kinds(subject: Network) -> dict[str, str]:
    return {layer.name: layer.caffe_type for layer in subject.layers}


def weights_of(subject: Network) -> dict[str, list[tuple[int, ...]]]:
    return {layer.name: shapes for layer, shapes in learned(subject)}


def assert_same_at_training_size(classifier: Network, seed: int = 0) -> Network:
    """The cast gives the classifier's values in every blob that has not been bypassed."""
    dense = cast(classifier)
    rng = np.random.default_rng(seed)
    inputs = {blob: rng.standard_normal(shape) for blob, shape in classifier.inputs.items()}
    before, after = evaluate(classifier, inputs), evaluate(dense, inputs)
    compared = 0
    for blob, values in before.items():
        name = blob if blob in after else f"{blob}-conv"
        if name in after:
            compared += 1
            np.testing.assert_allclose(after[name].reshape(values.shape), values, rtol=1e-9, atol=1e-12, err_msg=blob)
    assert compared == len(after)
    assert set(classifier.outputs) <= {blob.removesuffix("-conv") for blob in dense.outputs}
    return dense


# --- CaffeNet


def test_caffenet_becomes_the_net_of_caffes_own_notebook():
    """net_surgery/bvlc_caffenet_full_conv.prototxt: names, kernels and order."""
    dense = cast(load_network(entry("caffenet").definition))
    shapes = weights_of(dense)
    assert shapes["fc6-conv"] == [(4096, 256, 6, 6), (4096,)]
    assert shapes["fc7-conv"] == [(4096, 4096, 1, 1), (4096,)]
    assert shapes["fc8-conv"] == [(1000, 4096, 1, 1), (1000,)]
    tail = [(m.name, m.type, list(m.bottom), list(m.top)) for m in to_definition(dense).layer]
    assert tail[tail.index(("fc6-conv", "Convolution", ["pool5"], ["fc6-conv"])) :] == [
        ("fc6-conv", "Convolution", ["pool5"], ["fc6-conv"]),
        ("relu6", "ReLU", ["fc6-conv"], ["fc6-conv"]),
        ("drop6", "Dropout", ["fc6-conv"], ["fc6-conv"]),
        ("fc7-conv", "Convolution", ["fc6-conv"], ["fc7-conv"]),
        ("relu7", "ReLU", ["fc7-conv"], ["fc7-conv"]),
        ("drop7", "Dropout", ["fc7-conv"], ["fc7-conv"]),
        ("fc8-conv", "Convolution", ["fc7-conv"], ["fc8-conv"]),
        ("prob", "Softmax", ["fc8-conv"], ["prob"]),
    ]
    assert "InnerProduct" not in kinds(dense).values()
    assert dense.shapes_at({"data": (1, 3, 451, 451)})["prob"] == (1, 1000, 8, 8)


def test_weights_are_the_same_memory():
    """A net of 240 megabytes is not copied."""
    classifier = network(CLASSIFIER, seed=0)
    dense = cast(classifier)
    for name in ("fc2", "fc3"):
        for old, new in zip(classifier.parameters[name], dense.parameters[f"{name}-conv"], strict=True):
            assert np.shares_memory(old, new)
    assert dense.parameters["conv1"][0] is classifier.parameters["conv1"][0]


def test_cast_works_without_weights_and_leaves_its_argument_alone():
    classifier = network(CLASSIFIER)
    before = to_definition(classifier).SerializeToString()
    assert weights_of(cast(classifier)) == weights_of(cast(random_parameters(classifier)))
    assert to_definition(classifier).SerializeToString() == before
    assert not cast(classifier).parameters


def test_a_cast_net_is_left_as_it_is():
    dense = cast(network(CLASSIFIER, seed=0))
    again = cast(dense)
    assert to_definition(again) == to_definition(dense)
    assert again.parameters == dense.parameters


def test_notes_survive():
    """What reading the weights found worth telling reaches the user only after the cast."""
    classifier = network(CLASSIFIER, seed=0)
    extra = NetParameter()
    for name, blobs in {**classifier.parameters, "loss1/fc": (np.ones(2),)}.items():
        extra.layer.add(name=name, blobs=[blob_message(blob) for blob in blobs])
    read = with_weights(network(CLASSIFIER), message_weights(extra))
    assert cast(read).notes == read.notes == ("weights of layer 'loss1/fc' are not used",)


# --- bypass_flatten

MAP = data(2, 3, 5, 4)


def test_flatten_before_an_inner_product_goes():
    text = MAP + layer("Flatten", "flat", "data") + inner_product("ip", "flat", "num_output: 3")
    subject = bypass_flatten(network(text))
    assert kinds(subject) == {"data": "Input", "ip": "InnerProduct"}
    assert subject.layer("ip").bottoms == ("data",)
    dense = assert_same_at_training_size(network(text, seed=1))
    assert weights_of(dense) == {"ip-conv": [(3, 3, 5, 4), (3,)]}


KEPT_FLATTENS = {
    "of some axes": layer("Flatten", "flat", "data", flatten_param="axis: 2")
    + inner_product("ip", "flat", "num_output: 3"),
    "of the first axes": layer("Flatten", "flat", "data", flatten_param="end_axis: 2"),
    "with another reader": layer("Flatten", "flat", "data")
    + inner_product("ip", "flat", "num_output: 3")
    + layer("AbsVal", "abs", "flat"),
    "changed in place": layer("Flatten", "flat", "data")
    + layer("ReLU", "relu", "flat", "flat")
    + inner_product("ip", "flat", "num_output: 3"),
    "that is an output": layer("Flatten", "flat", "data") + inner_product("ip", "data", "num_output: 3"),
}


@pytest.mark.parametrize("layers", KEPT_FLATTENS.values(), ids=KEPT_FLATTENS)
def test_flatten_that_something_else_needs_stays(layers: str):
    subject = network(MAP + layers)
    after = bypass_flatten(subject)
    assert kinds(after) == kinds(subject)
    assert after.outputs == subject.outputs
    assert after.shapes == subject.shapes


@pytest.mark.parametrize(
    "layers",
    [
        layer("Reshape", "flat", "data", reshape_param="shape { dim: 0 dim: -1 }")
        + inner_product("ip", "flat", "num_output: 3"),
        KEPT_FLATTENS["with another reader"],
        KEPT_FLATTENS["changed in place"],
    ],
    ids=["Reshape", "another reader", "in place"],
)
def test_inner_product_behind_what_flattens_still_knows_its_kernel(layers: str):
    dense = assert_same_at_training_size(network(MAP + layers, seed=2))
    assert weights_of(dense) == {"ip-conv": [(3, 3, 5, 4), (3,)]}
    assert dense.shapes_at({"data": (1, 3, 7, 7)})["ip-conv"] == (1, 3, 3, 4)


def test_flatten_between_inner_products_goes():
    assert_same_at_training_size(
        network(
            MAP
            + inner_product("a", "data", "num_output: 6")
            + layer("Flatten", "flat", "a")
            + inner_product("b", "flat", "num_output: 3"),
            seed=0,
        )
    )


def test_passes_run_in_the_order_that_they_need():
    """The other way round the InnerProduct would not know its kernel."""
    subject = network(MAP + layer("Flatten", "flat", "data") + inner_product("ip", "flat", "num_output: 3"))
    assert PASSES.index(bypass_flatten) < PASSES.index(inner_products_to_convolutions)
    with pytest.raises(CastError):
        inner_products_to_convolutions(subject)


# --- inner_products_to_convolutions


def test_no_inner_product_no_change():
    subject = network(MAP + convolution("c", "data", "num_output: 2 kernel_size: 2") + layer("ReLU", "r", "c", "c"))
    assert inner_products_to_convolutions(subject) is subject


def test_layers_in_place_follow_the_renamed_blob():
    dense = cast(network(CLASSIFIER))
    assert [(layer.bottoms, layer.tops) for layer in dense.layers if layer.name in ("relu1", "relu2", "drop2")] == [
        (("conv1",), ("conv1",)),
        (("fc2-conv",), ("fc2-conv",)),
        (("fc2-conv",), ("fc2-conv",)),
    ]
    assert dense.layer("fc3-conv").bottoms == ("fc2-conv",)
    assert dense.layer("prob").tops == ("prob",)


def test_rectangular_input_gives_rectangular_kernels():
    dense = assert_same_at_training_size(network(MAP + inner_product("ip", "data", "num_output: 2"), seed=2))
    assert weights_of(dense) == {"ip-conv": [(2, 3, 5, 4), (2,)]}
    assert dense.shapes_at({"data": (1, 3, 6, 7)})["ip-conv"] == (1, 2, 2, 4)


def test_dense_cells_are_the_classifier_on_shifted_crops():
    """Where nothing pads, so that a crop sees all that a cell sees."""
    classifier = network(
        data(1, 2, 6, 7)
        + convolution("c", "data", "num_output: 4 kernel_size: 3")
        + inner_product("ip", "c", "num_output: 3"),
        seed=3,
    )
    image = np.random.default_rng(0).standard_normal((1, 2, 9, 9))
    dense = evaluate(cast(classifier), {"data": image})["ip-conv"]
    assert dense.shape == (1, 3, 4, 3)
    for y in range(4):
        for x in range(3):
            crop = evaluate(classifier, {"data": image[:, :, y : y + 6, x : x + 7]})["ip"]
            np.testing.assert_allclose(dense[:, :, y, x], crop, rtol=1e-9)


def test_transposed_weights():
    text = MAP + inner_product("ip", "data", "num_output: 2 transpose: true")
    classifier = network(text, seed=4)
    assert classifier.parameters["ip"][0].shape == (60, 2)
    dense = assert_same_at_training_size(classifier)
    assert dense.parameters["ip-conv"][0].shape == (2, 3, 5, 4)


def test_no_bias_and_fillers_move_along():
    parameter = 'num_output: 2 bias_term: false weight_filler { type: "xavier" }'
    dense = assert_same_at_training_size(network(MAP + inner_product("ip", "data", parameter), seed=5))
    message = dense.layer("ip-conv").definition.convolution_param
    assert not message.bias_term
    assert message.weight_filler.type == "xavier"
    assert weights_of(dense) == {"ip-conv": [(2, 3, 5, 4)]}


def test_learning_rates_and_shared_names_move_along():
    params = 'name: "w" lr_mult: 3 } param { lr_mult: 0'
    dense = cast(network(MAP + inner_product("ip", "data", "num_output: 2", param=params)))
    definition = dense.layer("ip-conv").definition
    assert [(p.name, p.lr_mult) for p in definition.param] == [("w", 3), ("", 0)]


def shared(text: str, *names: str, seed: int = 6) -> Network:
    """Random weights, the first layer's for all of `names`."""
    classifier = network(text, seed=seed)
    own = classifier.parameters
    return dataclasses.replace(classifier, parameters={**own, **dict.fromkeys(names, own[names[0]])})


@pytest.mark.parametrize("transpose", ["", "transpose: true"])
def test_shared_inner_products_stay_one_array(transpose: str):
    """Two copies would be stored and held twice."""
    parameter = f"num_output: 4 {transpose}"
    dense = assert_same_at_training_size(
        shared(
            data(1, 2, 3, 3, name="a")
            + data(1, 2, 3, 3, name="b")
            + inner_product("p", "a", parameter)
            + inner_product("q", "b", parameter)
            + layer("Eltwise", "e", "p q"),
            "p",
            "q",
        )
    )
    assert dense.parameters["p-conv"][0] is dense.parameters["q-conv"][0]
    assert dense.parameters["p-conv"][1] is dense.parameters["q-conv"][1]


def test_shared_inner_products_on_maps_of_other_shapes():
    """One matrix, three filter banks: 18 values are 2x3x3, 1x2x9 and a vector."""
    dense = assert_same_at_training_size(
        shared(
            data(1, 2, 3, 3, name="a")
            + data(1, 1, 2, 9, name="b")
            + inner_product("p", "a", "num_output: 18")
            + inner_product("q", "b", "num_output: 18")
            + inner_product("r", "p", "num_output: 18"),
            "p",
            "q",
            "r",
        )
    )
    shapes = {name: blobs[0].shape for name, blobs in dense.parameters.items()}
    assert shapes == {"p-conv": (18, 2, 3, 3), "q-conv": (18, 1, 2, 9), "r-conv": (18, 18, 1, 1)}
    assert {name: [blob.shape for blob in blobs] for name, blobs in dense.parameters.items()} == weights_of(dense)


@pytest.mark.parametrize("axis", [1, -1])
def test_softmax_axis_counts_from_the_start(axis: int):
    """-1 was the classes; on a map it would be the columns."""
    classifier = network(
        MAP
        + inner_product("ip", "data", "num_output: 3")
        + layer("Softmax", "prob", "ip", softmax_param=f"axis: {axis}"),
        seed=7,
    )
    dense = assert_same_at_training_size(classifier)
    prob = evaluate(dense, {"data": np.random.default_rng(0).standard_normal((1, 3, 8, 9))})["prob"]
    assert prob.shape == (1, 3, 4, 6)
    np.testing.assert_allclose(prob.sum(axis=1), 1)


def test_negative_axis_of_a_map_layer_is_its_own():
    """Before the first InnerProduct nothing gains axes: -3 of [N, C, H, W] stays."""
    text = (
        MAP + layer("Concat", "cat", "data data", concat_param="axis: -3") + inner_product("ip", "cat", "num_output: 3")
    )
    dense = assert_same_at_training_size(network(text, seed=8))
    assert dense.layer("cat").definition.concat_param.axis == -3


def test_layers_on_flat_blobs_follow():
    """What stands between InnerProducts in real nets, each counting axes in its own way."""
    classifier = network(
        MAP
        + inner_product("a", "data", "num_output: 6")
        + layer("BatchNorm", "bn", "a", "a")
        + layer("Scale", "sc", "a", "a", scale_param="bias_term: true axis: -1")
        + layer("Slice", "sl", "a", "s t", slice_param="axis: -1 slice_point: 2")
        + layer("Concat", "cat", "t s", concat_param="axis: -1")
        + layer("PReLU", "pr", "cat", "cat")
        + inner_product("b", "cat", "num_output: 4")
        + layer("Eltwise", "e", "b b"),
        seed=9,
    )
    positive = initialise(classifier, lambda layer, i, shape: np.random.default_rng(i).uniform(0.5, 2, shape))
    dense = assert_same_at_training_size(positive)
    assert dense.shapes_at({"data": (1, 3, 7, 9)})["e"] == (1, 4, 3, 6)


REFUSED = {
    "over rows only": (MAP + inner_product("ip", "data", "num_output: 3 axis: 2"), "axis 2"),
    "over the last axis": (MAP + inner_product("ip", "data", "num_output: 3 axis: -1"), "axis -1"),
    "over the batch too": (MAP + inner_product("ip", "data", "num_output: 3 axis: 0"), "axis 0"),
    "on vectors that were never a map": (data(2, 9) + inner_product("ip", "data", "num_output: 3"), "2 axes"),
    "on volumes": (data(1, 2, 3, 3, 3) + inner_product("ip", "data", "num_output: 3"), "5 axes"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_dense_form_is_refused(text: str, message: str):
    """A net that is nearly cast would give a map of something else."""
    with pytest.raises(CastError, match=message) as caught:
        cast(network(text))
    assert caught.value.where == "layer 'ip' (InnerProduct)"


def test_batch_axis_counted_from_the_end_stays_the_batch_axis():
    """-2 of [N, K] is N; of the map it would be the rows."""
    text = MAP + inner_product("ip", "data", "num_output: 4") + layer("Softmax", "s", "ip", softmax_param="axis: -2")
    dense = assert_same_at_training_size(network(text, seed=0))
    assert dense.layer("s").definition.softmax_param.axis == 0


# --- the property


@st.composite
def classifiers(draw: st.DrawFn) -> str:
    """Random stacks of convolutions, poolings and what stands between them; then one to three InnerProducts."""
    size = draw(st.integers(6, 14)), draw(st.integers(6, 14))
    text = data(draw(st.integers(1, 2)), draw(st.integers(1, 3)), *size)
    top = "data"
    for index in range(draw(st.integers(0, 3))):
        name, kind = f"l{index}", draw(st.sampled_from(["conv", "max", "ave", "lrn", "relu"]))
        smallest = min(network(text).shapes[top][2:])
        kernel = draw(st.integers(1, min(3, smallest)))
        stride, pad = draw(st.integers(1, 2)), draw(st.integers(0, kernel - 1))
        window = f"kernel_size: {kernel} stride: {stride} pad: {pad}"
        if kind == "conv":
            text += convolution(name, top, f"num_output: {draw(st.integers(1, 4))} {window}")
        elif kind == "lrn":
            text += layer("LRN", name, top, lrn_param="local_size: 3")
        elif kind == "relu":
            text += layer("ReLU", name, top, top)
            continue
        else:
            # Not beyond the kernel: a window between the cells is empty (CAFFE.md), and NaN is never equal.
            window = f"kernel_size: {kernel} stride: {min(stride, kernel)} pad: {pad}"
            text += pooling(name, top, f"pool: {kind.upper()} {window}")
        top = name
    if draw(st.booleans()):
        text += layer("Flatten", "flat", top)
        top = "flat"
    for index in range(draw(st.integers(1, 3))):
        name = f"ip{index}"
        transpose, bias = (str(draw(st.booleans())).lower() for _ in range(2))
        text += inner_product(
            name, top, f"num_output: {draw(st.integers(1, 5))} transpose: {transpose} bias_term: {bias}"
        )
        if draw(st.booleans()):
            text += layer("ReLU", f"relu{index}", name, name)
        top = name
    return text + layer("Softmax", "prob", top, softmax_param=f"axis: {draw(st.sampled_from([1, -1]))}")


@given(classifiers(), st.integers(0, 2**32 - 1))
@settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_cast_equals_the_classifier_at_its_own_size(text: str, seed: int):
    rng = np.random.default_rng(seed)
    classifier = initialise(
        network(text), lambda _layer, _index, shape: rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]) or 1)
    )
    dense = assert_same_at_training_size(classifier, seed)
    larger = {blob: (shape[0], shape[1], shape[2] + 5, shape[3] + 9) for blob, shape in classifier.inputs.items()}
    assert len(dense.shapes_at(larger)["prob"]) == 4


@pytest.mark.parametrize(("name", "top"), [("fc-conv", "other"), ("other", "fc-conv")])
def test_a_name_that_the_cast_would_give_twice_is_refused(name: str, top: str):
    """Else the weights of one of the two would be lost."""
    text = f"""
    layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 3 dim: 8 dim: 8 }} }} }}
    layer {{ name: "fc" type: "InnerProduct" bottom: "data" top: "fc" inner_product_param {{ num_output: 3 }} }}
    layer {{ name: "{name}" type: "InnerProduct" bottom: "fc" top: "{top}" inner_product_param {{ num_output: 3 }} }}
    """
    with pytest.raises(CastError, match="'fc-conv' is taken"):
        cast(build(parse_definition(text.encode(), where="t")))
