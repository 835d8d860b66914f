"""One way from Caffe files to the network of a model: which blob is the map, and the options that shape it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion import DenseOptions, load_dense, load_network
from conversion.errors import CastError, ConversionError, NetworkError
from conversion.export.signatures import choose_output
from conversion.passes.cast import cast
from tests.support.definitions import convolution, data, inner_product, layer, network, pooling
from tests.support.field import caffe_files

HEAD = (
    data(1, 3, 9, 9)
    + convolution("c", "data", "num_output: 4 kernel_size: 3")
    + pooling("p", "c", "pool: MAX kernel_size: 2 stride: 2")
    + inner_product("fc", "p", "num_output: 5")
)
SOFTMAX = HEAD + layer("Softmax", "prob", "fc")


def test_a_side_branch_after_the_softmax_is_not_the_map():
    """`inspect` took the last output, 5x5 cells of a branch, and `convert` the Softmax."""
    definition, weights = caffe_files("a30_side")
    dense = load_dense(definition, weights)
    assert (dense.output.blob, dense.output.refusal) == ("prob", None)
    assert dense.network.shapes[dense.output.require()] == (1, 5, 1, 1)
    assert dense.network.outputs == ("prob", "side")


def test_several_heads_are_described_by_the_last_one_and_not_converted():
    output = load_dense(caffe_files("b01_heads")[0]).output
    assert (output.blob, output.reason) == ("pb", "the last of several heads")
    with pytest.raises(ConversionError, match="2 outputs are class probabilities: pa, pb") as caught:
        output.require()
    assert "--output-blob pb" in caught.value.remedy


def test_softmax_that_an_argmax_reads_is_named():
    subject = cast(network(SOFTMAX + layer("ArgMax", "best", "prob", argmax_param="axis: 1")))
    output = choose_output(subject, "net")
    assert output.blob == "prob"
    with pytest.raises(ConversionError, match="no output is class probabilities, but blob 'prob' is") as caught:
        output.require()
    assert "layer 'best' (ArgMax) reads it" in caught.value.what
    assert "--output-blob prob" in caught.value.remedy
    assert choose_output(subject, "net", "prob").require() == "prob"


def test_without_a_softmax_no_blob_helps():
    output = choose_output(cast(network(HEAD)), "net")
    assert output.blob == "fc-conv"
    with pytest.raises(ConversionError, match="no blob is class probabilities") as caught:
        output.require()
    assert "--output-blob names the top of a Softmax" in caught.value.why
    assert "the outputs are fc-conv" in caught.value.why


def test_softmax_along_the_last_axis():
    """On vectors [N, K] it is the classes' axis. On [N, C, 1, 1] it is the width, where Caffe computes 1 for each."""
    vectors = HEAD + layer("Softmax", "prob", "fc", softmax_param="axis: -1")
    assert choose_output(cast(network(vectors)), "net").require() == "prob"
    dense = load_dense(caffe_files("softm1")[0])
    assert dense.output.blob == "fc7"
    with pytest.raises(ConversionError) as caught:
        dense.output.require()
    assert "axis 3 of (1, 5, 1, 1), where Caffe computes 1 for every class" in caught.value.why


def test_softmax_over_a_batch_is_not_a_map():
    subject = data(2, 3, 9, 9) + convolution("c", "data", "num_output: 4 kernel_size: 9")
    output = choose_output(cast(network(subject + layer("Softmax", "s", "c", softmax_param="axis: 0"))), "net")
    assert output.refusal is not None
    assert "axis 0" in output.refusal.why


@pytest.mark.parametrize("name", ["fc", "fc-conv"])
def test_any_blob_can_be_described_by_either_name(name: str):
    output = choose_output(cast(network(SOFTMAX)), "net", name)
    assert (output.blob, output.reason) == ("fc-conv", "asked for by its name")
    with pytest.raises(ConversionError, match=f"output '{name}' is not a map of class probabilities") as caught:
        output.require()
    assert caught.value.remedy == "--output-blob takes prob"


def test_a_blob_that_is_not_there_is_named_with_its_nearest():
    with pytest.raises(ConversionError, match="no blob 'prop'") as caught:
        choose_output(cast(network(SOFTMAX)), "net", "prop")
    assert caught.value.remedy == "nearest: prob"


