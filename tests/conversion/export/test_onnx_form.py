"""The ONNX graph of a model directory: written and verified without TensorFlow, over one copy of the weights."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from conversion import (
    Preprocessing,
    cast,
    check_files,
    choose_forms,
    convert,
    evaluate,
    load_network,
    load_savedmodel,
    read_metadata,
    save,
    seal,
)
from conversion.errors import ConversionError, MissingExtraError, ModelError, UnsupportedError, VerificationError
from conversion.export import forms, onnx_model
from conversion.export.onnx_ops import check_onnx
from conversion.layers.activation import ReLU
from conversion.layers.base import Layer
from conversion.layers.convolution import Convolution
from conversion.layers.pooling import Pooling
from tests.support.definitions import convolution, data, inner_product, layer, network, pooling
from tests.support.golden_cases import GOLDEN
from tests.support.without_tensorflow import run_without_tensorflow

LENET = GOLDEN / "nets" / "lenet_small"
CAFFENET = GOLDEN / "nets" / "caffenet_small"
BRANCHES = (
    data(1, 3, 11, 11)
    + convolution("first", "data", "num_output: 3 kernel_size: 3 pad: 1")
    + pooling("second", "first", "kernel_size: 3 stride: 2")
    + convolution("third", "second", "num_output: 2 kernel_size: 2")
    + layer("ReLU", "relu3", "third", "third")
    + inner_product("fc", "third", "num_output: 4")
    + layer("Softmax", "prob", "fc")
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    folder = tmp_path / "caffe"
    folder.mkdir()
    save(network(BRANCHES, seed=0), folder / "net.prototxt", folder / "net.caffemodel")
    return folder / "net.prototxt", folder / "net.caffemodel"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "caffenet"
    convert(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel", path, mean=(104, 117, 123), form="onnx")
    return path


@pytest.fixture
def model(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "model"))


def images(batch: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


# --- what is written


def test_it_computes_maps_and_features_at_every_size(made: Path):
    net = cast(load_network(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel"))
    session = onnxruntime.InferenceSession(str(made / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    assert names == ["probabilities", *read_metadata(made).features]
    ((_, _, height, width),) = net.inputs.values()
    for size in ((2, height, width), (1, height + 21, width + 37)):
        batch = images(*size)
        expected = evaluate(net, {"data": Preprocessing(mean=(104, 117, 123)).reference(batch)})
        found = dict(zip(names, session.run(names, {"images": batch}), strict=True))
        for name, value in found.items():
            blob = {"probabilities": "prob"}.get(name, name)
            wanted = expected[blob if blob in expected else f"{blob}-conv"].transpose(0, 2, 3, 1)
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_the_directory_says_what_it_holds(made: Path):
    metadata = read_metadata(made)
    assert (metadata.schema_version, metadata.forms, metadata.verification) == (3, ("onnx",), None)
    assert metadata.onnx_verification is not None
    assert 0 < metadata.onnx_verification.worst < 1e-4
    assert metadata.files is not None
    assert set(metadata.files) == {
        *("model.onnx", "weights.json", "weights.bin", "network.prototxt", "classifier.prototxt"),
        "reference.npz",
    }
    check_files(made, metadata)
    check_onnx(made)
    assert seal(made) == metadata
    graph = onnx.load(made / "model.onnx", load_external_data=False)
    properties = {entry.key: entry.value for entry in graph.metadata_props}
    assert properties["densecast.digest"] == metadata.digest
    assert json.loads(properties["densecast.input"])["layout"] == "NHWC"


def test_the_graph_holds_no_copy_of_the_weights(made: Path):
    assert (made / "model.onnx").stat().st_size < 100_000
    assert (made / "weights.bin").stat().st_size <= 1.05 * 4 * read_metadata(made).parameters + 4096


def test_the_classifiers_definition_is_kept(made: Path):
    kept, net = load_network(made / "classifier.prototxt"), load_network(CAFFENET / "net.prototxt")
    assert kept.shapes == net.shapes
    assert [layer.definition for layer in kept.layers] == [layer.definition for layer in net.layers]


def test_grey_images_and_a_scale(tmp_path: Path):
    metadata = convert(
        LENET / "net.prototxt", LENET / "net.caffemodel", tmp_path / "m", mean=33, scale=0.5, form="onnx"
    )
    assert metadata.onnx_verification is not None
    assert metadata.onnx_verification.worst < 1e-5


@pytest.mark.parametrize("blob", ["images", "probabilities"])
def test_names_of_input_and_map_are_taken(blob: str, tmp_path: Path):
    text = BRANCHES.replace('"third"', f'"{blob}"')
    save(network(text, seed=0), tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    arguments = (tmp_path / "net.prototxt", tmp_path / "net.caffemodel", tmp_path / "m")
    with pytest.raises(ConversionError, match=f"feature '{blob}' has the name of"):
        convert(*arguments, mean=0, form="onnx")
    convert(*arguments, mean=0, form="onnx", features=["first"])


# --- which forms


def test_without_tensorflow_the_command_writes_the_onnx_form_and_says_so(files: tuple[Path, Path], tmp_path: Path):
    arguments = [*map(str, files), "--output", str(tmp_path / "m"), "--mean", "0"]
    code = "from pipeline.cli.main import main; main(sys.argv[1:])"
    done = run_without_tensorflow(code, "convert", *arguments)
    assert done.returncode == 0, done.stderr
    assert "TensorFlow is not installed: the model gets its ONNX form alone" in done.stderr
    assert read_metadata(tmp_path / "m").forms == ("onnx",)
    assert "verified" in done.stdout
    done = run_without_tensorflow(code, "export", str(tmp_path / "m"), str(tmp_path / "m.onnx"), "--format", "onnx")
    assert done.returncode == 0, done.stderr
    verify = ["verify", str(tmp_path / "m"), "--definition", str(files[0]), "--weights", str(files[1])]
    done = run_without_tensorflow(code, *verify)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ONNX graph: ")
    done = run_without_tensorflow(code, "convert", *arguments, "--overwrite", "--format", "both")
    assert done.returncode == 1
    assert "its extra `tensorflow`" in done.stderr


def hide(monkeypatch: pytest.MonkeyPatch, *hidden: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in hidden else find(name))


def test_the_default_is_what_is_installed(monkeypatch: pytest.MonkeyPatch):
    assert choose_forms() == choose_forms("both") == ("savedmodel", "onnx")
    with monkeypatch.context() as patch:
        hide(patch, "tensorflow")
        assert choose_forms() == choose_forms("onnx") == ("onnx",)
        for wanted in ("savedmodel", "both"):
            with pytest.raises(MissingExtraError, match="TensorFlow is not installed"):
                choose_forms(wanted)
    for missing in ("onnx", "onnxruntime"):
        with monkeypatch.context() as patch:
            hide(patch, missing)
            assert choose_forms() == choose_forms("savedmodel") == ("savedmodel",)
            for wanted in ("onnx", "both"):
                with pytest.raises(MissingExtraError, match=f"{missing} not installed") as caught:
                    choose_forms(wanted)
                assert "extra `onnx`" in caught.value.remedy
    hide(monkeypatch, "onnx", "tensorflow")
    with pytest.raises(MissingExtraError, match="neither TensorFlow nor onnx") as caught:
        choose_forms()
    assert "without TensorFlow: the extra `onnx`" in caught.value.remedy


def test_a_layer_without_an_onnx_form(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(ReLU, "onnx", Layer.onnx)
    with pytest.raises(UnsupportedError, match="layer 'relu3'"):
        convert(*files, tmp_path / "m", form="onnx")
    hide(monkeypatch, "tensorflow")
    with pytest.raises(UnsupportedError, match="layer 'relu3'"):
        convert(*files, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_by_default_it_costs_the_onnx_graph_only(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ReLU, "onnx", Layer.onnx)
    metadata = convert(*files, tmp_path / "m")
    assert (metadata.forms, metadata.onnx_verification) == (("savedmodel",), None)
    assert any("there is no ONNX graph: layer 'relu3' (ReLU)" in note for note in metadata.notes)
    assert not (tmp_path / "m" / "model.onnx").exists()
    load_savedmodel(tmp_path / "m")


def test_both_forms_have_one_copy_of_the_weights(tmp_path: Path):
    metadata = convert(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel", tmp_path / "m", mean=0, form="both")
    assert metadata.verifications.keys() == {"savedmodel", "onnx"}
    graph = onnx.load(tmp_path / "m" / "model.onnx", load_external_data=False)
    places = {entry.value for t in graph.graph.initializer for entry in t.external_data if entry.key == "location"}
    assert places == {"variables/variables.data-00000-of-00001"}
    assert not (tmp_path / "m" / "weights.bin").exists()
    check_onnx(tmp_path / "m")
    assert seal(tmp_path / "m") == metadata


def test_a_model_without_a_savedmodel_is_refused_where_one_is_needed(made: Path):
    with pytest.raises(ModelError, match="the model has no SavedModel") as caught:
        load_savedmodel(made)
    assert "--format both" in caught.value.remedy


# --- verification


def broken(form: Callable, change: Callable, name: str) -> Callable:
    """A layer's ONNX form that is wrong in the layer of that name only."""

    def onnx_form(self, graph, bottoms, variables):
        tops = form(self, graph, bottoms, variables)
        return [change(graph, top) for top in tops] if self.name == name else tops

    return onnx_form


