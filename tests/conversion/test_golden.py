"""Every golden case, in every form, against what a real Caffe computed."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from conversion import cast, evaluate, load_network, receptive_field
from conversion.caffe.reading import read_blob, read_npy
from conversion.errors import WeightsError
from conversion.export.verification import relative_error
from conversion.net.network import Network, learned
from conversion.surgery import random_parameters
from models import entry
from tests.support.forms import FORMS, Arrays
from tests.support.golden_cases import GOLDEN, GoldenCase, cases

Record = Callable[[str, object], None]
REFERENCE_TOLERANCE = 1e-5  # of absmax: what float32 Caffe leaves against float64
FORM_TOLERANCE = 1e-4

# What Caffe itself would fill at random and say nothing of is refused: the one case that must not pass.
REFUSED = {"fmt_weights_missing_layer": (WeightsError, "0 of 2 weight blobs")}
CASES = [case for kind in ("layers", "nets") for case in cases(kind) if case.name != "caffenet_small_fullconv"]


def test_no_case_is_left_out():
    """The index, the folders and what runs below agree; the cases without a net of their own have tests of theirs."""
    folders = {path.name for kind in ("layers", "nets") for path in (GOLDEN / kind).iterdir() if path.is_dir()}
    assert folders == {case.name for case in CASES} | {"caffenet_small_fullconv", "fmt_mean_binaryproto"}
    assert len(folders) == 220


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in REFUSED], ids=lambda case: case.name)
def test_case(case: GoldenCase, record_property: Record):
    record_property("golden case", case.name)
    network = load_network(case.prototxt, case.weights)
    inputs = case.inputs(next(iter(network.inputs), ""))
    assert_all_forms_agree(network, inputs, case.outputs())


def assert_all_forms_agree(network: Network, inputs: Arrays, expected: Arrays) -> dict[str, np.ndarray]:
    """The reference and every form give Caffe's values; returns the reference's."""
    reference = evaluate(network, inputs)
    found = {form: build(network)(inputs) for form, build in FORMS.items()}
    assert expected
    for blob, caffes in expected.items():
        values = caffes.astype(np.float64)
        assert relative_error(reference[blob].reshape(values.shape), values) <= REFERENCE_TOLERANCE, blob
        for form, blobs in found.items():
            assert relative_error(blobs[blob].reshape(values.shape), values) <= FORM_TOLERANCE, (form, blob)
    return reference


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str, record_property: Record):
    record_property("golden case", name)
    case = next(c for c in CASES if c.name == name)
    error, text = REFUSED[name]
    with pytest.raises(error, match=text):
        load_network(case.prototxt, case.weights)


def test_mean_in_both_forms(record_property: Record):
    record_property("golden case", "fmt_mean_binaryproto")
    folder = GOLDEN / "layers" / "fmt_mean_binaryproto"
    np.testing.assert_array_equal(
        read_blob(folder / "mean.binaryproto").squeeze(), read_npy(folder / "mean.npy").squeeze()
    )


@pytest.mark.parametrize("size", ["227x227", "300x517", "451x451"])
def test_cast_equals_caffes_own_surgery(size: str, record_property: Record):
    """Our cast of the classifier, run densely, is what Caffe computed after net surgery in its notebook's way."""
    record_property("golden case", "caffenet_small_fullconv")
    folder = GOLDEN / "nets" / "caffenet_small_fullconv"
    source = GOLDEN / "nets" / "caffenet_small"
    network = cast(load_network(source / "net.prototxt", source / "net.caffemodel"))
    inputs = {"data": np.load(folder / f"input_{size}.npy").astype(np.float32)}
    with np.load(folder / f"outputs_{size}.npz") as expected:
        assert_all_forms_agree(network, inputs, dict(expected))


DENSE = ("densenet_piece", "googlenet_piece", "mobilenet_piece", "resnet_piece", "squeezenet_piece", "vgg_piece")


@pytest.mark.parametrize("name", DENSE)
def test_one_form_serves_every_size(name: str):
    """The casts of whole nets: each form is built once, and rounds as Caffe does at every size."""
    folder = GOLDEN / "nets" / name
    network = cast(load_network(folder / "net.prototxt", folder / "net.caffemodel"))
    forms = {form: build(network) for form, build in FORMS.items()}
    (_, channels, height, width) = network.inputs["data"]
    rng = np.random.default_rng(0)
    for batch, more in ((2, (0, 0)), (1, (13, 38)), (1, (22, 5)), (1, (47, 3))):
        image = rng.normal(0, 50, (batch, channels, height + more[0], width + more[1])).astype(np.float32)
        reference = evaluate(network, {"data": image})
        for form, run in forms.items():
            blobs = run({"data": image})
            assert blobs.keys() == reference.keys()
            for blob, values in reference.items():
                assert relative_error(blobs[blob], values) <= FORM_TOLERANCE, (form, blob, image.shape)


def test_golden_classifier_is_the_source_of_the_fullconv_case():
    """The premise of the test above: the sibling's weights are those that were moved."""
    folder = GOLDEN / "nets" / "caffenet_small_fullconv"
    moved = load_network(folder / "net.prototxt", folder / "net.caffemodel")
    source = GOLDEN / "nets" / "caffenet_small"
    ours = cast(load_network(source / "net.prototxt", source / "net.caffemodel"))
    assert [layer.name for layer, _ in learned(moved)] == [layer.name for layer, _ in learned(ours)]
    for name, blobs in moved.parameters.items():
        for theirs, mine in zip(blobs, ours.parameters[name], strict=True):
            np.testing.assert_array_equal(theirs, mine)


@pytest.fixture(scope="module")
def caffenet():
    """The full-size CaffeNet with the weights that the golden vectors were made with: 61 million, made here."""
    return random_parameters(load_network(entry("caffenet").definition), seed=0)


@pytest.fixture(scope="module")
def caffenet_vectors():
    with np.load(GOLDEN / "caffenet_full" / "io.npz") as vectors:
        return {name: vectors[name] for name in vectors.files}


def _stem(vectors: dict[str, np.ndarray], suffix: str) -> dict[str, np.ndarray]:
    return {name.removesuffix(suffix): value for name, value in vectors.items() if name.endswith(suffix)}


def test_full_caffenet_at_227(caffenet, caffenet_vectors):
    expected = _stem(caffenet_vectors, "_227")
    image = caffenet_vectors["image_451"][..., :227, :227].astype(np.float32)
    compared = {blob: values for blob, values in expected.items() if blob in caffenet.shapes and blob != "prob"}
    assert "fc8" in compared
    assert_all_forms_agree(caffenet, {"data": image}, compared)


def test_full_caffenet_at_451(caffenet, caffenet_vectors):
    network = cast(caffenet)
    image = caffenet_vectors["image_451"].astype(np.float32)
    expected = {"pool5": caffenet_vectors["pool5_451"], "fc8-conv": caffenet_vectors["fc8conv_451"]}
    reference = assert_all_forms_agree(network, {"data": image}, expected)
    assert reference["fc8-conv"].shape == (1, 1000, 8, 8)


def test_caffenet_geometry(caffenet):
    geometry = receptive_field(cast(caffenet))
    assert tuple(geometry) == ((32, 32), (113, 113), (227, 227), (355, 355))


def test_index_counts():
    assert len(json.loads((GOLDEN / "layers" / "index.json").read_text())) == 210
    assert len(json.loads((GOLDEN / "nets" / "index.json").read_text())) == 10
