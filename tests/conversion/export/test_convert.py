"""Caffe files -> a verified model directory: what is in it, what it computes, and what a failure leaves behind."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from conversion import ModelMetadata, Network, Preprocessing, cast, convert, evaluate, load_network, read_metadata, save
from conversion.errors import CastError, ConversionError, MissingExtraError, ModelError, VerificationError, WeightsError
from conversion.export import savedmodel
from conversion.export.metadata import digest
from conversion.export.savedmodel_verification import verify_savedmodel
from conversion.export.seal import file_digests
from conversion.export.verification import verification_examples
from conversion.layers.activation import ReLU
from conversion.layers.convolution import Convolution
from conversion.layers.pooling import Pooling
from conversion.net.network import to_definition
from conversion.surgery import initialise, random_parameters
from tests.support.definitions import CLASSIFIER, convolution, data, inner_product, layer, network, pooling
from tests.support.golden_cases import GOLDEN

LENET = GOLDEN / "nets" / "lenet_small"
CAFFENET = GOLDEN / "nets" / "caffenet_small"
MEAN = (104.0, 117.0, 123.0)
GRAPH = 400_000  # bytes that a graph of these sizes may take, weights apart


@dataclasses.dataclass(frozen=True)
class Converted:
    path: Path
    metadata: ModelMetadata
    network: Network  # the cast one
    preprocessing: Preprocessing
    output: str = "prob"

    def reference(self, images: np.ndarray) -> dict[str, np.ndarray]:
        (data,) = self.network.inputs
        return evaluate(self.network, {data: self.preprocessing.reference(images)})

    def signature(self, name: str) -> Callable[..., dict[str, tf.Tensor]]:
        loaded = tf.saved_model.load(str(self.path))
        return lambda **inputs: (loaded, loaded.signatures[name](**inputs))[1]


@pytest.fixture(scope="module")
def lenet(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """One channel, a mean of one value, a scale, labels."""
    path = tmp_path_factory.mktemp("models") / "lenet"
    labels = [f"digit {i}" for i in range(10)]
    metadata = convert(LENET / "net.prototxt", LENET / "net.caffemodel", path, mean=33, scale=0.5, labels=labels)
    dense = cast(load_network(LENET / "net.prototxt", LENET / "net.caffemodel"))
    return Converted(path, metadata, dense, Preprocessing(channel_order="gray", mean=(33.0,), scale=0.5))


@pytest.fixture(scope="module")
def caffenet(tmp_path_factory: pytest.TempPathFactory) -> Converted:
    """Three channels in Caffe's order, padding, groups, LRN."""
    path = tmp_path_factory.mktemp("models") / "caffenet"
    metadata = convert(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel", path, mean=MEAN)
    dense = cast(load_network(CAFFENET / "net.prototxt", CAFFENET / "net.caffemodel"))
    return Converted(path, metadata, dense, Preprocessing(mean=MEAN))


CaffeFiles = Callable[..., tuple[Path, Path]]


@pytest.fixture
def files(tmp_path: Path) -> CaffeFiles:
    """Writes a network as Caffe files, beside the folder that models go to."""

    def write(subject: Network | str = CLASSIFIER) -> tuple[Path, Path]:
        built = network(subject, seed=0) if isinstance(subject, str) else subject
        folder = tmp_path / "caffe"
        folder.mkdir(exist_ok=True)
        save(built, folder / "net.prototxt", folder / "net.caffemodel")
        return folder / "net.prototxt", folder / "net.caffemodel"

    return write


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


def images(batch: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (batch, height, width, 3), dtype=np.uint8)


def assert_close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# --- signatures


def test_signatures_have_the_names_and_types_that_engines_rely_on(caffenet: Converted):
    loaded = tf.saved_model.load(str(caffenet.path))
    image_spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
    inputs = {name: f.structured_input_signature[1] for name, f in loaded.signatures.items()}
    assert inputs == {
        "serving_default": {"images": image_spec},
        "top_k": {"images": image_spec, "k": tf.TensorSpec([], tf.int32, name="k")},
        "features": {"images": image_spec},
    }
    outputs = {
        name: {key: (spec.dtype, spec.shape.as_list()) for key, spec in f.structured_outputs.items()}
        for name, f in loaded.signatures.items()
    }
    unknown = [None, None, None]
    assert outputs == {
        "serving_default": {"probabilities": (tf.float32, [*unknown, 40])},
        "top_k": {"classes": (tf.int32, [*unknown, None]), "scores": (tf.float32, [*unknown, None])},
        "features": {
            "pool5": (tf.float32, [*unknown, 16]),
            "fc6": (tf.float32, [*unknown, 64]),
            "fc7": (tf.float32, [*unknown, 48]),
            "fc8": (tf.float32, [*unknown, 40]),
        },
    }


@pytest.mark.parametrize(
    ("batch", "height", "width"), [(1, 28, 28), (3, 28, 28), (2, 29, 31), (1, 34, 57), (5, 25, 40)]
)
def test_maps_of_any_size_are_the_references(lenet: Converted, batch: int, height: int, width: int):
    """Sizes that are not a whole number of strides, and one below the training size: Caffe's rounding in the graph."""
    batch_of_images = images(batch, height, width)
    reference = lenet.reference(batch_of_images)
    found = lenet.signature("serving_default")(images=batch_of_images)["probabilities"].numpy()
    expected = reference["prob"].transpose(0, 2, 3, 1)
    assert found.shape == expected.shape
    shapes = lenet.network.shapes_at({"data": (batch, 1, height, width)})
    assert expected.shape == (batch, *shapes["prob"][2:], 10)
    assert_close(found, expected)


def test_map_of_512_pixels_has_ten_cells(caffenet: Converted):
    """Rounding down would give nine."""
    batch = images(1, 512, 300)
    found = caffenet.signature("serving_default")(images=batch)["probabilities"].numpy()
    assert found.shape == (1, 10, 4, 40)
    assert_close(found, caffenet.reference(batch)["prob"].transpose(0, 2, 3, 1))


@pytest.mark.parametrize("k", [1, 3, 10])
def test_top_k_is_the_best_of_the_map(lenet: Converted, k: int):
    batch = images(2, 40, 33, seed=1)
    maps = lenet.signature("serving_default")(images=batch)["probabilities"].numpy()
    top = {name: value.numpy() for name, value in lenet.signature("top_k")(images=batch, k=k).items()}
    assert top["classes"].dtype == np.int32
    assert top["classes"].shape == top["scores"].shape == (*maps.shape[:3], k)
    np.testing.assert_array_equal(top["scores"], -np.sort(-maps, axis=-1)[..., :k])
    np.testing.assert_array_equal(np.take_along_axis(maps, top["classes"].astype(int), -1), top["scores"])


def test_features_are_the_classifiers_blobs(caffenet: Converted):
    """Under the classifier's names, in float32, channels last; after what works in place on them."""
    batch = images(1, 260, 227)
    reference = caffenet.reference(batch)
    found = caffenet.signature("features")(images=batch)
    for name, blob in (("pool5", "pool5"), ("fc6", "fc6-conv"), ("fc7", "fc7-conv"), ("fc8", "fc8-conv")):
        assert_close(found[name].numpy(), reference[blob].transpose(0, 2, 3, 1))
    assert found["fc6"].numpy().min() == 0  # fc6 is read after its ReLU, as in Caffe
    assert caffenet.metadata.features == {"pool5": 16, "fc6": 64, "fc7": 48, "fc8": 40}


def test_features_that_are_asked_for_whatever_their_names(files: CaffeFiles, models: Path):
    """Slashes, dots, spaces and other scripts are legal in Caffe, not in TensorFlow's scopes."""
    text = (
        data(1, 3, 9, 9)
        + convolution("inception/1x1.a", "data", "num_output: 4 kernel_size: 3")
        + layer("ReLU", "relu", "inception/1x1.a", "inception/1x1.a")
        + convolution("a layer", "inception/1x1.a", "num_output: 2 kernel_size: 3", top="_層")
        + inner_product("fc", "_層", "num_output: 3")
        + layer("Softmax", "prob", "fc")
    )
    wanted = ["_層", "inception/1x1.a", "fc"]
    metadata = convert(*files(text), models / "m", features=wanted)
    assert metadata.features == {"_層": 2, "inception/1x1.a": 4, "fc": 3}
    batch = images(1, 12, 9)
    found = tf.saved_model.load(str(models / "m")).signatures["features"](images=tf.constant(batch))
    reference = evaluate(cast(network(text, seed=0)), {"data": Preprocessing(mean=(0, 0, 0)).reference(batch)})
    assert set(found) == set(wanted)
    for name, blob in zip(wanted, ["_層", "inception/1x1.a", "fc-conv"], strict=True):
        assert_close(found[name].numpy(), reference[blob].transpose(0, 2, 3, 1))


# --- on disk


def model_bytes(path: Path) -> int:
    return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())


