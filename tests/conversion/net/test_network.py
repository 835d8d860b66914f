"""Definitions and weights -> Network: what Caffe refuses is refused, and nothing is guessed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from conversion import evaluate, load_network
from conversion.caffe.caffe_pb2 import BlobProto, NetParameter
from conversion.caffe.reading import blob_array, blob_message, parse_definition, read_definition
from conversion.caffe.upgrade import upgrade
from conversion.errors import NetworkError, UnsupportedError, WeightsError
from conversion.net.build import build
from conversion.net.network import Network, learned, to_definition
from conversion.net.weights import with_weights
from tests.support.definitions import (
    CLASSIFIER,
    convolution,
    data,
    definition,
    inner_product,
    layer,
    message_weights,
    network,
    read_weights,
)
from tests.support.field import caffe_files
from tests.support.golden_cases import GOLDEN, cases

X = data(1, 4, 6, 6, name="x")


def relu(name: str, bottom: str, top: str) -> str:
    return layer("ReLU", name, bottom, top)


# --- wiring


def test_unknown_bottom_suggests_the_nearest_blob():
    with pytest.raises(NetworkError, match="unknown bottom blob 'conv_1'") as caught:
        network(
            data(1, 3, 8, 8) + convolution("conv1", "data", "num_output: 1 kernel_size: 1") + relu("r", "conv_1", "r")
        )
    assert caught.value.where == "layer 'r' (ReLU)"
    assert caught.value.remedy == "did you mean 'conv1'?"


def test_blob_of_a_later_layer_is_unknown():
    """Caffe runs layers in file order: a definition in another order would silently see nothing."""
    with pytest.raises(NetworkError, match="unknown bottom blob 'b'"):
        network(X + relu("a", "b", "a") + relu("b", "x", "b"))


def test_two_layers_of_one_name_would_get_the_same_weights():
    twice = convolution("c", "x", "num_output: 4 kernel_size: 1", "a")
    with pytest.raises(NetworkError, match="two layers named 'c'"):
        network(X + twice + convolution("c", "a", "num_output: 4 kernel_size: 1", "b"))
    with pytest.raises(NetworkError, match="two layers named 'c'"):
        network(X + twice + relu("c", "a", "b"))
    with pytest.raises(NetworkError, match="a layer without a name"):
        network(X + convolution("", "x", "num_output: 4 kernel_size: 1", "a"))


def test_layers_that_learn_nothing_need_no_name_of_their_own():
    """Caffe matches weights by name, and looks for no other; nets in the wild have two ReLUs called "relu"."""
    subject = network(
        X + relu("", "x", "a") + relu("", "a", "b") + relu("r", "b", "c") + relu("r", "c", "d") + relu("r_1", "d", "e")
    )
    assert [one.name for one in subject.layers] == ["x", "relu_1", "relu_2", "r", "r_2", "r_1"]
    again = build(to_definition(subject))
    assert to_definition(again) == to_definition(subject)


@pytest.mark.parametrize("name", ["a14_dup_relu", "a14_unnamed"])
def test_nets_with_such_layers_compute_what_named_ones_compute(name: str):
    """The field's two files, and the same net with names: one set of weights, one answer."""
    prototxt, weights = caffe_files(name)
    text = re.sub(
        r'layer \{ (name: "relu" )?type: "ReLU" bottom: "(conv\d)"', r'layer { name: "of_\2" type: "ReLU" bottom: "\2"',
        prototxt.read_text(),
    )  # fmt: skip
    bare = build(parse_definition(text.encode(), where=name))
    assert [one.name for one in bare.layers if one.caffe_type == "ReLU"] == ["of_conv1", "of_conv2"]
    named = with_weights(bare, message_weights(read_weights(weights)))
    image = {"data": np.random.default_rng(0).normal(0, 60, (1, 3, 16, 16))}
    np.testing.assert_array_equal(
        evaluate(load_network(prototxt, weights), image)["prob"], evaluate(named, image)["prob"]
    )


