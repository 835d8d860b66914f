"""`export_onnx`: one file, dense or as trained, that ONNX Runtime computes as the reference does."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from conversion import Preprocessing, convert, evaluate, export_onnx, load_network, read_metadata, save
from conversion.errors import ConversionError, MissingExtraError, ModelError, NetworkError, VerificationError
from conversion.export import onnx_file
from conversion.export.float16 import FP16_TOLERANCE
from conversion.export.stored_network import load_classifier, load_stored, model_weights
from conversion.layers.convolution import Convolution
from tests.support.definitions import convolution, data, inner_product, layer, network, pooling
from tests.support.golden_cases import GOLDEN, GoldenCase, cases

CAFFENET = GOLDEN / "nets" / "caffenet_small"
SIDE = load_network(CAFFENET / "net.prototxt").shapes["data"][2]
MEAN = (104.0, 117.0, 123.0)
# Two heads, of which the map needs one; a matrix that is stored the other way round; statistics; shared filters.
HEADS = (
    'name: "heads"\n'
    + data(1, 3, 13, 13)
    + convolution("conv1", "data", "num_output: 4 kernel_size: 3 pad: 1", param='name: "w" } param { name: "b"')
    + layer("BatchNorm", "bn1", "conv1", "conv1")
    + layer("Scale", "scale1", "conv1", "conv1", scale_param="bias_term: true")
    + layer("ReLU", "relu1", "conv1", "conv1")
    + pooling("pool1", "conv1", "kernel_size: 3 stride: 2")
    + inner_product("fc2", "pool1", "num_output: 6 transpose: true")
    + layer("PReLU", "prelu2", "fc2", "fc2")
    + inner_product("fc3", "fc2", "num_output: 5")
    + layer("Softmax", "prob", "fc3")
    + inner_product("other", "fc2", "num_output: 2")
    + layer("Softmax", "prob2", "other")
)


def made(text: str, folder: Path, **options: Any) -> Path:
    subject = network(text, seed=0)
    statistics = {
        name: (blobs[0], np.abs(blobs[1]) + 0.5, np.ones(1, np.float32))
        for name, blobs in subject.parameters.items()
        if name.startswith("bn")
    }
    object.__setattr__(subject, "parameters", {**subject.parameters, **statistics})
    save(subject, folder / "net.prototxt", folder / "net.caffemodel")
    convert(folder / "net.prototxt", folder / "net.caffemodel", folder / "model", form="onnx", **options)
    return folder / "model"


@pytest.fixture(scope="module")
def caffenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "caffenet"
    labels = [f"class {n}" for n in range(read_classes())]
    convert(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel", path, mean=MEAN, labels=labels, form="onnx")
    return path


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(HEADS, tmp_path_factory.mktemp("heads"), mean=MEAN, scale=0.02, output_blob="prob")


def read_classes() -> int:
    return load_network(CAFFENET / "net.prototxt").shapes["prob"][1]


def images(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def run(file: Path, value: np.ndarray) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    [given] = session.get_inputs()
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {given.name: value}), strict=True))


def properties(file: Path) -> dict[str, str]:
    proto = onnx.load(file, load_external_data=False)
    return {entry.key.removeprefix("densecast."): entry.value for entry in proto.metadata_props}


def assert_close(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-4) -> None:
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance * np.abs(expected).max())


def test_a_dense_model(caffenet: Path, tmp_path: Path):
    report = export_onnx(caffenet, tmp_path / "m.onnx")
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
    assert report.files == {report.path: (tmp_path / "m.onnx").stat().st_size}
    assert report.inputs == {"images": "uint8 [batch, height, width, 3]"}
    assert list(report.outputs) == ["probabilities", *read_metadata(caffenet).features]
    assert 0 < report.verification.worst < 1e-4
    assert len(report.verification.sizes) == 3
    dense = load_stored(caffenet, model_weights(caffenet))
    batch = images(2, SIDE + 21, SIDE + 7)
    expected = evaluate(dense, {"data": Preprocessing(mean=MEAN).reference(batch)})
    for name, value in run(tmp_path / "m.onnx", batch).items():
        blob = {"probabilities": "prob"}.get(name, name)
        assert_close(value, expected[blob if blob in expected else f"{blob}-conv"].transpose(0, 2, 3, 1))


def test_raw_input_and_outputs_have_caffes_order(caffenet: Path, tmp_path: Path):
    report = export_onnx(caffenet, tmp_path / "m.onnx", raw_input=True)
    assert report.inputs == {"data": "float32 [batch, 3, height, width]"}
    dense = load_stored(caffenet, model_weights(caffenet))
    value = Preprocessing(mean=MEAN).reference(images(1, SIDE, SIDE + 30)).astype(np.float32)
    assert_close(run(tmp_path / "m.onnx", value)["probabilities"], evaluate(dense, {"data": value})["prob"])
    given = json.loads(properties(tmp_path / "m.onnx")["input"])
    assert given == {"name": "data", "layout": "NCHW", "dtype": "float32", "channels": "bgr", "preprocessed": True}


def test_one_size_makes_every_shape_known(caffenet: Path, tmp_path: Path):
    report = export_onnx(caffenet, tmp_path / "m.onnx", input_size=(SIDE + 30, SIDE))
    assert report.inputs == {"images": f"uint8 [1, {SIDE + 30}, {SIDE}, 3]"}
    assert report.verification.sizes == ((1, SIDE + 30, SIDE),)
    assert not any("?" in shape or "batch" in shape for shape in report.outputs.values())
    proto = onnx.shape_inference.infer_shapes(onnx.load(tmp_path / "m.onnx"), strict_mode=True)
    assert all(d.HasField("dim_value") for v in proto.graph.value_info for d in v.type.tensor_type.shape.dim)
    assert not {node.op_type for node in proto.graph.node} & {"Shape", "Gather"} - {"Gather"}
    with pytest.raises(NetworkError):
        export_onnx(caffenet, tmp_path / "n.onnx", input_size=(3, 3))
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize("raw_input", [False, True])
def test_the_classifier_as_it_was_trained(raw_input: bool, heads: Path, tmp_path: Path):
    report = export_onnx(heads, tmp_path / "m.onnx", classifier=True, raw_input=raw_input)
    assert report.outputs["probabilities"] == "float32 [batch, 5]"
    assert report.outputs["fc2"] == "float32 [batch, 6]"
    net = load_network(heads.parent / "net.prototxt", heads.parent / "net.caffemodel")
    batch = images(3, 13, 13)
    value = Preprocessing(mean=MEAN, scale=0.02).reference(batch)
    expected = evaluate(net, {"data": value})
    found = run(tmp_path / "m.onnx", value.astype(np.float32) if raw_input else batch)
    for name in ("probabilities", "fc2", "fc3"):
        assert_close(found[name], expected["prob" if name == "probabilities" else name])
    assert_close(found["pool1"] if raw_input else found["pool1"].transpose(0, 3, 1, 2), expected["pool1"])
    proto = onnx.load(tmp_path / "m.onnx")
    assert "Gemm" in {node.op_type for node in proto.graph.node}
    assert not any("other" in node.name for node in proto.graph.node)
    outputs = json.loads(properties(tmp_path / "m.onnx")["outputs"])
    assert (outputs["fc2"]["layout"], outputs["pool1"]["layout"]) == ("caffe", "NCHW" if raw_input else "NHWC")
    assert properties(tmp_path / "m.onnx")["kind"] == "classifier"
    assert "geometry" not in properties(tmp_path / "m.onnx")


SMALL_NETS = [case for case in cases("nets") if case.name not in ("caffenet_small", "caffenet_small_fullconv")]


@pytest.mark.parametrize("case", [c for c in SMALL_NETS if c.name != "fcn_piece"], ids=lambda case: case.name)
def test_classifiers_of_the_golden_nets(case: GoldenCase, tmp_path: Path):
    """Caffe's own answers, to what a model's weights give back; fcn_piece has no window of its own."""
    convert(case.prototxt, case.weights, tmp_path / "model", mean=0, form="onnx")
    export_onnx(tmp_path / "model", tmp_path / "m.onnx", classifier=True, raw_input=True)
    inputs, answers = case.inputs("data"), case.outputs()
    found = run(tmp_path / "m.onnx", inputs["data"])["probabilities"]
    assert_close(found, answers[read_metadata(tmp_path / "model").output_blob.removesuffix("-conv")])


def test_a_finer_map_has_the_same_classifier(tmp_path: Path):
    model = made(HEADS, tmp_path, mean=MEAN, scale=0.02, output_blob="prob", output_stride=1)
    export_onnx(model, tmp_path / "m.onnx", classifier=True)
    net = load_network(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    batch = images(1, 13, 13)
    expected = evaluate(net, {"data": Preprocessing(mean=MEAN, scale=0.02).reference(batch)})["prob"]
    assert_close(run(tmp_path / "m.onnx", batch)["probabilities"], expected)


def test_a_classifier_has_one_size(heads: Path, tmp_path: Path):
    assert export_onnx(heads, tmp_path / "m.onnx", classifier=True, input_size=(13, 13)).inputs == {
        "images": "uint8 [1, 13, 13, 3]"
    }
    with pytest.raises(ConversionError, match="input size 20x13 for a classifier of 13x13"):
        export_onnx(heads, tmp_path / "n.onnx", classifier=True, input_size=(20, 13))


def test_stored_weights_make_the_classifier_again(heads: Path):
    """Bit by bit, but for statistics, of which `prepare` keeps a function."""
    net = load_network(heads.parent / "net.prototxt", heads.parent / "net.caffemodel")
    found = load_classifier(heads, load_stored(heads, model_weights(heads)))
    for name, blobs in found.parameters.items():
        for blob, expected in zip(blobs, net.parameters[name], strict=True):
            if name.startswith("bn"):
                np.testing.assert_allclose(blob, expected, rtol=1e-5)
            else:
                np.testing.assert_array_equal(blob, expected, strict=True)


@pytest.mark.parametrize("classifier", [False, True])
def test_float16(classifier: bool, caffenet: Path, tmp_path: Path):
    report = export_onnx(caffenet, tmp_path / "m.onnx", fp16=True, classifier=classifier)
    whole = export_onnx(caffenet, tmp_path / "whole.onnx", classifier=classifier)
    assert report.files[report.path] < 0.6 * whole.files[whole.path]
    assert (report.inputs, report.outputs) == (whole.inputs, whole.outputs)
    assert 1e-5 < report.verification.worst < report.verification.tolerance == FP16_TOLERANCE
    assert properties(tmp_path / "m.onnx")["precision"] == "float16"
    large = [t for t in onnx.load(tmp_path / "m.onnx").graph.initializer if np.prod(t.dims) > 1000]
    assert {t.data_type for t in large} == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize(("scale", "blob"), [(1e5, "data"), (250.0, "fc-conv"), (1e-8, "data")])
def test_a_net_that_leaves_float16_is_refused(scale: float, blob: str, tmp_path: Path):
    """ONNX Runtime computes the graph in float32 on a CPU: it would not show."""
    text = data(1, 3, 5, 5) + inner_product("fc", "data", "num_output: 4") + layer("Softmax", "prob", "fc")
    model = made(text, tmp_path, mean=0, scale=scale)
    export_onnx(model, tmp_path / "m.onnx")
    with pytest.raises(VerificationError, match=f"the values of blob '{blob}' reach") as caught:
        export_onnx(model, tmp_path / "half.onnx", fp16=True)
    assert "without --fp16" in caught.value.remedy
    assert not (tmp_path / "half.onnx").exists()


def test_errors_beyond_the_bound_of_float16(caffenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(onnx_file, "FP16_TOLERANCE", 1e-5)
    with pytest.raises(VerificationError, match="it is the first that does") as caught:
        export_onnx(caffenet, tmp_path / "half.onnx", fp16=True)
    assert "without --fp16" in caught.value.remedy


def test_the_file_says_what_it_is(caffenet: Path, tmp_path: Path):
    report = export_onnx(caffenet, tmp_path / "m.onnx")
    metadata, found = read_metadata(caffenet), properties(tmp_path / "m.onnx")
    assert found["digest"] == metadata.digest
    assert found["version"] == metadata.converter_version
    assert json.loads(found["labels"]) == list(metadata.labels)
    assert json.loads(found["geometry"])["geometry"]["y"]["stride"] == metadata.geometry.y.stride
    assert Preprocessing.model_validate_json(found["preprocessing"]) == metadata.preprocessing
    assert json.loads(found["verification"]) == report.verification.model_dump(mode="json")
    assert json.loads(found["outputs"])["probabilities"] == {"blob": "prob", "dtype": "float32", "layout": "NHWC"}
    assert found["kind"] == "dense"
    assert export_onnx(caffenet, tmp_path / "again.onnx").verification == report.verification
    assert (tmp_path / "again.onnx").read_bytes() == (tmp_path / "m.onnx").read_bytes()


def test_weights_beyond_protobufs_limit_lie_beside_the_file(
    caffenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(onnx_file, "MOST_WEIGHT_BYTES", 10_000)
    folder = tmp_path / "made"
    report = export_onnx(caffenet, folder / "m.onnx")
    assert sorted(report.files) == [str(folder / "m.onnx"), str(folder / "m.onnx.data")]
    assert sorted(path.name for path in folder.iterdir()) == ["m.onnx", "m.onnx.data"]
    moved = tmp_path / "moved"
    folder.rename(moved)
    batch = images(1, SIDE, SIDE)
    export_onnx(caffenet, tmp_path / "again.onnx", overwrite=True)
    np.testing.assert_array_equal(
        run(moved / "m.onnx", batch)["probabilities"], run(tmp_path / "again.onnx", batch)["probabilities"]
    )
    (moved / "m.onnx").unlink()
    with pytest.raises(ConversionError, match="the output exists"):
        export_onnx(caffenet, moved / "m.onnx")
    assert sorted(path.name for path in moved.iterdir()) == ["m.onnx.data"]


# --- errors


def test_what_exists_stays(caffenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "m.onnx").write_text("mine")
    with pytest.raises(ConversionError, match="the output exists") as caught:
        export_onnx(caffenet, tmp_path / "m.onnx")
    assert "--overwrite" in caught.value.remedy
    right = Convolution.onnx
    monkeypatch.setattr(Convolution, "onnx", lambda self, *a: [a[0].node("Neg", [v]) for v in right(self, *a)])
    with pytest.raises(VerificationError, match="it is the first that does"):
        export_onnx(caffenet, tmp_path / "m.onnx", overwrite=True)
    assert (tmp_path / "m.onnx").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
    monkeypatch.undo()
    export_onnx(caffenet, tmp_path / "m.onnx", overwrite=True)
    assert properties(tmp_path / "m.onnx")["name"] == read_metadata(caffenet).name


def test_places_that_no_file_can_be_made_at(caffenet: Path, tmp_path: Path):
    (tmp_path / "file").write_text("")
    for output, message in (
        (tmp_path, "the output is a folder"),
        (tmp_path / "file" / "m.onnx", "the output cannot be made"),
        (caffenet / "m.onnx", "the output is within the model"),
    ):
        with pytest.raises(ConversionError, match=message):
            export_onnx(caffenet, output)


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_what_is_not_installed_is_named(name: str, caffenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == name else find(n))
    with pytest.raises(MissingExtraError) as caught:
        export_onnx(caffenet, tmp_path / "m.onnx")
    assert "extra `onnx`" in caught.value.remedy


def damage(change: Callable[[Path], object], model: Path, tmp_path: Path) -> Path:
    """A copy of a model without a seal that has been changed."""
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    content = json.loads((copy / "densecast.json").read_text())
    del content["files"]
    (copy / "densecast.json").write_text(json.dumps(content))
    change(copy)
    return copy


def other_shapes(model: Path) -> None:
    text = (model / "weights.json").read_text()
    content = json.loads(text)
    content["layers"]["conv1"] = content["layers"]["conv2"]
    (model / "weights.json").write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: (model / "classifier.prototxt").unlink(), "does not have the classifier's definition"),
        (other_shapes, "the weights of layer 'conv1'"),
        (lambda model: (model / "weights.json").write_text("{"), "the weights cannot be read"),
    ],
)
def test_models_that_cannot_be_exported(change: Callable[[Path], object], message: str, caffenet: Path, tmp_path: Path):
    with pytest.raises(ModelError, match=message):
        export_onnx(damage(change, caffenet, tmp_path), tmp_path / "m.onnx", classifier=True)
    assert not (tmp_path / "m.onnx").exists()


def test_a_model_that_was_changed_is_refused(caffenet: Path, tmp_path: Path):
    copy = Path(shutil.copytree(caffenet, tmp_path / "copy"))
    with (copy / "weights.bin").open("r+b") as file:
        file.write(b"\1")
    with pytest.raises(ModelError, match=r"file weights\.bin is not the file"):
        export_onnx(copy, tmp_path / "m.onnx")


def test_a_model_of_an_older_format_is_exported_by_way_of_tensorflow(tmp_path: Path):
    model = tmp_path / "model"
    convert(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel", model, mean=MEAN, form="savedmodel")
    export_onnx(model, tmp_path / "new.onnx")
    content = json.loads((model / "densecast.json").read_text())
    for name in ("forms", "onnx_verification"):
        del content[name]
    for name in ("weights.json", "classifier.prototxt"):
        (model / name).unlink()
        del content["files"][name]
    content["schema_version"] = 2
    (model / "densecast.json").write_text(json.dumps(content))
    export_onnx(model, tmp_path / "old.onnx")
    assert (tmp_path / "old.onnx").read_bytes() == (tmp_path / "new.onnx").read_bytes()