def stored_values(path: Path) -> int:
    variables = tf.train.list_variables(str(path / "variables" / "variables"))
    return sum(int(np.prod(shape)) for name, shape in variables if shape)  # a scalar: the checkpoint's own records


def test_weights_are_stored_once(files: CaffeFiles, models: Path):
    """Four functions read them; constants folded into a graph, or two copies of what layers share, would show."""
    names = 'name: "w" } param { name: "b"'
    text = (
        data(1, 3, 16, 16)
        + inner_product("a", "data", "num_output: 1536", param=names)
        + inner_product("b", "data", "num_output: 1536", param=names)
        + layer("Eltwise", "e", "a b")
        + inner_product("fc", "e", "num_output: 3")
        + layer("Softmax", "prob", "fc")
    )
    subject = network(text, seed=0)
    subject = dataclasses.replace(subject, parameters={**subject.parameters, "b": subject.parameters["a"]})
    convert(*files(subject), models / "m")
    weights = sum(blob.size for name in ("a", "fc") for blob in subject.parameters[name])
    assert stored_values(models / "m") == weights
    assert model_bytes(models / "m") <= 1.05 * 4 * weights + GRAPH


def test_saved_model_is_no_larger_than_its_weights(caffenet: Converted, lenet: Converted):
    for model in (caffenet, lenet):
        weights = 4 * model.metadata.parameters
        example = (model.path / "reference.npz").stat().st_size  # an image and its map
        assert model_bytes(model.path) <= 1.05 * weights + GRAPH + example
        assert stored_values(model.path) == model.metadata.parameters