MULTIPLE_SOURCES = {
    "two producers": relu("a", "x", "y") + relu("b", "x", "y"),
    "the input again": relu("a", "x", "a") + relu("b", "a", "x"),
    "one layer, one name twice": layer("Slice", "s", "x", "y y"),
    "in place after another consumer": relu("a", "x", "a") + relu("b", "x", "x"),
    "in place, and twice its own bottom": layer("Eltwise", "e", "x x", "x"),
    "in place at another position": layer("Slice", "s", "x", "y x"),
}


@pytest.mark.parametrize("layers", MULTIPLE_SOURCES.values(), ids=MULTIPLE_SOURCES)
def test_a_blob_has_one_producer(layers: str):
    with pytest.raises(NetworkError, match="is produced by multiple sources"):
        network(X + layers)


def test_in_place_before_other_consumers_changes_what_they_read():
    """The order that Caffe allows, twice over; both branches see what the last layer in place left."""
    subject = network(
        X
        + relu("a", "x", "x")
        + layer("Power", "b", "x", "x", power_param="shift: 1")
        + relu("c", "x", "c")
        + layer("AbsVal", "d", "x", "d")
    )
    x = np.random.default_rng(0).standard_normal((1, 4, 6, 6))
    blobs = evaluate(subject, {"x": x})
    for blob in ("x", "c", "d"):
        np.testing.assert_array_equal(blobs[blob], np.maximum(x, 0) + 1)
    assert subject.outputs == ("c", "d")


def test_in_place_again_after_a_consumer_is_refused():
    """The first is fine; the one after another layer has read the blob is not."""
    with pytest.raises(NetworkError, match="multiple sources") as caught:
        network(X + relu("a", "x", "x") + relu("b", "x", "b") + relu("c", "x", "x"))
    assert caught.value.where == "layer 'c' (ReLU)"


@pytest.mark.parametrize(
    ("layers", "outputs"),
    [
        (relu("a", "x", "x"), ("x",)),
        (relu("a", "x", "a"), ("a",)),
        (relu("a", "x", "a") + relu("b", "x", "b") + relu("c", "a", "a"), ("b", "a")),
        (relu("a", "x", "a") + layer("Silence", "s", "x a", ""), ()),
        (layer("Slice", "s", "x", "a b") + relu("c", "a", "c"), ("b", "c")),
    ],
)
def test_outputs_are_what_nothing_consumes(layers: str, outputs: tuple[str, ...]):
    assert network(X + layers).outputs == outputs


def test_outputs_are_caffes():
    """What Caffe said of every golden net."""
    for kind in ("layers", "nets"):
        stated = {c["case"]: c.get("net_outputs") for c in json.loads((GOLDEN / kind / "index.json").read_text())}
        for case in cases(kind):
            if stated[case.name] is not None:
                assert sorted(build(read_definition(case.prototxt)).outputs) == sorted(stated[case.name]), case.name


def test_number_of_blobs_a_layer_takes():
    with pytest.raises(NetworkError, match="0 bottom blobs, Caffe requires 1"):
        network(layer("ReLU", "a", "", "a"))
    with pytest.raises(NetworkError, match="2 top blobs, Caffe requires 1"):
        network(X + layer("ReLU", "a", "x", "a b"))
    with pytest.raises(NetworkError, match="1 bottom blobs, Caffe requires at least 2"):
        network(X + layer("Eltwise", "a", "x"))


# --- phase, stage, level

