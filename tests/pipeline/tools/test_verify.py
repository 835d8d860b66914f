"""A model against its Caffe files: read with the options that it was converted with, and with no others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from conversion import DenseOptions, convert, load_network, random_parameters, read_metadata, save
from conversion.errors import CastError, ConversionError, VerificationError
from pipeline.errors import SourceError
from pipeline.tools.inspect_network import inspect
from pipeline.tools.verify import verify_model
from tests.support.field import caffe_files

# The net of tests/field and the options that shape it; of several heads one, and the layers of the other for a feature.
SHAPED: dict[str, tuple[str, dict[str, Any]]] = {
    "one of two heads": ("b01_heads", {"output_blob": "pa"}),
    "one of two heads, and a blob of the other": ("b01_heads", {"output_blob": "pa", "features": ["d", "p"]}),
    "a stage, and a finer map": ("a33_digits", {"stages": ("deploy",), "output_stride": 1}),
    "poolings that round down": ("a41_reduction", {"pooling_rounding": "floor"}),
}


@pytest.mark.parametrize(("name", "options"), SHAPED.values(), ids=SHAPED)
def test_a_model_is_compared_with_the_options_that_shaped_it(name: str, options: dict[str, Any], tmp_path: Path):
    """`verify` ended in KeyError for a head, and in "please report this" for a finer map."""
    definition, weights = caffe_files(name)
    made = convert(definition, weights, tmp_path / "model", **options)
    given = DenseOptions(**{key: value for key, value in options.items() if key != "features"})
    assert made.options == given
    caffe = (str(definition), str(weights))
    report = verify_model(str(tmp_path / "model"), caffe=caffe)
    assert report.caffe == made.verification
    assert made.options is not None

    shown = inspect(str(tmp_path / "model"))
    of_files = inspect(str(definition), options=given)
    assert (shown.output_blob, shown.map_size, shown.classes) == (made.output_blob, of_files.map_size, made.classes)
    assert (of_files.output_blob, of_files.refusal) == (made.output_blob, None)
    assert of_files.geometry == shown.geometry == made.geometry

    # A model of a version that did not record its options.
    path = tmp_path / "model" / "densecast.json"
    written = json.loads(path.read_text())
    del written["options"]
    path.write_text(json.dumps(written))
    assert read_metadata(tmp_path / "model").options is None
    assert verify_model(str(tmp_path / "model"), caffe=caffe, options=given).caffe == made.verification
    assert inspect(str(tmp_path / "model")).output_blob == made.output_blob
    with pytest.raises((VerificationError, CastError)) as caught:
        verify_model(str(tmp_path / "model"), caffe=caffe, options=DenseOptions(stages=given.stages))
    assert {"output_blob": "--output-blob", "output_stride": "--output-stride", "pooling_rounding": "floor"}[
        next(reversed(given.given()))
    ] in caught.value.remedy


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "heads"
    convert(*caffe_files("b01_heads"), path, output_blob="pa")
    return path


def test_other_options_are_said_and_not_blamed_on_a_layer(heads: Path):
    caffe = (str(caffe_files("b01_heads")[0]), str(caffe_files("b01_heads")[1]))
    with pytest.raises(VerificationError, match=r"blob 'p' is \(2, 4, 13, 13\) there and \(2, 4, 7, 7\)") as caught:
        verify_model(str(heads), caffe=caffe, options=DenseOptions(output_stride=1))
    assert caught.value.why == "the definition is read with output_blob pa, output_stride 1"
    with pytest.raises(VerificationError, match="another network: blob 'd'"):
        verify_model(str(heads), caffe=caffe, options=DenseOptions(output_blob="pb"))


def test_other_weights_are_said_and_not_called_a_fault_of_ours(heads: Path, tmp_path: Path):
    definition, _ = caffe_files("b01_heads")
    save(random_parameters(load_network(definition), 7), tmp_path / "net.prototxt", tmp_path / "other.caffemodel")
    with pytest.raises(VerificationError, match="blob 'c' differs") as caught:
        verify_model(str(heads), caffe=(str(definition), str(tmp_path / "other.caffemodel")))
    assert "their digest is another" in caught.value.why
    assert "report" not in caught.value.remedy


def test_a_model_is_inspected_as_it_is(heads: Path):
    with pytest.raises(ConversionError, match="output_stride for a model"):
        inspect(str(heads), options=DenseOptions(output_stride=1))


def test_what_cannot_become_a_model_is_inspected_with_the_reason():
    """`inspect` stated a map, and `convert` then failed."""
    report = inspect(str(caffe_files("a41_reduction")[0]))
    assert report.map_size == [1, 1]
    assert report.refusal is not None
    assert "--pooling-rounding floor" in report.refusal
    report = inspect(str(caffe_files("b01_heads")[0]))
    assert (report.output_blob, report.output_reason) == ("pb", "the last of several heads")
    assert "2 outputs are class probabilities" in (report.refusal or "")
    report = inspect(str(caffe_files("a30_side")[0]), (24, 24))
    assert (report.output_blob, report.map_size, report.refusal) == ("prob", [5, 5], None)


def test_a_broken_image_is_named(heads: Path, tmp_path: Path):
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    with pytest.raises(SourceError, match="cannot be compared") as caught:
        verify_model(str(heads), crops=True, images=[str(tmp_path / "broken.png")])
    assert caught.value.where.endswith("broken.png")


def test_the_definition_of_another_net_is_said(heads: Path):
    with pytest.raises((VerificationError, ConversionError)) as caught:
        verify_model(str(heads), caffe=tuple(map(str, caffe_files("a41_reduction"))))
    assert "report" not in str(caught.value)