def test_metadata_file_says_what_was_done(lenet: Converted):
    written = json.loads((lenet.path / "densecast.json").read_text())
    verification, of_onnx = written.pop("verification"), written.pop("onnx_verification")
    axis = {"stride": 4.0, "offset": 13.5, "window": 28.0, "receptive_field": 28.0, "shift": 0.0}
    assert written == {
        "schema_version": 3,
        "forms": ["savedmodel", "onnx"],
        "name": "lenet_small",
        "digest": digest(lenet.network, lenet.preprocessing, "prob"),
        "converter_version": importlib.metadata.version("densecast"),
        "preprocessing": {"channel_order": "gray", "mean": [33.0], "scale": 0.5},
        "mean_image": None,
        "geometry": {"y": axis, "x": axis},
        "alignment": [4, 4],
        "classes": 10,
        "labels": [f"digit {i}" for i in range(10)],
        "output_blob": "prob",
        "options": {
            "crop": None,
            "stages": [],
            "level": None,
            "output_blob": None,
            "output_stride": None,
            "pooling_rounding": None,
            "dialect": None,
        },
        "features": {"pool2": 12, "ip1": 30, "ip2": 10},
        "multiply_adds_per_window": 24 * 24 * 6 * 25 + 8 * 8 * 12 * 6 * 25 + 192 * 30 + 30 * 10,
        "parameters": 6 * 26 + 12 * 151 + 30 * 193 + 10 * 31,
        "notes": [],
        "random_weights": False,
        "own_layers": {},
        "files": file_digests(lenet.path),
    }
    assert verification["sizes"][0] == [2, 28, 28]
    # Neither side of the others is a whole number of strides from the training size.
    assert all((side - 28) % 4 for _, *sides in verification["sizes"][1:] for side in sides)
    assert verification["blobs"] == len(lenet.network.shapes) == 9
    assert 0 < verification["worst"] < verification["tolerance"] == 1e-4
    assert verification["worst_blob"] in lenet.network.shapes
    assert of_onnx["sizes"] == verification["sizes"]
    assert 0 < of_onnx["worst"] < of_onnx["tolerance"] == 1e-4


