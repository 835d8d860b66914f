"""Definitions made for training, read as classifiers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from conversion import cast, convert, evaluate, load_network
from conversion.caffe.caffe_pb2 import NetParameter
from conversion.caffe.reading import blob_message, parse_definition
from conversion.caffe.strip_training import strip
from conversion.errors import ConversionError, NetworkError, UnsupportedError
from conversion.net.build import build
from conversion.net.network import Network
from conversion.net.weights import with_weights
from conversion.surgery import random_parameters, save
from tests.support.definitions import (
    convolution,
    data,
    definition,
    inner_product,
    layer,
    message_weights,
    network,
    pooling,
)
from tests.support.golden_cases import GOLDEN

# As bvlc_reference_caffenet/train_val.prototxt begins and ends; in between a net that is quick to evaluate.
SOURCES = """
name: "small"
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
  transform_param { mirror: true crop_size: 17 mean_file: "/nowhere/mean.binaryproto" }
  data_param { source: "/nowhere/train_lmdb" batch_size: 256 backend: LMDB }
}
layer {
  name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
  transform_param { mirror: false crop_size: 19 mean_file: "/nowhere/mean.binaryproto" }
  data_param { source: "/nowhere/val_lmdb" batch_size: 50 backend: LMDB }
}
"""
BODY = convolution("conv1", "data", "num_output: 4 kernel_size: 3") + pooling(
    "pool1", "conv1", "kernel_size: 3 stride: 2"
)
AUXILIARY = inner_product("aux", "pool1", "num_output: 5", include="phase: TRAIN") + layer(
    "SoftmaxWithLoss", "aux_loss", "aux label", include="phase: TRAIN", loss_weight=""
).replace("loss_weight {  }", "loss_weight: 0.3")
HEAD = inner_product("fc2", "pool1", "num_output: 5")
LOSSES = layer("Accuracy", "accuracy", "fc2 label", include="phase: TEST") + layer(
    "SoftmaxWithLoss", "loss", "fc2 label"
)
TRAIN_VAL = SOURCES + BODY + AUXILIARY + HEAD + LOSSES
DEPLOY = data(1, 3, 19, 19) + BODY + HEAD + layer("Softmax", "prob", "fc2")


def kinds(subject: Network) -> dict[str, str]:
    return {one.name: one.caffe_type for one in subject.layers}


def test_train_val_is_the_deployed_net():
    """The same layers, shapes and values; the input is that of phase TEST."""
    subject, deployed = random_parameters(network(TRAIN_VAL), 1), random_parameters(network(DEPLOY), 1)
    assert subject.inputs == {"data": (1, 3, 19, 19)}
    assert subject.outputs == ("prob",)
    assert subject.shapes == deployed.shapes
    assert list(kinds(subject).values()) == list(kinds(deployed).values())
    image = {"data": np.random.default_rng(0).standard_normal((2, 3, 19, 19))}
    np.testing.assert_array_equal(evaluate(subject, image)["prob"], evaluate(deployed, image)["prob"])
    assert cast(subject).shapes["prob"] == (1, 5, 1, 1)


def test_everything_that_was_done_is_told():
    assert network(TRAIN_VAL).notes == (
        "'data' (Data) becomes an input of 3x19x19",
        "'data' (Data) subtracted the mean in '/nowhere/mean.binaryproto', which is not read: pass it as mean",
        "'loss' (SoftmaxWithLoss) becomes the Softmax 'prob'",
        "left out, since only training uses them: 'accuracy' (Accuracy)",
    )


def test_notes_survive_weights_and_cast(tmp_path: Path):
    file = tmp_path / "train_val.prototxt"
    file.write_text(TRAIN_VAL)
    subject = load_network(file)
    extra = NetParameter()
    for name, blobs in random_parameters(subject).parameters.items():
        extra.layer.add(name=name, blobs=[blob_message(blob) for blob in blobs])
    extra.layer.add(name="aux", blobs=[blob_message(np.ones(3))])
    read = with_weights(subject, message_weights(extra))
    assert read.notes[:-1] == subject.notes
    assert read.notes[-1] == "weights of layer 'aux' are not used"
    assert cast(read).notes == read.notes


def test_a_deployed_net_is_left_alone():
    layers = list(definition(DEPLOY).layer)
    stripped = strip(layers)
    assert stripped.notes == ()
    assert all(a is b for a, b in zip(stripped.layers, layers, strict=True))
    assert network(DEPLOY).notes == ()


def test_the_definition_is_not_changed():
    message = definition(TRAIN_VAL)
    before = message.SerializeToString()
    build(message)
    assert message.SerializeToString() == before


# --- the input

IMAGES = {
    "crop": ('type: "Data" transform_param { crop_size: 20 }', (1, 3, 20, 20)),
    "grey crop": ('type: "Data" transform_param { crop_size: 20 force_gray: true }', (1, 1, 20, 20)),
    "image list": ('type: "ImageData" image_data_param { new_height: 21 new_width: 23 source: "/no" }', (1, 3, 21, 23)),
    "grey image list": (
        'type: "ImageData" image_data_param { new_height: 21 new_width: 23 is_color: false }',
        (1, 1, 21, 23),
    ),
    "cropped image list": (
        'type: "ImageData" transform_param { crop_size: 20 } image_data_param { new_height: 21 new_width: 23 }',
        (1, 3, 20, 20),
    ),
    "windows": (
        'type: "WindowData" transform_param { crop_size: 20 } window_data_param { source: "/no" }',
        (1, 3, 20, 20),
    ),
    "memory": (
        'type: "MemoryData" memory_data_param { batch_size: 8 channels: 2 height: 20 width: 22 }',
        (1, 2, 20, 22),
    ),
    "cropped memory": (
        'type: "MemoryData" transform_param { crop_size: 19 } memory_data_param { channels: 2 height: 20 width: 22 }',
        (1, 2, 19, 19),
    ),
    "dummy": (
        'type: "DummyData" dummy_data_param { shape { dim: 8 dim: 3 dim: 20 dim: 20 } shape { dim: 8 } }',
        (1, 3, 20, 20),
    ),
    "old dummy": (
        'type: "DummyData" dummy_data_param { num: [8, 8] channels: [3, 1] height: [20, 1] width: [21, 1] }',
        (1, 3, 20, 21),
    ),
}


@pytest.mark.parametrize(("source", "shape"), IMAGES.values(), ids=IMAGES)
def test_size_of_the_images(source: str, shape: tuple[int, ...]):
    subject = network(f'layer {{ name: "d" top: "data" top: "label" {source} }}' + BODY + HEAD + LOSSES)
    assert subject.inputs == {"data": shape}


UNKNOWN = {
    "Data": 'type: "Data" data_param { source: "/nowhere" }',
    "HDF5Data": 'type: "HDF5Data" hdf5_data_param { source: "/nowhere" batch_size: 2 }',
    "ImageData": 'type: "ImageData" image_data_param { source: "/nowhere" }',
}


@pytest.mark.parametrize("source", UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_size_is_an_error_with_a_way_out(source: str, tmp_path: Path):
    text = f'layer {{ name: "d" top: "data" top: "label" {source} }}' + BODY + HEAD + LOSSES
    file = tmp_path / "net.prototxt"
    file.write_text(text)
    with pytest.raises(NetworkError, match="does not state the size") as caught:
        load_network(file)
    assert str(file) in caught.value.where
    assert "--crop" in caught.value.remedy
    assert load_network(file, crop=18).inputs == {"data": (1, 3, 18, 18)}
    assert load_network(file, crop=(18, 20)).inputs == {"data": (1, 3, 18, 20)}
    assert load_network(file, crop=(1, 18, 20)).inputs == {"data": (1, 1, 18, 20)}


def test_crop_takes_the_place_of_what_the_layer_says():
    assert build(definition(DEPLOY), crop=21).inputs == {"data": (1, 3, 21, 21)}
    assert build(definition(DEPLOY), crop=(1, 21, 20)).inputs == {"data": (1, 1, 21, 20)}
    assert build(definition(TRAIN_VAL), crop=21).inputs == {"data": (1, 3, 21, 21)}
    memory = 'layer { name: "d" type: "MemoryData" top: "data" memory_data_param { channels: 2 height: 9 width: 9 } }'
    assert build(definition(memory + BODY), crop=(19, 20)).inputs == {"data": (1, 2, 19, 20)}


def test_input_that_only_training_has():
    """A definition without a data layer for TEST: the images are those of TRAIN."""
    text = SOURCES[: SOURCES.rindex("layer {")] + BODY + HEAD + LOSSES
    assert network(text).inputs == {"data": (1, 3, 17, 17)}
    assert network(text).outputs == ("prob",)


def test_hdf5_data_by_any_name():
    """Its tops are called what its datasets are: images are what filters work on."""
    text = (
        'layer { name: "d" type: "HDF5Data" top: "weights_of_items" top: "pictures" hdf5_data_param { source: "/n" } }'
    )
    text += convolution("c", "pictures", "num_output: 2 kernel_size: 3") + layer(
        "EuclideanLoss", "l", "c weights_of_items"
    )
    subject = build(definition(text), crop=9)
    assert subject.inputs == {"pictures": (1, 3, 9, 9)}
    assert subject.outputs == ("c",)


def test_transformation_is_told_and_not_applied():
    source = (
        'type: "Data" transform_param { crop_size: 19 mean_value: 104 mean_value: 117.5 mean_value: 123 scale: 0.5 }'
    )
    subject = network(f'layer {{ name: "d" top: "data" {source} }}' + BODY)
    assert "'d' (Data) subtracted 104,117.5,123: pass it as mean" in subject.notes
    assert "'d' (Data) multiplied by 0.5: pass it as scale" in subject.notes
    assert kinds(subject) == {"d": "Input", "conv1": "Convolution", "pool1": "Pooling"}


# --- labels and losses


def test_what_only_labels_feed_goes():
    text = (
        SOURCES
        + BODY
        + HEAD
        + layer("Slice", "sl", "label", "l1 l2")
        + layer("Flatten", "f", "l1")
        + layer("Silence", "quiet", "l2 f", "")
        + layer("Silence", "half", "conv1 l2", "")
        + layer("HingeLoss", "hinge", "fc2 f")
        + layer("Power", "weighted", "hinge")
        + layer("HDF5Output", "out", "fc2 label", "")
    )
    subject = network(text)
    assert list(kinds(subject)) == ["data", "conv1", "pool1", "fc2", "half"]
    assert subject.layer("half").bottoms == ("conv1",)
    assert subject.outputs == ("fc2",)
    assert subject.notes[-1].count("(") == 6


def test_softmax_that_is_there_is_the_output():
    """A second one would be the same under another name."""
    text = SOURCES + BODY + HEAD + layer("Softmax", "prob", "fc2") + LOSSES
    subject = network(text)
    assert subject.outputs == ("prob",)
    assert kinds(subject)["prob"] == "Softmax"
    assert "loss" not in kinds(subject)


def test_softmax_for_another_loss_stays():
    text = SOURCES + BODY + HEAD + layer("Softmax", "p", "fc2") + layer("MultinomialLogisticLoss", "l", "p label")
    assert network(text).outputs == ("p",)


def test_heads_keep_the_names_of_their_losses():
    text = (
        SOURCES
        + BODY
        + inner_product("fc1", "pool1", "num_output: 5")
        + layer("SoftmaxWithLoss", "loss1/loss", "fc1 label", "loss1/loss")
        + HEAD
        + layer("SoftmaxWithLoss", "loss3/loss3", "fc2 label", "loss3/loss3", softmax_param="axis: 1")
    )
    subject = network(text)
    assert subject.outputs == ("loss1/loss", "loss3/loss3")
    assert kinds(subject)["loss3/loss3"] == "Softmax"
    assert subject.layer("loss3/loss3").definition.softmax_param.HasField("axis")


def test_loss_that_offers_its_probabilities():
    text = SOURCES + BODY + HEAD + layer("SoftmaxWithLoss", "loss", "fc2 label", "loss p", loss_param="ignore_label: 2")
    subject = network(text)
    assert subject.outputs == ("p",)
    assert not subject.layer("loss").definition.HasField("loss_param")


def test_loss_without_a_top():
    assert network(SOURCES + BODY + HEAD + layer("SoftmaxWithLoss", "loss", "fc2 label", "")).outputs == ("prob",)


def test_prob_that_is_taken():
    text = (
        SOURCES
        + convolution("prob", "data", "num_output: 2 kernel_size: 3")
        + layer("SoftmaxWithLoss", "l", "prob label")
    )
    assert network(text).outputs == ("l",)


def test_other_losses_leave_the_scores():
    for kind in ("SigmoidCrossEntropyLoss", "EuclideanLoss", "InfogainLoss", "ContrastiveLoss", "CenterLoss"):
        subject = network(SOURCES + BODY + HEAD + layer(kind, "l", "fc2 label"))
        assert subject.outputs == ("fc2",)


def test_layers_of_no_known_kind_are_still_refused():
    text = SOURCES + BODY + layer("Python", "p", "pool1", python_param='module: "os"')
    with pytest.raises(UnsupportedError, match="layer type 'Python'"):
        network(text)


def test_old_forms():
    """V1, as the first models of the zoo have it: layers, types in capitals, and the crop among data_param."""
    text = """
    layers { name: "data" type: DATA top: "data" top: "label" include { phase: TEST }
      data_param { source: "/no" mean_file: "/no/mean" batch_size: 5 crop_size: 19 mirror: false } }
    layers { name: "conv1" type: CONVOLUTION bottom: "data" top: "conv1"
      convolution_param { num_output: 4 kernel_size: 3 } }
    layers { name: "fc" type: INNER_PRODUCT bottom: "conv1" top: "fc" inner_product_param { num_output: 3 } }
    layers { name: "loss" type: SOFTMAX_LOSS bottom: "fc" bottom: "label" }
    layers { name: "acc" type: ACCURACY bottom: "fc" bottom: "label" top: "acc" include { phase: TEST } }
    """
    subject = network(text)
    assert subject.inputs == {"data": (1, 3, 19, 19)}
    assert subject.outputs == ("prob",)


# --- phase, stage, level

ALL_IN_ONE = (
    layer("Input", "data", input_param="shape { dim: 1 dim: 3 dim: 19 dim: 19 }", include='stage: "deploy"')
    + SOURCES.replace("include { phase: TEST }", 'include { phase: TEST not_stage: "deploy" }').replace(
        'name: "small"', ""
    )
    + BODY
    + HEAD
    + layer("Softmax", "softmax", "fc2", include='stage: "deploy"')
    + layer("SoftmaxWithLoss", "loss", "fc2 label", exclude='stage: "deploy"')
    + layer("AbsVal", "deep", "pool1", include="min_level: 2")
    + layer("TanH", "shallow", "pool1", include="max_level: 1")
)


def test_stages_and_levels(tmp_path: Path):
    """One file for everything: the rules decide."""
    file = tmp_path / "all.prototxt"
    file.write_text(ALL_IN_ONE)
    as_is = load_network(file)
    assert as_is.outputs == ("prob", "shallow")
    deployed = load_network(file, stages=["deploy"], level=2)
    assert deployed.outputs == ("softmax", "deep")
    assert deployed.notes == ()
    file.write_text('state { stage: "deploy" level: 2 }' + ALL_IN_ONE)
    assert load_network(file).outputs == deployed.outputs


def test_include_and_exclude_together():
    text = data(1, 3, 5, 5) + layer("ReLU", "r", "data", include="phase: TEST", exclude="phase: TRAIN")
    with pytest.raises(NetworkError, match="both include and exclude"):
        network(text)


def test_no_source_is_opened(tmp_path: Path):
    """A hostile definition names any file it likes."""
    file = tmp_path / "net.prototxt"
    file.write_text(TRAIN_VAL)
    opened: list[str] = []
    watching = [True]

    def spy(event: str, args: tuple[object, ...]) -> None:
        if watching and event == "open":
            opened.append(str(args[0]))

    sys.addaudithook(spy)  # for good: it cannot be taken away, only be told to look elsewhere
    load_network(file)
    watching.clear()
    assert str(file) in opened
    assert not [name for name in opened if "nowhere" in name]


def test_snapshot_of_training_loads():
    folder = GOLDEN / "layers" / "fmt_train_snapshot_extra_layers"
    subject = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    assert set(subject.parameters) == {"conv1", "ip1", "prelu"}
    assert "weights of layer 'aux_fc' are not used" in subject.notes


def test_training_net_and_snapshot_become_a_model(tmp_path: Path):
    """The two files that training leaves behind are enough."""
    files = (tmp_path / "train_val.prototxt", tmp_path / "iter_1.caffemodel.h5")
    files[0].write_text(TRAIN_VAL)
    trained = random_parameters(load_network(files[0]), 1)
    save(trained, tmp_path / "unused.prototxt", files[1])
    model = convert(*files, tmp_path / "model", mean=[0.0], crop=19)
    assert model.output_blob == "prob"
    assert model.geometry.y.window == 19
    assert model.notes == trained.notes
    with pytest.raises(ConversionError, match="crop 30x19 does not fit the weights"):
        convert(*files, tmp_path / "m", crop=(30, 19))


SAVED = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
        memory_data_param { batch_size: 1 channels: 3 height: 8 width: 8 } }
layer { name: "c" type: "InnerProduct" bottom: "data" top: "c" inner_product_param { num_output: 3 } }
%s
"""


def test_a_head_that_has_a_softmax_behind_a_split_gets_no_second_one():
    """Saved nets carry the Splits that Caffe inserted."""
    text = (
        SAVED
        % """
    layer { name: "c_split" type: "Split" bottom: "c" top: "c1" top: "c2" }
    layer { name: "prob" type: "Softmax" bottom: "c1" top: "prob" }
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c2" bottom: "label" top: "loss" }
    """
    )
    network = build(parse_definition(text.encode(), where="t"))
    assert [layer.name for layer in network.layers if layer.caffe_type == "Softmax"] == ["prob"]


def test_arithmetic_on_a_loss_goes_with_it():
    text = (
        SAVED
        % """
    layer { name: "loss" type: "SoftmaxWithLoss" bottom: "c" bottom: "label" top: "loss" }
    layer { name: "weighted" type: "Power" bottom: "loss" top: "weighted" power_param { scale: 0.3 } }
    """
    )
    network = build(parse_definition(text.encode(), where="t"))
    assert network.outputs == ("prob",)
