"""Definitions as they are found: other encodings, fields of forks with one meaning, solvers, inputs stated twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conversion import evaluate, load_network, save, upgrade_file
from conversion.caffe.caffe_pb2 import PoolingParameter
from conversion.caffe.reading import parse_definition, read_definition
from conversion.errors import NetworkError, ReadingError, UnsupportedError, WeightsError
from conversion.net.build import build
from conversion.net.network import to_definition
from conversion.net.weights import with_weights
from tests.support.definitions import convolution, data, layer, network, pooling
from tests.support.field import FIELD, caffe_files

IMAGE = {"data": np.random.default_rng(0).normal(0, 60, (1, 3, 16, 16))}


def probabilities(name: str, definition: Path | None = None) -> np.ndarray:
    prototxt, weights = caffe_files(name)
    return evaluate(load_network(definition or prototxt, weights), IMAGE)["prob"]


# --- encodings


@pytest.mark.parametrize("name", ["a01_gbk", "a01b_gbkname", "a02_cp1252"])
def test_other_encodings_are_read_as_caffe_reads_them(name: str, tmp_path: Path):
    """Byte by byte. The same net in ASCII gives the same answer."""
    raw = caffe_files(name)[0].read_bytes()
    with pytest.raises(UnicodeDecodeError):
        raw.decode()
    plain = tmp_path / "plain.prototxt"
    plain.write_bytes(bytes(byte for byte in raw if byte < 128))
    np.testing.assert_array_equal(probabilities(name), probabilities(name, plain))


@pytest.mark.parametrize("encoding", ["gbk", "cp1252", "shift_jis"])
def test_names_of_layers_match_their_weights_byte_by_byte(encoding: str, tmp_path: Path):
    """Layer and blob have a name that is not UTF-8; the weights file has the same bytes."""
    word = {"gbk": "卷积", "cp1252": "schärfen", "shift_jis": "畳み"}[encoding]
    other = word.encode(encoding)
    same = "W" * len(other)  # as many bytes, so that the lengths in the file stay right
    text = data(1, 3, 4, 4) + convolution(same, "data", "num_output: 2 kernel_size: 1") + layer("ReLU", "r", same)
    save(network(text, seed=1), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    for kind in ("prototxt", "caffemodel"):
        written = (tmp_path / f"net.{kind}").read_bytes()
        (tmp_path / f"other.{kind}").write_bytes(written.replace(same.encode(), other))
    found = load_network(tmp_path / "other.prototxt", tmp_path / "other.caffemodel")
    plain = load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    image = {"data": np.ones((1, 3, 4, 4))}
    np.testing.assert_array_equal(evaluate(found, image)["r"], evaluate(plain, image)["r"])
    assert found.layers[1].name == other.decode("utf-8", "backslashreplace")

    # Both files together can be written, the definition alone cannot: its names would not be those of the weights.
    save(found, tmp_path / "again.prototxt", tmp_path / "again.caffemodel")
    again = load_network(tmp_path / "again.prototxt", tmp_path / "again.caffemodel")
    np.testing.assert_array_equal(evaluate(again, image)["r"], evaluate(plain, image)["r"])
    with pytest.raises(ReadingError, match="names that are not UTF-8"):
        upgrade_file(tmp_path / "other.prototxt", tmp_path / "new.prototxt")


def test_comments_in_other_encodings_do_not_hinder_an_upgrade(tmp_path: Path):
    upgrade_file(caffe_files("a02_cp1252")[0], tmp_path / "new.prototxt")
    np.testing.assert_array_equal(probabilities("a02_cp1252", tmp_path / "new.prototxt"), probabilities("a02_cp1252"))


# --- ceil_mode


def pool(text: str) -> PoolingParameter:
    (_, found) = to_definition(
        network(data(1, 1, 5, 5) + pooling("p", "data", f"kernel_size: 2 stride: 2 {text}"))
    ).layer
    return found.pooling_param


def test_ceil_mode_false_is_caffes_floor(tmp_path: Path):
    """To leave it out loads another net: five cells round up to three, and the classifier reads three."""
    assert pool("ceil_mode: false") == pool("round_mode: FLOOR")
    assert pool("ceil_mode: true") == pool("round_mode: CEIL")
    assert pool("ceil_mode: false round_mode: FLOOR") == pool("round_mode: FLOOR")
    with pytest.raises(NetworkError, match="contradict") as caught:
        pool("ceil_mode: true round_mode: FLOOR")
    assert "layer 'p'" in caught.value.where
    text = data(1, 1, 5, 5) + pooling("p", "data", "kernel_size: 2 stride: 2 ceil_mode: false")
    assert network(text).shapes["p"] == (1, 1, 2, 2)


def test_ceil_mode_is_written_as_round_mode(tmp_path: Path):
    by_hand = tmp_path / "net.prototxt"
    by_hand.write_text(caffe_files("a10_ceil_mode")[0].read_text().replace("ceil_mode: false", "round_mode: FLOOR"))
    np.testing.assert_array_equal(probabilities("a10_ceil_mode"), probabilities("a10_ceil_mode", by_hand))
    upgrade_file(caffe_files("a10_ceil_mode")[0], tmp_path / "new.prototxt")
    assert "ceil_mode" not in (tmp_path / "new.prototxt").read_text()
    assert to_definition(load_network(tmp_path / "new.prototxt")) == to_definition(load_network(by_hand))


def test_ceil_mode_of_2014():
    text = """input: "x" input_dim: 1 input_dim: 1 input_dim: 5 input_dim: 5
        layers { name: "p" type: POOLING bottom: "x" top: "p"
                 pooling_param { kernel_size: 2 stride: 2 ceil_mode: false } }"""
    assert network(text).shapes["p"] == (1, 1, 2, 2)


def test_the_remedy_for_fields_of_forks_does_not_change_the_net(tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_text(data(1, 1, 5, 5) + pooling("p", "data", "kernel_size: 2 pad_kind: 1"))
    with pytest.raises(UnsupportedError) as caught:
        read_definition(path)
    assert "must stay, since without it the net would be another one" in caught.value.remedy


# --- solvers


def test_a_solver_is_called_one_and_names_its_net():
    text = b"""net: "models/train_val.prototxt"
        test_iter: 1000  base_lr: 0.01  lr_policy: "step"  max_iter: 450000  solver_mode: GPU"""
    with pytest.raises(ReadingError, match="not a network definition: it is a solver") as caught:
        parse_definition(text, where="solver.prototxt")
    assert "(base_lr, lr_policy, max_iter, solver_mode, test_iter)" in caught.value.what
    assert "'models/train_val.prototxt'" in caught.value.remedy


def test_a_net_with_an_unknown_field_is_not_called_a_solver():
    with pytest.raises(UnsupportedError, match="unknown fields: net"):
        parse_definition(b'net: "x" layer { name: "a" type: "ReLU" base_lr: 1 }', where="net")


# --- inputs


def test_a_bare_input_beside_an_input_layer_is_dropped_as_caffe_drops_it(tmp_path: Path):
    """UpgradeNetInput makes a layer only of inputs that have a shape."""
    prototxt, weights = caffe_files("a40_input_and_layer")
    without = tmp_path / "net.prototxt"
    without.write_text(prototxt.read_text().replace('input: "data"\n', ""))
    assert to_definition(load_network(prototxt)) == to_definition(load_network(without))
    assert evaluate(load_network(prototxt, weights), IMAGE)["prob"].shape == (1, 5)
    with pytest.raises(NetworkError, match="multiple sources"):
        network('input: "data" input_shape { dim: 1 }' + data(1, 3, 8, 8) + layer("ReLU", "r", "data"))
    with pytest.raises(NetworkError, match="input other without a shape") as caught:
        network('input: "data" input: "other"' + data(1, 3, 8, 8) + layer("ReLU", "r", "data"))
    assert caught.value.why == "no layer makes it either"


# --- bilinear filler

RAMPS: dict[int, list[float]] = {
    1: [1],
    2: [0.5, 0.5],
    3: [0.5, 1, 0.5],
    4: [0.25, 0.75, 0.75, 0.25],
    5: [1 / 3, 2 / 3, 1, 2 / 3, 1 / 3],
}


def upsampling(filler: str, size: int = 4) -> str:
    window = f"num_output: 2 group: 2 kernel_size: {size} stride: 1 {filler}"
    return data(1, 2, 3, 3) + layer("Deconvolution", "up", "data", convolution_param=window)


@pytest.mark.parametrize(("size", "ramp"), RAMPS.items())
def test_bilinear_filler_is_caffes(size: int, ramp: list[float]):
    """BilinearFiller in filler.hpp, worked by hand."""
    filler = 'weight_filler { type: "bilinear" } bias_filler { value: 0.5 }'
    filled = with_weights(build(parse_definition(upsampling(filler, size).encode(), where="")), {})
    weights, bias = filled.parameters["up"]
    np.testing.assert_allclose(weights, np.broadcast_to(np.outer(ramp, ramp), (2, 1, size, size)), rtol=1e-6)
    assert bias.tolist() == [0.5, 0.5]
    assert filled.notes == (
        "layer 'up' (Deconvolution) has no stored weights: filled as its bilinear filler says, as Caffe does",
    )


def test_upsampling_without_stored_weights_is_filled():
    """The field's net: Caffe loads it, leaves the filler's values, and computes with them."""
    prototxt, weights = caffe_files("a16_deconv_noweights")
    subject = load_network(prototxt, weights)
    plane = np.outer(RAMPS[4], RAMPS[4])
    np.testing.assert_array_equal(subject.parameters["up"][0], np.broadcast_to(plane, (3, 1, 4, 4)).astype(np.float32))
    blobs = evaluate(subject, IMAGE)
    # Cells 1 and 2 of the top lie between cells 0 and 1 of the bottom, a quarter of the way from either.
    quarter = np.einsum("chw,h,w->c", blobs["s"][0, :, :2, :2], [0.75, 0.25], [0.75, 0.25])
    np.testing.assert_allclose(blobs["up"][0, :, 1, 1], quarter)
    three_quarters = np.einsum("chw,h,w->c", blobs["s"][0, :, :2, :2], [0.25, 0.75], [0.25, 0.75])
    np.testing.assert_allclose(blobs["up"][0, :, 2, 2], three_quarters)


@pytest.mark.parametrize(
    "filler",
    [
        "",
        'weight_filler { type: "xavier" }',
        'weight_filler { type: "constant" value: 1 }',
        'weight_filler { type: "bilinear" } bias_filler { type: "gaussian" }',
    ],
)
def test_other_fillers_do_not_stand_for_weights(filler: str):
    with pytest.raises(WeightsError, match="0 of 2 weight blobs"):
        with_weights(build(parse_definition(upsampling(filler).encode(), where="")), {})


def test_bilinear_filters_are_square():
    text = upsampling('weight_filler { type: "bilinear" }').replace("kernel_size: 4", "kernel_h: 4 kernel_w: 2")
    with pytest.raises(NetworkError, match="square"):
        with_weights(build(parse_definition(text.encode(), where="")), {})


def test_the_files_of_the_field_are_small():
    ours = [path for path in FIELD.rglob("*") if "__pycache__" not in path.parts]
    assert sum(path.stat().st_size for path in ours) < 400_000