RULES = [
    ("include { phase: TEST }", "", True),
    ("include { phase: TRAIN }", "", False),
    ("include { phase: TRAIN } include { phase: TEST }", "", True),
    ("exclude { phase: TEST }", "", False),
    ("exclude { phase: TRAIN }", "", True),
    ("exclude { phase: TRAIN } exclude { stage: 'a' }", "state { stage: 'a' }", False),
    ("include { stage: 'a' }", "", False),
    ("include { stage: 'a' }", "state { stage: 'b' stage: 'a' }", True),
    ("include { stage: 'a' stage: 'b' }", "state { stage: 'a' }", False),
    ("include { not_stage: 'a' }", "", True),
    ("include { not_stage: 'b' not_stage: 'a' }", "state { stage: 'a' }", False),
    ("include { min_level: 1 }", "", False),
    ("include { min_level: 1 }", "state { level: 1 }", True),
    ("include { max_level: -1 }", "", False),
    ("include { max_level: 0 }", "", True),
    ("include { min_level: 0 max_level: 1 }", "state { level: 2 }", False),
    ("exclude { min_level: 2 }", "state { level: 2 }", False),
    ("include { phase: TEST stage: 'a' }", "state { phase: TRAIN stage: 'a' }", True),  # the phase is always TEST
    ("include {}", "", True),
    ("exclude {}", "", False),
]


@pytest.mark.parametrize(("rule", "state", "kept"), RULES)
def test_rules_decide_what_is_in_the_net(rule: str, state: str, kept: bool):
    text = f'layer {{ name: "r" type: "ReLU" bottom: "x" top: "x" {rule} }}'
    names = [layer.name for layer in network(state + X + text).layers]
    assert names == (["x", "r"] if kept else ["x"])