def test_metadata_reads_back_as_it_was_returned(lenet: Converted, caffenet: Converted):
    for model in (lenet, caffenet):
        assert read_metadata(model.path) == model.metadata


def test_network_file_is_what_is_in_the_graph(caffenet: Converted):
    found = load_network(caffenet.path / "network.prototxt")
    assert to_definition(found) == to_definition(caffenet.network)


def test_models_are_readable_by_other_users(lenet: Converted):
    """It was made in a private temporary folder; workers run as others."""
    assert lenet.path.stat().st_mode & 0o777 == 0o755


def test_notes_tell_of_unused_weights_and_of_the_reduced_mean(files, models: Path):
    subject = network(CLASSIFIER, seed=0)
    prototxt, weights = files(subject)
    extra = network(CLASSIFIER + convolution("unused", "data", "num_output: 1 kernel_size: 1"), seed=0)
    save(extra, prototxt.with_name("extra.prototxt"), weights)
    np.save(models / "mean.npy", np.full((3, 8, 8), 100.0))
    metadata = convert(prototxt, weights, models / "m", mean=models / "mean.npy", name="mine")
    assert metadata.name == "mine"
    assert metadata.preprocessing.mean == (100.0, 100.0, 100.0)
    assert len(metadata.notes) == 2
    assert metadata.notes[0] == "weights of layer 'unused' are not used"
    assert "8x8 is reduced" in metadata.notes[1]


# --- what is refused, before TensorFlow does any work

TWO_INPUTS = data(1, 3, 17, 17, name="other") + CLASSIFIER + layer("Silence", "silence", "other", "")
SOFTMAX = layer("Softmax", "prob", "fc3")
REFUSED = {
    "too few labels": (CLASSIFIER, {"labels": ["a", "b"]}, "2 labels for 5 classes"),
    "too many labels": (CLASSIFIER, {"labels": list("abcdef")}, "6 labels for 5 classes"),
    "no softmax": (CLASSIFIER.replace(SOFTMAX, ""), {}, "no blob is class probabilities"),
    "a softmax that something reads": (CLASSIFIER + layer("Power", "p", "prob"), {}, "'prob' is: layer 'p'"),
    "two softmaxes": (
        CLASSIFIER + layer("Softmax", "also", "fc3"),
        {},
        "2 outputs are class probabilities: prob, also",
    ),
    "two inputs": (TWO_INPUTS, {}, "one input, an image"),
    "four channels": (CLASSIFIER.replace("dim: 3 dim: 17", "dim: 4 dim: 17"), {}, "1 or 3 channels"),
    "grey for three channels": (CLASSIFIER, {"channel_order": "gray"}, "channel order gray for a network of 3"),
    "colours for one channel": (
        CLASSIFIER.replace("dim: 3 dim: 17", "dim: 1 dim: 17"),
        {"channel_order": "rgb"},
        "channel order rgb for a network of 1",
    ),
    "an unknown feature": (CLASSIFIER, {"features": ["pool1", "fc7", "fc9"]}, "no blob fc7, fc9"),
    "a mean of two channels": (CLASSIFIER, {"mean": [1, 2]}, "for 3 channels"),
    "a scale of nothing": (CLASSIFIER, {"scale": 0.0}, "scale 0"),
    "a scale that is not a number": (CLASSIFIER, {"scale": float("nan")}, "scale nan"),
    "maps that do not fit every size": (
        CLASSIFIER.replace(SOFTMAX, "")
        + convolution("beside", "conv1", "num_output: 6 kernel_size: 3 stride: 2")
        + layer("Eltwise", "sum", "beside pool1")
        + inner_product("fc4", "sum", "num_output: 5")
        + layer("Softmax", "prob", "fc4"),
        {},
        "its bottoms are beside 1x6x4x4, pool1 1x6x5x5",
    ),
    "another crop": (CLASSIFIER, {"crop": 33}, "crop 33x33 does not fit the weights"),
}


