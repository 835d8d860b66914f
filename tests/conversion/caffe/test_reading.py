"""Files -> messages: what Caffe's readers accept is accepted, and nothing is lost or misread without a word."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from conversion.caffe import reading
from conversion.caffe.caffe_pb2 import BlobProto, NetParameter
from conversion.caffe.reading import blob_array, blob_message, read_blob, read_definition
from conversion.errors import DensecastError, ReadingError, UnsupportedError, WeightsError
from conversion.net.build import build
from conversion.net.weights import with_weights
from tests.support.definitions import message_weights, read_weights
from tests.support.golden_cases import GOLDEN

LENET = GOLDEN / "nets" / "lenet_small"


def read(text: str | bytes, tmp_path: Path) -> NetParameter:
    path = tmp_path / "net.prototxt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_definition(path)


PLAIN = """\
name: "net"
layer {
  name: "conv"
  type: "Convolution"
  bottom: "data"
  top: "conv"
  convolution_param {
    num_output: 6
    bias_term: false
    kernel_size: 3
    kernel_size: 1
    weight_filler { type: "xavier" std: 0.5 }
  }
}
"""
ONE_LINE = " ".join(PLAIN.split())
SYNTAX = {
    "one line": ONE_LINE,
    "no space anywhere": re.sub(r"\s*([:{}])\s*", r"\1", ONE_LINE),
    "a colon before a brace": PLAIN.replace(" {", ": {"),
    "angle brackets": PLAIN.replace("{", "<").replace("}", ">"),
    "angle brackets inside braces": PLAIN.replace('{ type: "xavier" std: 0.5 }', '< type: "xavier" std: 0.5 >'),
    "single quotes": PLAIN.replace('"', "'"),
    "adjacent strings are one": PLAIN.replace('"Convolution"', '"Con" \'volu\'\n"tion"'),
    "escapes": PLAIN.replace('"Convolution"', r'"\103onvolution"'),
    "comments": "# first\n" + PLAIN.replace("\n", " # { name: 'x' }\n") + "# last",
    "a comment with a form feed and other breaks of str.splitlines": "# a\x0cb\x1cc\x85d\u2028e\n" + PLAIN,
    "a comment in another script": "# 網路 réseau\n" + PLAIN,
    "a list": PLAIN.replace("kernel_size: 3\n    kernel_size: 1", "kernel_size: [3, 1]"),
    "a list of messages": 'name: "net" layer: [ ' + ONE_LINE.split("layer ", 1)[1] + " ]",
    "semicolons": ONE_LINE.replace("6 ", "6; ").replace("false ", "false;"),
    "commas": ONE_LINE.replace("6 ", "6, ").replace("false ", "false,"),
    "other spellings of numbers": PLAIN.replace("6", "0x6").replace("false", "0").replace("0.5", "5.e-1f"),
    "octal": PLAIN.replace("6", "06"),
    "Windows line ends": PLAIN.replace("\n", "\r\n"),
    "a byte order mark": "\ufeff" + PLAIN,
}


@pytest.mark.parametrize("text", SYNTAX.values(), ids=SYNTAX)
def test_text_syntax_that_caffe_accepts(text: str, tmp_path: Path):
    assert text != PLAIN
    assert read(text, tmp_path) == text_format.Parse(PLAIN, NetParameter())


def test_negative_and_infinite_numbers(tmp_path: Path):
    text = 'layer { name: "p" type: "Power" power_param { scale: -inf shift: -0.5 power: -2 } }'
    parameter = read(text, tmp_path).layer[0].power_param
    assert (parameter.scale, parameter.shift, parameter.power) == (float("-inf"), -0.5, -2)


UNKNOWN = """\
name: "fork"
layer {
  name: "a"
  type: "Convolution"
  spectral_norm: true
  convolution_param { num_output: 1 kernel_size: [3, 3] deform_group: -1 }
}
layer <
  name: "b"
  axial_param { heads: [1, 2] nested < deep: "}" 'also }' > }
  pooling_param < pool: MAX pad_kind: 1 >