def times(factor: float) -> Callable:
    return lambda graph, top: graph.node("Mul", [top, graph.scalar(factor, top)])


@pytest.mark.parametrize(
    ("kind", "name", "change", "where"),
    [
        (Convolution, "first", times(1.001), "layer 'first' (Convolution)"),
        (Pooling, "second", times(-1), "layer 'second' (Pooling)"),
        (ReLU, "relu3", times(-1), "layer 'third' (Convolution), layer 'relu3' (ReLU)"),
        (Convolution, "fc-conv", times(float("nan")), "layer 'fc-conv' (Convolution)"),
    ],
)
def test_a_wrong_layer_is_named_and_nothing_is_published(
    kind,
    name: str,
    change: Callable,
    where: str,
    files: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(kind, "onnx", broken(kind.onnx, change, name))
    (tmp_path / "models").mkdir()
    with pytest.raises(VerificationError, match="it is the first that does") as caught:
        convert(*files, tmp_path / "models" / "m", form="onnx")
    assert caught.value.where == where
    assert "the ONNX form of that layer is wrong" in caught.value.remedy
    assert not list((tmp_path / "models").iterdir())


def test_wrong_preprocessing_is_caught(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    right = Preprocessing.onnx
    monkeypatch.setattr(Preprocessing, "onnx", lambda self, graph, x: times(0.99)(graph, right(self, graph, x)))
    with pytest.raises(VerificationError, match="blob 'data' differs"):
        convert(*files, tmp_path / "m", form="onnx")


def test_an_output_that_differs_from_the_blobs_is_caught(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    write = onnx_model.write_graph

    def tampered(graph, model: Path, properties) -> None:
        write(graph, model, properties)
        proto = onnx.load(model / "model.onnx", load_external_data=False)
        [probabilities] = [node for node in proto.graph.node if "probabilities" in node.output]
        probabilities.output[0] = "right"
        proto.graph.node.append(onnx.helper.make_node("Sqrt", ["right"], ["probabilities"]))
        (model / "model.onnx").write_bytes(proto.SerializeToString())

    monkeypatch.setattr(forms, "write_graph", tampered)
    with pytest.raises(VerificationError, match="output probabilities differs"):
        convert(*files, tmp_path / "m", form="onnx", scale=0.01)


# --- hostile graphs


def test_other_files_than_the_models_own_are_found(model: Path):
    graph = bytearray((model / "model.onnx").read_bytes())
    (model / "model.onnx").write_bytes(graph + b"\n")
    with pytest.raises(ModelError, match=r"file model\.onnx is not the file"):
        check_files(model, read_metadata(model))


def node(op: str, **attributes: object) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: proto.graph.node.append(onnx.helper.make_node(op, ["images"], ["more"], "odd", **attributes))


def first_stored(change: Callable) -> Callable[[onnx.ModelProto], None]:
    return lambda proto: change(next(t for t in proto.graph.initializer if t.external_data))


def place(key: str, value: str) -> Callable:
    def change(tensor: onnx.TensorProto) -> None:
        next(entry for entry in tensor.external_data if entry.key == key).value = value

    return first_stored(change)


SPARSE = onnx.SparseTensorProto()
SPARSE.values.external_data.add(key="location", value="../secret.bin")
SUBGRAPH = onnx.helper.make_graph([], "g", [], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (node("RandomNormalLike"), "RandomNormalLike (node 'odd')"),
        (node("Conv", domain="com.microsoft"), "com.microsoft.Conv"),
        (node("If", then_branch=SUBGRAPH, else_branch=SUBGRAPH), "If"),
        (node("Constant", sparse_value=SPARSE), "Constant with sparse weights"),
        (node("Relu", g=SUBGRAPH), "Relu with a graph of its own"),
        (lambda proto: proto.functions.append(onnx.FunctionProto(name="f")), "functions"),
        (lambda proto: proto.graph.sparse_initializer.add(), "sparse"),
        (place("location", "/etc/passwd"), "in '/etc/passwd', not in weights.bin"),
        (place("location", "../weights.bin"), "in '../weights.bin'"),
        (place("offset", "-4"), "not in weights.bin"),
        (place("length", str(1 << 60)), "lie outside weights.bin"),
        (first_stored(lambda tensor: tensor.ClearField("external_data")), "in None"),
    ],
)
def test_a_graph_that_does_more_than_arithmetic_is_refused(change: Callable, message: str, model: Path):
    proto = onnx.load(model / "model.onnx", load_external_data=False)
    change(proto)
    (model / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError) as caught:
        check_onnx(model)
    assert message in caught.value.what


@pytest.mark.parametrize("content", [b"\xff" * 40, None])
def test_a_graph_that_cannot_be_read(content: bytes | None, model: Path):
    (model / "model.onnx").unlink()
    if content is not None:
        (model / "model.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="the graph cannot be read"):
        check_onnx(model)