def test_a_branch_without_a_dense_form_is_left_out_by_naming_the_map(tmp_path: Path):
    """An ArgMax over all of an item has no form on a map; the Softmax before it has."""
    path = tmp_path / "net.prototxt"
    path.write_text(SOFTMAX + layer("ArgMax", "best", "prob", argmax_param="out_max_val: true"))
    with pytest.raises(CastError) as caught:
        load_dense(path)
    assert "leave that layer out by naming the map: --output-blob prob" in caught.value.remedy
    dense = load_dense(path, options=DenseOptions(output_blob="prob"))
    assert dense.output.require() == "prob"
    assert dense.network.notes == ("left out, not needed for prob: best",)
    with pytest.raises(ConversionError, match="no blob 'x' with positions"):
        load_dense(caffe_files("b01_heads")[0], options=DenseOptions(output_blob="x"))


# --- sizes

SKIPPING = (
    data(1, 3, 10, 10)
    + convolution("c", "data", "num_output: 2 kernel_size: 1 stride: STRIDE")
    + pooling("p", "data", "kernel_size: WINDOW stride: STRIDE")
    + layer("Concat", "cat", "c p")
    + inner_product("fc", "cat", "num_output: 5")
    + layer("Softmax", "prob", "fc")
)


@pytest.mark.parametrize(("stride", "window", "refused"), [(2, 3, True), (4, 3, False)])
def test_sizes_that_no_rounding_helps(stride: int, window: int, refused: bool, tmp_path: Path):
    """A net that accepts what a model is verified on is converted, with a note on the sizes in between."""
    path = tmp_path / "net.prototxt"
    path.write_text(SKIPPING.replace("STRIDE", str(stride)).replace("WINDOW", str(window)))
    dense = load_dense(path)
    assert dense.misfit is not None
    assert dense.misfit.remedied == ()
    if refused:
        with pytest.raises(CastError):
            dense.require_sizes()
    else:
        (note,) = dense.require_sizes()
        assert note.startswith("not every image fits: on an image of")


# --- options


def test_options_of_every_kind_shape_the_network():
    definition, weights = caffe_files("a33_digits")
    options = DenseOptions(crop=(20, 24), stages=("deploy",), output_blob="conv1", output_stride=1)
    dense = load_dense(definition, None, options)
    assert dense.network.inputs == {"data": (1, 3, 20, 24)}
    assert dense.network.outputs == ("conv1",)
    finer = load_dense(definition, weights, DenseOptions(stages=("deploy",), output_stride=1))
    assert finer.network.shapes_at({"data": (1, 3, 18, 16)})["prob"] == (1, 5, 3, 1)
    assert finer.own_stride.shapes_at({"data": (1, 3, 18, 16)})["prob"] == (1, 5, 2, 1)


def test_a_crop_that_does_not_fit_the_weights_is_the_crops_fault():
    definition, weights = caffe_files("a30_side")
    with pytest.raises(ConversionError, match="crop 20x20 does not fit the weights"):
        load_dense(definition, weights, DenseOptions(crop=20))


def test_a_file_for_all_stages_hints_at_the_stage():
    """DIGITS writes one definition for training and for use; without its stage it has no input."""
    with pytest.raises(NetworkError, match="unknown bottom blob 'data'") as caught:
        load_network(caffe_files("a33_digits")[0])
    assert "give --stage deploy" in caught.value.remedy


def test_a_softmax_that_a_stage_has_is_named(tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_text(SOFTMAX.replace('name: "prob"', 'include { stage: "deploy" } name: "prob"'))
    with pytest.raises(ConversionError) as caught:
        load_dense(path).output.require()
    assert "'prob' (Softmax) of stage deploy (--stage, or stages in Python)" in caught.value.why
    assert load_dense(path, options=DenseOptions(stages=("deploy",))).output.require() == "prob"
    assert load_dense(path, options=DenseOptions(stages=("deploy",))).network.notes == ()


def test_a_layer_that_only_training_has_is_named_too():
    text = SOFTMAX.replace('layer { name: "data"', 'layer { include { phase: TRAIN } name: "data"')
    with pytest.raises(NetworkError) as caught:
        network(text)
    assert caught.value.remedy == "layer 'data' (Input) produces it, but its rules leave it out"


def test_given_options_replace_recorded_ones_one_by_one():
    recorded = DenseOptions(crop=(20, 24), output_stride=2)
    assert recorded.replaced_by(DenseOptions(output_stride=4)) == DenseOptions(crop=(20, 24), output_stride=4)
    assert str(recorded) == "crop (20, 24), output_stride 2"
    assert DenseOptions.model_validate_json(recorded.model_dump_json()) == recorded