>
layer: [ { name: "c" }, { name: "d" one: inf; } ]
two: [ { a: 1 }, < b: 2 > ], three: -5
"""


def test_unknown_fields_are_all_listed_with_their_lines(tmp_path: Path):
    """One that is overlooked would change what the net computes and nobody would know."""
    with pytest.raises(UnsupportedError) as caught:
        read(UNKNOWN, tmp_path)
    assert caught.value.what.removeprefix("unknown fields: ").split("; ") == [
        "spectral_norm (in LayerParameter, line 5)",
        "deform_group (in ConvolutionParameter, line 6)",
        "axial_param (in LayerParameter, line 10)",
        "pad_kind (in PoolingParameter, line 11)",
        "one (in LayerParameter, line 13)",
        "two (in NetParameter, line 14)",
        "three (in NetParameter, line 14)",
    ]
    assert caught.value.where == str(tmp_path / "net.prototxt")


def test_known_fields_are_not_taken_for_unknown(tmp_path: Path):
    """Strings that look like fields, and every message of a real training net."""
    text = """layer { name: "unknown: 1 } layer {" type: "Python"
      python_param { module: "m" layer: "l" param_str: '{"a": [1, 2], "b": <c>}' }
      include { phase: TEST stage: "deploy" not_stage: "x" } propagate_down: [true, false] loss_weight: [1, 0.5] }"""
    assert read(text, tmp_path).layer[0].python_param.param_str == '{"a": [1, 2], "b": <c>}'


NOT_DEFINITIONS = {
    "empty": (b"", "no layers"),
    "only comments": (b"# net\n\n", "no layers"),
    "a caffemodel": ((LENET / "net.caffemodel").read_bytes(), "not text"),
    "another language": (b'{"layers": [{"name": "conv"}]}', "1:1"),
    "an unclosed brace": (b'name: "a"\nlayer { name: "x"', "2:1"),
    "the wrong bracket": (b'layer {\n name: "x" >', "2:1"),
    "a value of another type": (b"layer { name: 5 }", "1:15"),
    "an unknown enum value": (b'layer { name: "p" pooling_param {\n pool: MIN } }', "no value named MIN"),
    "a repeated single field": (b'name: "a"\nname: "b"', "multiple"),
    "a missing value": (b"layer { name: }", "1:15"),
    "an unknown field without a value": (b"layer { name: 'a' foo: }", "Invalid field value: }"),
    "an extension": (b"layer { [some.extension] { a: 1 } }", "extensions"),
}


@pytest.mark.parametrize(("content", "message"), NOT_DEFINITIONS.values(), ids=NOT_DEFINITIONS)
def test_what_is_no_definition_is_refused_with_its_place(content: bytes, message: str, tmp_path: Path):
    with pytest.raises(ReadingError, match=re.escape(message)) as caught:
        read(content, tmp_path)
    assert caught.value.where == str(tmp_path / "net.prototxt")


def test_nesting_without_end_is_a_typed_error(tmp_path: Path):
    """Not a RecursionError, nor a crash of the interpreter."""
    for name in (b"layer", b"x"):
        with pytest.raises(DensecastError, match="nested too deeply"):
            read((name + b" { ") * 10_000, tmp_path)


def test_swapped_arguments_are_recognised(tmp_path: Path):
    with pytest.raises(ReadingError, match=r"give the \.prototxt first and the \.caffemodel second"):
        read_definition(LENET / "net.caffemodel")
    with pytest.raises(ReadingError, match="must be a complete NetParameter in binary form"):
        read_weights(LENET / "net.prototxt")


@pytest.mark.parametrize("reader", [read_definition, read_blob])
def test_missing_file_and_folder_give_a_typed_error(reader, tmp_path: Path):
    with pytest.raises(ReadingError, match="No such file"):
        reader(tmp_path / "missing")
    with pytest.raises(ReadingError, match="Is a directory"):
        reader(tmp_path)


@pytest.mark.parametrize("reader", [read_weights, read_blob])
def test_empty_binary_file_is_not_a_model_of_nothing(reader, tmp_path: Path):
    path = tmp_path / "empty"
    path.touch()
    with pytest.raises(ReadingError):
        reader(path)


def test_truncated_weights_never_load(tmp_path: Path):
    """Wherever a download broke off: inside a field it is not a message, between layers a layer lacks its weights."""
    whole = (LENET / "net.caffemodel").read_bytes()
    network = build(read_definition(LENET / "net.prototxt"))
    path = tmp_path / "net.caffemodel"
    message = read_weights(LENET / "net.caffemodel")
    boundary = len(NetParameter(name=message.name, layer=message.layer[:3]).SerializeToString())
    for size in [0, 1, 5, boundary - 1, boundary, boundary + 1, *range(100, len(whole), 997), len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises((ReadingError, WeightsError)):
            with_weights(network, message_weights(read_weights(path)))
    path.write_bytes(whole)
    assert with_weights(network, message_weights(read_weights(path))).parameters


def blob(**fields: Any) -> BlobProto:
    return BlobProto(**fields)


SIX = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
SHAPED = {
    "shape": (blob(shape={"dim": [2, 3]}, data=SIX), (2, 3)),
    "legacy": (blob(num=1, channels=1, height=2, width=3, data=SIX), (1, 1, 2, 3)),
    "legacy, in part": (blob(num=6, channels=1, height=1, width=1, data=SIX), (6, 1, 1, 1)),
    "no shape, one value": (blob(data=[7.0]), ()),
    "empty shape, one value": (blob(shape={}, data=[7.0]), ()),
    "double": (blob(shape={"dim": [3, 2]}, double_data=SIX), (3, 2)),
    "double wins over float, as in Caffe": (blob(shape={"dim": [6]}, double_data=SIX, data=[9.0] * 6), (6,)),
    "diff is not data": (blob(shape={"dim": [6]}, data=SIX, diff=[9.0] * 6), (6,)),
    "double diff is not data": (blob(shape={"dim": [6]}, double_data=SIX, double_diff=[9.0] * 6), (6,)),
}


@pytest.mark.parametrize(("message", "shape"), SHAPED.values(), ids=SHAPED)
def test_shapes_and_values_of_every_form(message: BlobProto, shape: tuple[int, ...]):
    array = blob_array(message, where="here")
    assert array.dtype == np.float32
    assert array.shape == shape
    assert array.reshape(-1).tolist() == ([7.0] if shape == () else SIX)


def test_unpacked_floats():
    """Older writers tag every value: field 5, 32 bits."""
    wire = b"".join(b"\x2d" + np.float32(value).tobytes() for value in SIX)
    message = BlobProto.FromString(wire + blob(shape={"dim": [6]}).SerializeToString())
    np.testing.assert_array_equal(blob_array(message, where=""), np.array(SIX, np.float32))


def test_special_values_survive():
    values = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45], np.float32)
    array = blob_array(BlobProto.FromString(blob_message(values).SerializeToString()), where="")
    assert array.tobytes() == values.tobytes()


BAD_BLOBS = {
    "too few": (blob(shape={"dim": [2, 3]}, data=SIX[:5]), "needs 6 values, the file has 5"),
    "too many": (blob(shape={"dim": [5]}, data=SIX), "needs 5 values, the file has 6"),
    "none": (blob(shape={"dim": [1]}), "has 0"),
    "nothing at all": (blob(), "has 0"),
    "no shape, several values": (blob(data=SIX), "needs 1 values, the file has 6"),
    "only a diff": (blob(shape={"dim": [6]}, diff=SIX), "has 0"),
    "zero": (blob(shape={"dim": [0, 3]}), "at least 1"),
    "negative": (blob(shape={"dim": [-2, -3]}, data=SIX), "at least 1"),
    "legacy with a missing dimension": (blob(num=6, data=SIX), "at least 1"),
    "a product beyond 64 bits": (blob(shape={"dim": [2**62, 4]}), "needs 18446744073709551616 values"),
}


@pytest.mark.parametrize(("message", "text"), BAD_BLOBS.values(), ids=BAD_BLOBS)
def test_shape_and_values_must_agree(message: BlobProto, text: str):
    with pytest.raises(ReadingError, match=text) as caught:
        blob_array(message, where="net.caffemodel: layer 'x'")
    assert caught.value.where == "net.caffemodel: layer 'x'"


def test_a_caffemodel_is_no_mean(tmp_path: Path):
    """Both are protobuf: the mean reader must not take the one for an empty other."""
    with pytest.raises(ReadingError):
        read_blob(LENET / "net.caffemodel")


@given(
    hnp.arrays(
        np.float32,
        hnp.array_shapes(min_dims=0, max_dims=5, max_side=5),
        elements=st.floats(width=32, allow_nan=True, allow_infinity=True),
    )
)
def test_round_trip(array: np.ndarray):
    """Any shape, scalars included: the same bits after a file."""
    found = blob_array(BlobProto.FromString(blob_message(array).SerializeToString()), where="")
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


def test_round_trip_of_a_transposed_and_of_a_large_blob():
    """The length of 4.2 megabytes takes four bytes of varint; memory order is not C."""
    array = np.random.default_rng(0).standard_normal((1024, 1025), dtype=np.float32).T
    message = BlobProto.FromString(blob_message(array).SerializeToString())
    assert list(message.shape.dim) == [1025, 1024]
    np.testing.assert_array_equal(blob_array(message, where=""), array)


@pytest.mark.parametrize("field", ["data", "double_data"])
def test_values_are_a_view_of_the_wire_not_boxed_one_by_one(field: str):
    """Sixty million Python floats would take minutes and gigabytes."""
    message = blob(shape={"dim": [6]}, **{field: SIX})
    values = reading._values(message, field, np.dtype("<f4" if field == "data" else "<f8"))
    root: Any = values
    while isinstance(root, np.ndarray):
        root = root.base
    assert isinstance(root, bytes)
    assert values.tolist() == SIX


def test_a_message_is_made_from_the_raw_bytes(monkeypatch: pytest.MonkeyPatch):
    """A repeated field filled through Python takes one float object a value."""
    wires: list[bytes] = []

    class Wire:
        DESCRIPTOR = BlobProto.DESCRIPTOR

        @staticmethod
        def FromString(wire: bytes) -> BlobProto:  # noqa: N802
            wires.append(wire)
            return BlobProto.FromString(wire)

    monkeypatch.setattr(reading, "BlobProto", Wire)
    array = np.arange(300, dtype=np.float32)
    assert list(blob_message(array).data) == array.tolist()
    assert [wire[-array.nbytes :] for wire in wires] == [array.tobytes()]