@pytest.mark.parametrize(("text", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_nothing_left(text: str, options: dict, message: str, files, models: Path):
    prototxt, weights = files(text)
    with pytest.raises((ConversionError, CastError), match=message):
        convert(prototxt, weights, models / "m", **options)
    assert not list(models.iterdir())


def test_weights_of_another_net_are_refused(files, models: Path):
    prototxt, _ = files()
    with pytest.raises(WeightsError):
        convert(prototxt, CAFFENET / "net.caffemodel", models / "m")
    assert not list(models.iterdir())


def test_without_tensorflow_the_error_names_the_extra(files, models: Path, monkeypatch: pytest.MonkeyPatch):
    prototxt, weights = files()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="its extra `cpu`"):
        convert(prototxt, weights, models / "m")
    assert not list(models.iterdir())


def test_crop_replaces_the_definitions_size(files, models: Path):
    """A definition made for another size than its weights: `crop` says what they were trained at."""
    prototxt, weights = files(CLASSIFIER)
    prototxt.write_text(prototxt.read_text().replace("dim: 17", "dim: 15", 1).replace("dim: 17", "dim: 19", 1))
    assert next(iter(load_network(prototxt).inputs.values()))[2:] == (15, 19)
    metadata = convert(prototxt, weights, models / "m", crop=17)
    assert metadata.verification is not None
    assert metadata.verification.sizes[0] == (2, 17, 17)


# --- the output folder


def test_existing_output_is_kept_unless_overwriting_is_allowed(files, models: Path):
    """And the digest changes with the weights, not with labels."""
    prototxt, weights = files()
    first = convert(prototxt, weights, models / "m")
    before = snapshot(models)
    with pytest.raises(ConversionError, match="the output exists"):
        convert(prototxt, weights, models / "m")
    assert snapshot(models) == before
    second = convert(prototxt, weights, models / "m", labels=list("abcde"), overwrite=True)
    assert read_metadata(models / "m").labels == tuple("abcde")
    assert second.digest == first.digest
    files(initialise(network(CLASSIFIER), lambda _layer, _index, shape: np.full(shape, 0.01)))
    third = convert(prototxt, weights, models / "m", overwrite=True)
    assert third.digest != first.digest
    assert [p.name for p in models.iterdir()] == ["m"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_overwriting_something_that_is_no_model_is_refused(kind: str, files: CaffeFiles, models: Path):
    """`--overwrite --output ~` must not delete a home."""
    target = models / "precious"
    if kind == "file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "thesis.tex").write_text("mine")
    before = snapshot(models)
    with pytest.raises(ConversionError, match="not a densecast model"):
        convert(*files(), target, overwrite=True)
    assert snapshot(models) == before
    assert target.exists()


def test_an_empty_folder_is_taken(files: CaffeFiles, models: Path):
    (models / "m").mkdir()
    convert(*files(), models / "m")
    assert read_metadata(models / "m").labels == ()


def test_failure_leaves_the_old_model_and_nothing_else(files, models: Path, monkeypatch: pytest.MonkeyPatch):
    prototxt, weights = files()
    convert(prototxt, weights, models / "m")
    before = snapshot(models)
    with pytest.raises(VerificationError):
        convert(prototxt, weights, models / "m", overwrite=True, tolerance=1e-12)
    assert snapshot(models) == before
    with pytest.raises(VerificationError):
        convert(prototxt, weights, models / "new", tolerance=1e-12)
    assert snapshot(models) == before

    rename = Path.rename

    def fails(self: Path, target: Path) -> Path:
        if self.suffix == ".partial":
            raise OSError("the disk is gone")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        convert(prototxt, weights, models / "m", overwrite=True)
    assert snapshot(models) == before
    assert [p.name for p in models.iterdir()] == ["m"]


def test_nobody_sees_half_a_model(files: CaffeFiles, models: Path, monkeypatch: pytest.MonkeyPatch):
    """While it is made and verified there is nothing under the output's name."""
    seen = []
    load = savedmodel.load_savedmodel

    def spy(path: Path) -> object:
        seen.append((path.parent == models, path.name.startswith("."), (models / "m").exists()))
        return load(path)

    monkeypatch.setattr(savedmodel, "load_savedmodel", spy)
    convert(*files(), models / "m")
    assert seen == [(True, True, False)]


# --- verification

BRANCHES = (
    data(1, 3, 11, 11)
    + convolution("first", "data", "num_output: 3 kernel_size: 3 pad: 1")
    + pooling("second", "first", "kernel_size: 3 stride: 2")
    + convolution("third", "second", "num_output: 2 kernel_size: 2")
    + layer("ReLU", "relu3", "third", "third")
    + inner_product("fc", "third", "num_output: 4")
    + layer("Softmax", "prob", "fc")
)


def broken(form: Callable, change: Callable, name: str) -> Callable:
    """A layer's TensorFlow form that is wrong in the layer of that name only."""

    def tensorflow(self, bottoms, variables):
        tops = form(self, bottoms, variables)
        return [change(top) for top in tops] if self.name == name else tops

    return tensorflow


@pytest.mark.parametrize(
    ("kind", "name", "change", "where"),
    [
        (Convolution, "first", lambda top: top * 1.001, "layer 'first' (Convolution)"),
        (Pooling, "second", lambda top: top[:, :-1], "layer 'second' (Pooling)"),
        (Convolution, "third", lambda top: top + 1e-2, "layer 'third' (Convolution), layer 'relu3' (ReLU)"),
        (ReLU, "relu3", lambda top: -top, "layer 'third' (Convolution), layer 'relu3' (ReLU)"),
        (Convolution, "fc-conv", lambda top: top * float("nan"), "layer 'fc-conv' (Convolution)"),
    ],
)
def test_wrong_layer_is_named_and_nothing_is_published(
    kind, name: str, change: Callable, where: str, files: CaffeFiles, models: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(kind, "tensorflow", broken(kind.tensorflow, change, name))
    with pytest.raises(VerificationError, match="it is the first that does") as caught:
        convert(*files(BRANCHES), models / "m")
    assert caught.value.where == where
    assert not list(models.iterdir())


def test_wrong_preprocessing_is_caught(files: CaffeFiles, models: Path, monkeypatch: pytest.MonkeyPatch):
    """Red and blue exchanged: the classic."""
    right = Preprocessing.tensorflow
    monkeypatch.setattr(Preprocessing, "tensorflow", lambda self, tf, x: right(self, tf, x)[..., ::-1])
    with pytest.raises(VerificationError, match="blob 'data' differs"):
        convert(*files(BRANCHES), models / "m")


@pytest.mark.parametrize("signature", ["serving_default", "top_k"])
def test_signature_that_differs_from_the_blobs_is_caught(signature: str, files: CaffeFiles, models: Path, monkeypatch):
    """All blobs may be right and what users call wrong."""
    load = savedmodel.load_savedmodel

    class Tampered:
        def __init__(self, loaded):
            self.blobs, self.loaded = loaded.blobs, loaded
            self.signatures = dict(loaded.signatures)
            self.signatures[signature] = lambda **kw: {
                key: tf.reverse(value, [1]) for key, value in loaded.signatures[signature](**kw).items()
            }

    monkeypatch.setattr(savedmodel, "load_savedmodel", lambda path: Tampered(load(path)))
    with pytest.raises(VerificationError, match=f"signature {signature} differs"):
        convert(*files(BRANCHES), models / "m", scale=0.01)  # probabilities far from 0 and 1
    assert not list(models.iterdir())


def test_tampered_weights_of_a_model_on_disk_are_caught(lenet: Converted, tmp_path: Path):
    """One weight of one layer, changed and saved again: verification names that layer."""
    loaded: Any = savedmodel.load_savedmodel(lenet.path)
    sizes = [(1, 28, 28), (1, 33, 30)]
    arguments = (lenet.network, "prob", verification_examples(lenet.network, lenet.preprocessing, sizes))
    assert verify_savedmodel(loaded, *arguments).worst < 1e-5
    kernel = loaded.network.weights["conv2"][0]
    original = kernel.numpy()
    changed = original.copy()
    changed[0, 0, 0, 0] += 0.5
    kernel.assign(changed)
    tf.saved_model.save(loaded, str(tmp_path / "tampered"), signatures=loaded.signatures)
    with pytest.raises(VerificationError) as caught:
        verify_savedmodel(savedmodel.load_savedmodel(tmp_path / "tampered"), *arguments)
    assert caught.value.where == "layer 'conv2' (Convolution)"


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "no graph"])
def test_damaged_model_is_a_typed_error(damage: str, lenet: Converted, tmp_path: Path):
    """Not maps of garbage, and not a traceback out of TensorFlow's C++."""
    model = tmp_path / "m"
    (model / "variables").mkdir(parents=True)
    for name, content in snapshot(lenet.path).items():
        (model / name).write_bytes(content)
    variables = model / "variables" / "variables.data-00000-of-00001"
    weights = bytearray(variables.read_bytes())
    if damage == "truncated":
        variables.write_bytes(weights[: len(weights) // 2])
    elif damage == "flipped":
        weights[len(weights) // 2] ^= 0x55
        variables.write_bytes(weights)
    elif damage == "no graph":
        (model / "saved_model.pb").write_bytes(b"")
    else:
        for path in model.rglob("*"):
            if path.is_file():
                path.unlink()
    with pytest.raises(ModelError):
        savedmodel.load_savedmodel(model)


def test_metadata_that_is_missing_or_not_ours(tmp_path: Path, lenet: Converted):
    with pytest.raises(ModelError, match="not a densecast model"):
        read_metadata(tmp_path)
    text = (lenet.path / "densecast.json").read_text()
    for broken_text in ("", "{}", text[:-20], text.replace('"classes"', '"klasses"'), text.replace("28.0", '"wide"')):
        (tmp_path / "densecast.json").write_text(broken_text)
        with pytest.raises(ModelError, match="not valid"):
            read_metadata(tmp_path)


# --- digest


def test_digest_is_of_what_is_computed(lenet: Converted):
    """Maps are found again by it: any change of the maps changes it, and nothing else does."""
    dense, preprocessing = lenet.network, lenet.preprocessing
    own = digest(dense, preprocessing, "prob")
    again = cast(load_network(LENET / "net.prototxt", LENET / "net.caffemodel"))
    assert (
        digest(again, Preprocessing(channel_order="gray", mean=(33,), scale=0.5), "prob")
        == own
        == lenet.metadata.digest
    )

    def with_parameters(**changes: tuple[np.ndarray, ...]) -> Network:
        return dataclasses.replace(dense, parameters={**dense.parameters, **changes})

    weights, bias = dense.parameters["conv1"]
    nudged = weights.copy()
    nudged.flat[-1] = np.nextafter(nudged.flat[-1], np.float32(9))
    smaller = cast(load_network(LENET / "net.prototxt"))
    message = to_definition(smaller)
    other = network(str(message).replace("stride: 2", "stride: 1", 1))
    changed = [
        digest(with_parameters(conv1=(nudged, bias)), preprocessing, "prob"),
        digest(with_parameters(conv1=(weights, -bias)), preprocessing, "prob"),
        digest(with_parameters(conv1=(weights.swapaxes(2, 3).copy(), bias)), preprocessing, "prob"),
        digest(dense, preprocessing, "ip2"),
        digest(dataclasses.replace(other, parameters=dense.parameters), preprocessing, "prob"),
        *(
            digest(dense, preprocessing.model_copy(update=change), "prob")
            for change in ({"scale": 0.25}, {"mean": (33.5,)}, {"channel_order": "rgb"})
        ),
    ]
    assert len({own, *changed}) == len(changed) + 1
    assert digest(dataclasses.replace(dense, notes=("a note",)), preprocessing, "prob") == own


TWO_HEADS = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 3 } }
layer { name: "b" type: "InnerProduct" bottom: "data" top: "b" inner_product_param { num_output: 3 } }
layer { name: "pa" type: "Softmax" bottom: "a" top: "pa" }
layer { name: "pb" type: "Softmax" bottom: "b" top: "pb" }
"""
AFTER_SOFTMAX = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "InnerProduct" bottom: "data" top: "a" inner_product_param { num_output: 3 } }
layer { name: "p" type: "Softmax" bottom: "a" top: "p" }
layer { name: "times" type: "Power" bottom: "p" top: "p" power_param { scale: 100 } }
"""
OVERPADDED = """
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 16 dim: 16 } } }
layer { name: "c" type: "Convolution" bottom: "data" top: "c"
        convolution_param { num_output: 3 kernel_size: 3 pad: 5 } }
layer { name: "p" type: "Softmax" bottom: "c" top: "p" }
"""


def _files(text: str, folder: Path) -> tuple[Path, Path]:
    prototxt, weights = folder / "net.prototxt", folder / "net.caffemodel"
    prototxt.write_text(text)
    save(random_parameters(load_network(prototxt)), folder / "again.prototxt", weights)
    return prototxt, weights


def test_models_of_different_heads_have_different_digests(tmp_path: Path):
    files_ = _files(TWO_HEADS, tmp_path)
    digests = {
        convert(*files_, tmp_path / head, output_blob=head, features=[other]).digest
        for head, other in (("pa", "pb"), ("pb", "pa"))
    }
    assert len(digests) == 2


def test_a_blob_that_is_changed_after_its_softmax_holds_no_probabilities(tmp_path: Path):
    with pytest.raises(ConversionError, match="no blob is class probabilities"):
        convert(*_files(AFTER_SOFTMAX, tmp_path), tmp_path / "m")


def test_more_padding_than_window_is_refused(tmp_path: Path):
    """Else windows would have a negative size and images of one pixel a map."""
    with pytest.raises(ConversionError, match="nominal window of -7"):
        convert(*_files(OVERPADDED, tmp_path), tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_a_blob_whose_own_name_ends_like_a_casts_is_offered_as_it_is(tmp_path: Path):
    text = """
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    layer { name: "res" type: "Convolution" bottom: "data" top: "res"
            convolution_param { num_output: 3 kernel_size: 3 } }
    layer { name: "res-conv" type: "Convolution" bottom: "res" top: "res-conv"
            convolution_param { num_output: 4 kernel_size: 6 } }
    layer { name: "p" type: "Softmax" bottom: "res-conv" top: "p" }
    """
    metadata = convert(*_files(text, tmp_path), tmp_path / "m", features=["res", "res-conv"])
    assert metadata.features == {"res": 3, "res-conv": 4}