def test_include_and_exclude_together_are_refused():
    with pytest.raises(NetworkError, match="both include and exclude") as caught:
        network(X + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" include {} exclude {} }')
    assert caught.value.where == "layer 'r'"


def test_rules_are_applied_once():
    """A layer kept by the net's own stage and level must still be there when a pass builds the net anew."""
    subject = network(
        "state { stage: 'a' level: 3 }"
        + X
        + 'layer { name: "r" type: "ReLU" bottom: "x" top: "x" include { stage: "a" } }'
        + 'layer { name: "s" type: "ReLU" bottom: "x" top: "x" include { min_level: 2 } }'
    )
    assert [layer.name for layer in build(to_definition(subject)).layers] == ["x", "r", "s"]


def test_excluded_layers_need_no_support_and_no_weights():
    """A training net's data and loss layers do not stand in the way."""
    text = X + 'layer { name: "d" type: "HDF5Data" top: "x" include { phase: TRAIN } }' + relu("r", "x", "r")
    assert [layer.name for layer in network(text).layers] == ["x", "r"]


# --- unsupported


def test_all_unsupported_layers_are_listed():
    """One at a time would cost the user one attempt each."""
    with pytest.raises(UnsupportedError) as caught:
        build(
            definition(
                X
                + layer("Convolution3D", "c3d", "x")
                + relu("fine", "x", "fine")
                + layer("Python", "proposal", "fine")
                + layer("Pooling", "sto", "x", pooling_param="pool: STOCHASTIC kernel_size: 2")
            ),
            where="fork.prototxt",
        )
    error = caught.value
    assert error.where == "fork.prototxt"
    assert error.what.startswith("3 unsupported: ")
    for name, kind in (("c3d", "Convolution3D"), ("proposal", "Python"), ("sto", "STOCHASTIC")):
        assert re.search(f"layer '{name}'[^;]*{kind}", error.what), error.what
    assert "fine" not in error.what


# --- weights

SMALL = X + convolution("conv", "x", "num_output: 2 kernel_size: 3") + inner_product("ip", "conv", "num_output: 5")
WEIGHTS = {
    "conv": [np.arange(72.0).reshape(2, 4, 3, 3), np.arange(2.0)],
    "ip": [np.arange(160.0).reshape(5, 32), np.arange(5.0)],
}


def caffemodel(blobs: Mapping[str, Sequence[np.ndarray]]) -> NetParameter:
    message = NetParameter()
    for name, arrays in blobs.items():
        message.layer.add(name=name, blobs=[blob_message(array) for array in arrays])
    return message


def loaded(blobs: Mapping[str, Sequence[np.ndarray]], text: str = SMALL) -> Network:
    return with_weights(network(text), message_weights(caffemodel(blobs)), where="net.caffemodel")


def test_weights_are_matched_by_name_whatever_their_order():
    subject = loaded(dict(reversed(WEIGHTS.items())))
    for name, arrays in WEIGHTS.items():
        for found, expected in zip(subject.parameters[name], arrays, strict=True):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ip": None}, r"layer 'ip' \(InnerProduct\): 0 of 2 weight blobs"),
        ({"ip": []}, "layer 'ip'.*: 0 of 2"),
        ({"ip": WEIGHTS["ip"][:1]}, "layer 'ip'.*: 1 of 2"),
        ({"conv": [*WEIGHTS["conv"], np.ones(2)]}, "layer 'conv'.*: 3 of 2"),
        ({"ip": [WEIGHTS["ip"][0].T, WEIGHTS["ip"][1]]}, r"shape \(32, 5\), the definition requires \(5, 32\)"),
        ({"ip": [WEIGHTS["ip"][0].reshape(-1), WEIGHTS["ip"][1]]}, r"shape \(160,\)"),
        ({"ip": [WEIGHTS["ip"][0], np.ones((5, 1))]}, r"shape \(5, 1\), the definition requires \(5,\)"),
        ({"ip": [WEIGHTS["ip"][0], np.ones(())]}, r"shape \(\), the definition requires \(5,\)"),
        ({"conv": [np.ones((2, 4, 3, 4)), np.ones(2)]}, r"requires \(2, 4, 3, 3\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_layer(changes: dict, message: str):
    blobs = {name: changes.get(name, arrays) for name, arrays in WEIGHTS.items()}
    with pytest.raises(WeightsError, match=message) as caught:
        loaded({name: arrays for name, arrays in blobs.items() if arrays is not None})
    assert caught.value.where.startswith("net.caffemodel: layer")


def test_bias_that_the_definition_leaves_out_is_not_dropped_in_silence():
    """bias_term: false against a model trained with biases computes something else; Caffe refuses it too."""
    with pytest.raises(WeightsError, match="2 of 1 weight blobs"):
        loaded(WEIGHTS, SMALL.replace("num_output: 5", "num_output: 5 bias_term: false"))


def test_unused_weights_become_notes_and_stay_unused():
    ones = [np.ones(3)]
    subject = loaded({**WEIGHTS, "loss3/classifier": ones, "x": ones})
    assert subject.notes == (
        "weights of layer 'loss3/classifier' are not used",
        "weights of layer 'x' are not used",
    )
    assert set(subject.parameters) == {"conv", "ip"}
    assert loaded(WEIGHTS).notes == ()


def legacy(array: np.ndarray) -> BlobProto:
    """As Caffe wrote blobs in 2014: four dimensions, leading ones."""
    num, channels, height, width = (1,) * (4 - array.ndim) + array.shape
    return BlobProto(num=num, channels=channels, height=height, width=width, data=array.reshape(-1).tolist())


def test_legacy_four_dimensional_blobs():
    message = NetParameter()
    for name, arrays in WEIGHTS.items():
        message.layer.add(name=name, blobs=[legacy(array) for array in arrays])
    assert (message.layer[1].blobs[0].num, message.layer[1].blobs[0].height) == (1, 5)
    subject = with_weights(network(SMALL), message_weights(message))
    for name, arrays in WEIGHTS.items():
        for found, expected in zip(subject.parameters[name], arrays, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_legacy_dimensions_that_are_not_leading_ones_count():
    """(1, 1, 5, 32) is a (5, 32) matrix; (5, 32, 1, 1) and (5, 1, 1, 32) are something else."""
    for shape in ((5, 32, 1, 1), (5, 1, 1, 32)):
        message = NetParameter()
        message.layer.add(name="conv", blobs=[legacy(array) for array in WEIGHTS["conv"]])
        message.layer.add(name="ip", blobs=[legacy(WEIGHTS["ip"][0].reshape(shape)), legacy(WEIGHTS["ip"][1])])
        with pytest.raises(WeightsError, match=re.escape(f"shape {shape}")):
            with_weights(network(SMALL), message_weights(message))


def test_model_that_states_inputs_without_shapes():
    """Caffe's Net::ToProto of 2014 wrote the names of a deploy net's inputs, and no sizes: they do not matter here."""
    message = caffemodel(WEIGHTS)
    message.input.append("x")
    assert set(with_weights(network(SMALL), message_weights(message)).parameters) == {"conv", "ip"}
    assert list(message.input) == ["x"]


SHARING = (
    X
    + inner_product("a", "x", "num_output: 3", param='name: "w"')
    + inner_product("b", "x", "num_output: 3", param='name: "w"')
    + inner_product("c", "x", "num_output: 3")
)


def test_shared_parameters_are_one_object():
    """Held twice they would be stored twice."""
    weights, bias = np.arange(432.0).reshape(3, 144), np.arange(3.0)
    subject = loaded({"a": [weights, bias], "b": [weights, bias + 1], "c": [weights, bias]}, SHARING)
    a, b, c = (subject.parameters[name] for name in "abc")
    assert a[0] is b[0]
    assert a[1] is not b[1]
    assert c[0] is not a[0]
    np.testing.assert_array_equal(b[1], bias + 1)


def test_owner_alone_may_hold_what_is_shared():
    """All blobs shared: the second layer needs none of its own. One blob of its own: it does."""
    both = 'name: "w" } param { name: "v"'
    blobs = [np.arange(432.0).reshape(3, 144), np.arange(3.0)]
    text = X + "".join(inner_product(name, "x", "num_output: 3", param=both) for name in "ab")
    subject = loaded({"a": blobs}, text)
    assert [id(array) for array in subject.parameters["a"]] == [id(array) for array in subject.parameters["b"]]
    with pytest.raises(WeightsError, match=r"layer 'b'.*0 of 2"):
        loaded({"a": blobs, "c": blobs}, SHARING)


def test_shared_parameters_of_different_shapes_are_refused():
    """Caffe does (Net::AppendParam); a matrix of another shape would at best fail in the middle of a product."""

    def text(second: str) -> str:
        return (
            X
            + convolution("a", "x", "num_output: 2 kernel_size: 3", param='name: "w"')
            + convolution("b", "x", "num_output: 2 kernel_h: 1 kernel_w: 9 pad_w: 4", param=second)
        )

    blobs = {name: [np.ones((2, 4, 3, 3)), np.zeros(2)] for name in "ab"}
    with pytest.raises(NetworkError, match=r"shares parameter 'w' of shape \(2, 4, 3, 3\)") as caught:
        loaded(blobs, text('name: "w"'))
    assert caught.value.where == "layer 'b' (Convolution)"
    subject = loaded(blobs, text('name: "w" share_mode: PERMISSIVE'))
    assert np.shares_memory(subject.parameters["a"][0], subject.parameters["b"][0])
    assert subject.parameters["b"][0].shape == (2, 4, 1, 9)
    with pytest.raises(NetworkError, match="shares parameter"):
        loaded(blobs, text('name: "w" share_mode: PERMISSIVE').replace("kernel_w: 9", "kernel_w: 8"))


# --- evaluating


def test_evaluating_without_weights_names_every_layer_that_lacks_them():
    with pytest.raises(WeightsError, match="no weights for layers conv1, fc2, fc3"):
        evaluate(network(CLASSIFIER), {"data": np.zeros((1, 3, 17, 17))})


@pytest.mark.parametrize("inputs", [(), ("image",), ("data", "image")])
def test_missing_and_unknown_inputs(inputs: tuple[str, ...]):
    found = re.escape(str(sorted(inputs)))
    with pytest.raises(NetworkError, match=rf"inputs {found}, the network takes \['data'\]"):
        evaluate(network(CLASSIFIER, seed=0), dict.fromkeys(inputs, np.zeros((1, 3, 17, 17))))


def test_size_that_the_weights_do_not_fit_is_a_typed_error():
    """Not a failure inside a matrix product."""
    with pytest.raises(NetworkError, match="do not fit") as caught:
        evaluate(network(CLASSIFIER, seed=0), {"data": np.zeros((1, 3, 33, 33))})
    assert caught.value.where == "layer 'fc2' (InnerProduct)"


def test_other_number_of_channels_is_a_typed_error():
    with pytest.raises(NetworkError, match="do not fit"):
        evaluate(network(CLASSIFIER, seed=0), {"data": np.zeros((1, 4, 17, 17))})


def test_layer_suggests_the_nearest_names():
    subject = network(CLASSIFIER)
    assert subject.layer("fc2").name == "fc2"
    with pytest.raises(NetworkError, match="no layer 'fc4'") as caught:
        subject.layer("fc4")
    assert set(caught.value.remedy.removeprefix("nearest: ").split(", ")) == {"fc2", "fc3"}
    with pytest.raises(NetworkError) as caught:
        subject.layer("zzzzzz")
    assert caught.value.remedy == ""


def test_shapes_and_costs_at_another_size():
    subject = network(X + convolution("c", "x", "num_output: 2 kernel_size: 3"))
    assert subject.shapes_at({"x": (3, 4, 10, 11)}) == {"x": (3, 4, 10, 11), "c": (3, 2, 8, 9)}
    assert subject.multiply_adds({"x": (3, 4, 10, 11)}) == 3 * 2 * 8 * 9 * 4 * 9
    assert subject.parameter_count() == 2 * 4 * 9 + 2


# --- old forms


@pytest.mark.parametrize("name", ["fmt_v0", "fmt_v1_branches", "fmt_v1_sequential"])
def test_upgrade_equals_caffes_own(name: str):
    """Caffe's upgrade_net_proto_text and _binary made net_upgraded from the same files."""
    folder = GOLDEN / "layers" / name
    ours = build(read_definition(folder / "net.prototxt"))
    theirs = build(read_definition(folder / "net_upgraded.prototxt"))
    assert ours.name == theirs.name
    assert [layer.definition for layer in ours.layers] == [layer.definition for layer in theirs.layers]
    assert ours.shapes == theirs.shapes
    upgraded = read_weights(folder / "net_upgraded.caffemodel")
    expected = {m.name: [blob_array(b, where="") for b in m.blobs] for m in upgraded.layer if m.blobs}
    ours = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    assert set(ours.parameters) == {layer.name for layer, _ in learned(ours)} == set(expected)
    for layer_name, arrays in expected.items():
        for found, array in zip(ours.parameters[layer_name], arrays, strict=True):
            assert found.tobytes() == array.tobytes(), layer_name


@pytest.mark.parametrize("name", ["fmt_v0", "fmt_v1_branches", "fmt_v1_sequential"])
def test_upgraded_weights_carry_the_definition_too(name: str):
    """Layer by layer what Caffe's tool wrote, blobs and learning rates included; the original is left as it was."""
    folder = GOLDEN / "layers" / name
    original = read_weights(folder / "net.caffemodel")
    before = original.SerializeToString(deterministic=True)
    ours, theirs = upgrade(original), read_weights(folder / "net_upgraded.caffemodel")
    assert original.SerializeToString(deterministic=True) == before
    assert [layer.name for layer in ours.layer] == [layer.name for layer in theirs.layer]
    for mine, other in zip(ours.layer, theirs.layer, strict=True):
        assert mine == other, mine.name


def test_current_form_is_not_copied():
    """Weights of hundreds of megabytes pass through."""
    message = caffemodel(WEIGHTS)
    assert upgrade(message) is message


REFUSED_FORMS = {
    "layer and layers": (
        X + 'layers { name: "a" type: RELU bottom: "x" top: "a" }',
        NetworkError,
        "both `layer` and `layers`",
    ),
    "input without a shape": ('input: "data"' + relu("r", "data", "r"), NetworkError, "input data without a shape"),
    "too few input_dim": (
        'input: "data" input_dim: [1, 3, 227]' + relu("r", "data", "r"),
        NetworkError,
        "3 input_dim for 1 inputs",
    ),
    "one shape for two inputs": (
        'input: ["a", "b"] input_shape { dim: [1, 3, 5, 5] }' + relu("r", "a", "r"),
        NetworkError,
        "1 input_shape for 2 inputs",
    ),
    "both ways to state a shape": (
        'input: "a" input_shape { dim: [1, 3, 5, 5] } input_dim: [1, 3, 5, 5]' + relu("r", "a", "r"),
        NetworkError,
        "both input_shape and input_dim",
    ),
    "an Input layer without a shape": (
        layer("Input", "data") + relu("r", "data", "r"),
        NetworkError,
        "0 shapes for 1 tops",
    ),
    "V0 padding into something else": (
        (
            'input: "x" input_dim: [1, 3, 5, 5]'
            'layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "x" top: "p" }'
            'layers { layer { name: "r" type: "relu" } bottom: "p" top: "r" }'
        ),
        NetworkError,
        "padding layer 'pad' feeds 'r'",
    ),
    "a V0 type without successor": (
        'input: "x" input_dim: [1, 3, 5, 5] layers { layer { name: "q" type: "quantum" } bottom: "x" top: "q" }',
        UnsupportedError,
        "layer 'q': V0 layer type 'quantum'",
    ),
    "a V0 field that its type does not have": (
        'input: "x" input_dim: [1, 3, 5, 5] layers { layer { name: "r" type: "relu" stride: 2 } bottom: "x" top: "r" }',
        UnsupportedError,
        "layer 'r': V0 field stride on type 'relu'",
    ),
    "a V1 layer without a type": (
        'input: "x" input_dim: [1, 3, 5, 5] layers { name: "r" bottom: "x" top: "r" }',
        UnsupportedError,
        "layer 'r'",
    ),
}


@pytest.mark.parametrize(("text", "error", "message"), REFUSED_FORMS.values(), ids=REFUSED_FORMS)
def test_old_forms_that_caffe_refuses(text: str, error: type[Exception], message: str):
    with pytest.raises(error, match=re.escape(message)):
        network(text)


def test_v0_padding_folds_into_a_pooling_too():
    subject = network(
        'input: "x" input_dim: [1, 3, 5, 5]'
        'layers { layer { name: "pad" type: "padding" pad: 1 } bottom: "x" top: "p" }'
        'layers { layer { name: "pool" type: "pool" kernelsize: 3 } bottom: "p" top: "pool" }'
    )
    assert [layer.name for layer in subject.layers] == ["input", "pool"]
    assert subject.shapes["pool"] == (1, 3, 5, 5)


def test_v1_rules_decide_too():
    """`include` has moved along, not been lost: the training layer would take the blob's name."""
    subject = network(
        'input: "x" input_dim: [1, 3, 5, 5]'
        'layers { name: "a" type: RELU bottom: "x" top: "y" include { phase: TRAIN } }'
        'layers { name: "b" type: TANH bottom: "x" top: "y" include { phase: TEST } }'
    )
    assert [layer.name for layer in subject.layers] == ["input", "b"]


def test_three_frozen_params_of_an_old_batch_norm_go():
    """Caffe does it since; kept, the save would be refused by newer versions of Caffe."""
    params = "lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0"
    subject = network(X + layer("BatchNorm", "bn", "x", "bn", param=params))
    assert not subject.layer("bn").definition.param
    assert network(X + layer("BatchNorm", "bn", "x", "bn", param="lr_mult: 0")).layer("bn").definition.param


def test_single_concat_and_single_slice_are_their_bottom_so_that_writing_in_place_changes_it():
    """ConcatLayer and SliceLayer share memory then (concat_layer.cpp, slice_layer.cpp: ShareData)."""
    for kind in ("Concat", "Slice"):
        text = f"""
        layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 1 dim: 1 dim: 1 dim: 1 }} }} }}
        layer {{ name: "one" type: "{kind}" bottom: "data" top: "b" }}
        layer {{ name: "minus" type: "Power" bottom: "b" top: "b" power_param {{ scale: -1 }} }}
        layer {{ name: "read" type: "Power" bottom: "data" top: "o" }}
        """
        network = build(parse_definition(text.encode(), where="t"))
        assert evaluate(network, {"data": np.ones((1, 1, 1, 1))})["o"].item() == -1
