"""Files of forks, and files in each other's place: NVCaffe's and Intel's weights, encodings, solvers, swapped files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from conversion import check_conversion, evaluate, load_network, save
from conversion.caffe.caffe_pb2 import DOUBLE, FLOAT, FLOAT16, UINT, BlobProto, Type
from conversion.caffe.reading import blob_array, check_weights_file, parse_definition, parse_weights
from conversion.errors import DensecastError, ReadingError
from tests.support.definitions import convolution, data, network
from tests.support.field import caffe_files

IMAGE = {"data": np.random.default_rng(0).normal(0, 60, (1, 3, 16, 16))}
DTYPES: dict[Type, str] = {DOUBLE: "<f8", FLOAT: "<f4", FLOAT16: "<f2"}
TEXT = data(1, 1, 4, 4) + convolution("c", "data", "num_output: 2 kernel_size: 3")


def raw_blob(values: np.ndarray, kind: Type) -> BlobProto:
    blob = BlobProto(raw_data=values.astype(DTYPES[kind]).tobytes(), raw_data_type=kind)
    blob.shape.dim.extend(values.shape)
    return blob


# --- NVCaffe


@pytest.mark.parametrize(("name", "digits"), [("a04_raw32", 7), ("a05_raw16", 3)])
def test_nvcaffes_weights_are_read(name: str, digits: int, tmp_path: Path):
    """The same values as `data` give the same answer; both files come from one net, at 32 and at 16 bits."""
    prototxt, weights = caffe_files(name)
    subject = load_network(prototxt, weights)
    save(subject, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    plain = load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    found = evaluate(subject, IMAGE)["prob"]
    np.testing.assert_array_equal(found, evaluate(plain, IMAGE)["prob"])
    exact = load_network(*caffe_files("a04_raw32"))
    np.testing.assert_allclose(found, evaluate(exact, IMAGE)["prob"], atol=10.0**-digits)


@pytest.mark.parametrize("kind", DTYPES)
def test_raw_values_have_three_types(kind: Type, tmp_path: Path):
    values = np.random.default_rng(0).normal(size=(2, 1, 3, 3))
    weights = network(TEXT, seed=0)
    save(weights, tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    message = parse_weights((tmp_path / "net.caffemodel").read_bytes(), where="")
    message.layer[1].blobs[0].CopyFrom(raw_blob(values, kind))
    (tmp_path / "raw.caffemodel").write_bytes(message.SerializeToString())
    found = load_network(tmp_path / "net.prototxt", tmp_path / "raw.caffemodel").parameters["c"][0]
    np.testing.assert_array_equal(found, values.astype(DTYPES[kind]).astype(np.float32))
    np.testing.assert_array_equal(blob_array(raw_blob(values, kind), where=""), found)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda blob: blob.ClearField("raw_data_type"), "without raw_data_type"),
        (lambda blob: setattr(blob, "raw_data_type", UINT), "of type UINT"),
        (lambda blob: blob.data.append(1.0), "with raw_data and with data"),
        (lambda blob: setattr(blob, "raw_data", blob.raw_data[:-1]), "not a whole number of values"),
        (lambda blob: setattr(blob, "raw_data", blob.raw_data[:-4]), "needs 18 values, the file has 17"),
    ],
)
def test_raw_values_that_do_not_fit_are_refused(change, what: str):
    blob = raw_blob(np.zeros((2, 1, 3, 3)), FLOAT)
    change(blob)
    with pytest.raises(ReadingError, match=what):
        blob_array(blob, where="file")


def test_statistics_of_four_axes_are_those_of_channels():
    """NVCaffe's and cuDNN's BatchNorm store [1, C, 1, 1]."""
    prototxt, weights = caffe_files("a06_bn_1c11")
    assert [blob.shape for blob in load_network(prototxt, weights).parameters["bn"][:2]] == [(4,), (4,)]


# --- fields of forks in weights


def field(number: int, content: bytes) -> bytes:
    tag = number << 3 | 2
    return bytes([tag & 0x7F | 0x80, tag >> 7]) + bytes([len(content)]) + content


# Intel Caffe: `engine` is the string 149 of a layer; where ours has a message (148), another fork may have a string.
FOREIGN = [field(149, b"MKLDNN"), field(148, b"\xff\xff not a message"), field(20, b"\x08"), field(158, b"\x0a\x01x")]


@pytest.mark.parametrize("foreign", FOREIGN)
def test_unknown_fields_of_weights_are_skipped(foreign: bytes, tmp_path: Path):
    """Weights are found by layer name; what else a fork saved with them is not read. In a definition it is refused."""
    save(network(TEXT, seed=0), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    message = parse_weights((tmp_path / "net.caffemodel").read_bytes(), where="")
    layer = message.layer[1].SerializeToString() + foreign
    assert len(layer) < 1 << 14
    size = bytes([len(layer) & 0x7F | 0x80, len(layer) >> 7])
    (tmp_path / "fork.caffemodel").write_bytes(b"\x0a\x01n" + field(100, b"")[:2] + size + layer)
    found, plain = (
        load_network(tmp_path / "net.prototxt", tmp_path / f"{name}.caffemodel") for name in ("fork", "net")
    )
    np.testing.assert_array_equal(found.parameters["c"][0], plain.parameters["c"][0])


def test_unknown_fields_of_definitions_stay_errors():
    with pytest.raises(DensecastError, match="unknown fields: engine"):
        parse_definition(b'layer { name: "c" type: "ReLU" engine: "MKLDNN" }', where="")


# --- encodings

PLAIN, WEIGHTS = caffe_files("a10_ceil_mode")


@pytest.mark.parametrize(
    ("before", "newline"),
    [(b"\xef\xbb\xbf", b"\n"), (b"", b"\r\n"), (b"\xef\xbb\xbf", b"\r\n"), (b"# caf\xe9\n", b"\r")],
)
def test_marks_and_ends_of_lines_change_nothing(before: bytes, newline: bytes, tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(before + PLAIN.read_bytes().replace(b"\n", newline))
    found, same = (evaluate(load_network(definition, WEIGHTS), IMAGE)["prob"] for definition in (path, PLAIN))
    np.testing.assert_array_equal(found, same)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_wide_text_is_named(encoding: str, tmp_path: Path):
    path = tmp_path / "net.prototxt"
    path.write_bytes(PLAIN.read_text().encode(encoding))
    with pytest.raises(ReadingError, match="text in UTF-16") as caught:
        load_network(path)
    assert "UTF-8" in caught.value.remedy


# --- files in each other's place


def test_swapped_files_are_recognised(tmp_path: Path):
    for call in (
        lambda: load_network(WEIGHTS, PLAIN),
        lambda: load_network(PLAIN, PLAIN),
        lambda: check_weights_file(PLAIN),
        lambda: check_conversion(PLAIN, PLAIN, tmp_path / "model"),
    ):
        with pytest.raises(ReadingError, match=r"not text|not weights: it is text") as caught:
            call()
        assert caught.value.remedy == "give the .prototxt first and the .caffemodel second"


@pytest.mark.parametrize(
    ("beside", "proposed"),
    [
        ((), None),
        (("train_val.prototxt",), "train_val.prototxt"),
        (("train_val.prototxt", "deploy.prototxt"), "deploy.prototxt"),
    ],
)
def test_the_definition_beside_a_solver_is_proposed(beside: tuple[str, ...], proposed: str | None, tmp_path: Path):
    folder = tmp_path / "my nets"
    folder.mkdir()
    for name in beside:
        (folder / name).write_text(PLAIN.read_text())
    solver = folder / "solver.prototxt"
    solver.write_text('net: "models/a/train_val.prototxt"\nbase_lr: 0.01\nsnapshot_prefix: "a"\n')
    with pytest.raises(ReadingError, match="it is a solver") as caught:
        load_network(solver)
    assert "'models/a/train_val.prototxt'" in caught.value.remedy
    command = f"densecast convert '{folder / proposed}' WEIGHTS --output MODEL" if proposed else ""
    assert caught.value.remedy.endswith(f"One is beside it: {command}" if proposed else "deploy.prototxt")


def test_a_solver_of_a_few_fields_is_called_one():
    with pytest.raises(ReadingError, match="it is a solver"):
        parse_definition(b'net: "x"\ndisplay: 20\nmomentum: 0.9\n', where="solver.prototxt")
