"""The catalog: every entry hangs together with its definition, and an unknown name is answered helpfully."""

import dataclasses
import itertools
import pickle
import re
from collections.abc import Iterator
from pathlib import PurePath
from urllib.parse import urlsplit

import pytest
from google.protobuf import text_format

from conversion import load_network
from conversion.caffe import caffe_pb2
from conversion.errors import DensecastError
from models import CatalogEntry, UnknownModelError, entries, entry

every_entry = pytest.mark.parametrize("model", entries(), ids=lambda model: model.name)
KNOWN = ", ".join(model.name for model in entries())
alexnet_family = pytest.mark.parametrize("name", ["caffenet", "alexnet"])


def definition(model: CatalogEntry) -> caffe_pb2.NetParameter:
    return text_format.Parse(model.definition.read_text(encoding="utf-8"), caffe_pb2.NetParameter())


def shapes(net: caffe_pb2.NetParameter) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Name, output shape (channels, height, width) and parameter count of each layer, by Caffe's own arithmetic."""
    blobs: dict[str, tuple[int, ...]] = {}
    for layer in net.layer:
        shape, parameters = blobs[layer.bottom[0]] if layer.bottom else (), 0
        if layer.type == "Input":
            shape = tuple(layer.input_param.shape[0].dim)[1:]
        elif layer.type == "Convolution":
            spec = layer.convolution_param
            kernel, pad, stride = spec.kernel_size[0], (*spec.pad, 0)[0], (*spec.stride, 1)[0]
            assert shape[0] % spec.group == spec.num_output % spec.group == 0
            parameters = spec.num_output * (shape[0] // spec.group * kernel**2 + 1)
            shape = (spec.num_output, *((side + 2 * pad - kernel) // stride + 1 for side in shape[1:]))
        elif layer.type == "Pooling":
            window, step = layer.pooling_param.kernel_size, layer.pooling_param.stride
            # Caffe rounds up where it pools.
            shape = (shape[0], *(-(-(side - window) // step) + 1 for side in shape[1:]))
        elif layer.type == "InnerProduct":
            inputs = shape[0] * shape[1] * shape[2]
            shape = (layer.inner_product_param.num_output, 1, 1)
            parameters = shape[0] * (inputs + 1)
        blobs[layer.top[0]] = shape
        yield layer.name, shape, parameters


def test_names_and_files_are_unique() -> None:
    assert [model.name for model in entries()][:2] == ["caffenet", "alexnet"]
    assert len({model.name for model in entries()}) == len(entries())
    published = [model.published.filename for model in entries() if model.published]
    assert len(set(published)) == len(published)


@every_entry
def test_entry_is_found_by_its_name(model: CatalogEntry) -> None:
    assert entry(model.name) is model


@every_entry
def test_entry_is_complete(model: CatalogEntry) -> None:
    assert model.title
    assert model.description.endswith(".")
    assert model.license
    assert all(0 <= channel <= 255 for channel in model.mean)
    assert model.scale > 0


@every_entry
def test_weights_are_either_published_or_shipped(model: CatalogEntry) -> None:
    published = model.published
    if published is None:
        assert model.shipped_weights is not None
        assert model.shipped_weights.is_file()
        return
    assert model.shipped_weights is None
    assert urlsplit(published.url).scheme in ("http", "https")
    assert published.sha1 is None or re.fullmatch("[0-9a-f]{40}", published.sha1)
    assert PurePath(published.filename).name == published.filename
    assert model.license == published.license


@every_entry
def test_definition_agrees_with_the_entry(model: CatalogEntry) -> None:
    net = definition(model)
    assert list(net.layer[0].input_param.shape[0].dim) == [1, 3, model.crop, model.crop]
    assert net.layer[-1].type == "Softmax"
    # The last layer with outputs of its own makes the classes, be it a convolution or an inner product.
    sizes = [layer.convolution_param.num_output or layer.inner_product_param.num_output for layer in net.layer]
    assert [size for size in sizes if size][-1] == model.classes
    assert len(model.labels) in (0, model.classes)
    assert bool(model.labels) != bool(model.labels_url)


@every_entry
def test_size_is_that_of_the_definition(model: CatalogEntry) -> None:
    assert load_network(model.definition).parameter_count() == model.parameters
    assert model.input == f"{model.crop}x{model.crop} bgr"


@every_entry
def test_entry_cannot_be_changed(model: CatalogEntry) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        model.crop = 1  # type: ignore[misc]


def test_published_weights_are_those_of_the_caffe_readmes() -> None:
    host = "http://dl.caffe.berkeleyvision.org"
    assert {
        model.name: (model.published.url, model.published.sha1)
        for model in entries()
        if model.published is not None and model.published.url.startswith(host)
    } == {
        "caffenet": (f"{host}/bvlc_reference_caffenet.caffemodel", "4c8d77deb20ea792f84eb5e6d0a11ca0a8660a46"),
        "alexnet": (f"{host}/bvlc_alexnet.caffemodel", "9116a64c0fbe4459d18f4bb6b56d647b63920377"),
        "googlenet": (f"{host}/bvlc_googlenet.caffemodel", "405fc5acd08a3bb12de8ee5e23a96bec22f08204"),
        "flickr_style": (f"{host}/finetune_flickr_style.caffemodel", "443ad95a61fb0b5cd3cee55951bcc1f299186b5e"),
        "rcnn_ilsvrc13": (
            f"{host}/bvlc_reference_rcnn_ilsvrc13.caffemodel",
            "bdd8abb885819cba5e2fe1eb36235f2319477e64",
        ),
    }


@alexnet_family
def test_alexnet_family_has_the_shapes_of_the_published_weights(name: str) -> None:
    found = {layer: shape for layer, shape, _ in shapes(definition(entry(name)))}
    assert found["conv1"] == (96, 55, 55)
    assert found["conv2"] == (256, 27, 27)
    assert found["conv5"] == (256, 13, 13)
    assert found["pool5"] == (256, 6, 6)
    assert sum(parameters for _, _, parameters in shapes(definition(entry(name)))) == 60_965_224


@alexnet_family
def test_alexnet_family_has_the_layers_that_weights_are_matched_with(name: str) -> None:
    middle = {"caffenet": ["pool", "norm"], "alexnet": ["norm", "pool"]}[name]
    stages = [[f"{layer}{stage}" for layer in ["conv", "relu", *middle]] for stage in (1, 2)]
    stages += [["conv3", "relu3", "conv4", "relu4", "conv5", "relu5", "pool5"]]
    stages += [["fc6", "relu6", "drop6", "fc7", "relu7", "drop7", "fc8", "prob"]]
    net = definition(entry(name))
    assert [layer.name for layer in net.layer] == ["data", *itertools.chain(*stages)]
    in_place = [layer.name for layer in net.layer if list(layer.bottom) == list(layer.top)]
    assert in_place == [layer.name for layer in net.layer if layer.type in ("ReLU", "Dropout")]
    assert all(layer.top[0] == layer.name for layer in net.layer if layer.name not in in_place)
    assert {layer.name for layer in net.layer if layer.convolution_param.group == 2} == {"conv2", "conv4", "conv5"}
    norms = [layer.lrn_param for layer in net.layer if layer.type == "LRN"]
    assert [(norm.local_size, norm.beta, norm.k) for norm in norms] == [(5, 0.75, 1)] * 2
    assert [norm.alpha for norm in norms] == pytest.approx([1e-4] * 2)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("cafenet", "caffenet"),
        ("CaffeNet", "caffenet"),
        ("bvlc_reference_caffenet", "caffenet"),
        ("AlexNet", "alexnet"),
        ("bvlc_alexnet", "alexnet"),
    ],
)
def test_unknown_name_is_answered_with_the_closest(typed: str, meant: str) -> None:
    with pytest.raises(UnknownModelError, match=f"did you mean '{meant}'") as caught:
        entry(typed)
    assert repr(typed) in str(caught.value)
    assert KNOWN in str(caught.value)


@pytest.mark.parametrize("typed", ["", "yolo", "/"])
def test_name_like_no_other_is_answered_with_the_list_alone(typed: str) -> None:
    with pytest.raises(UnknownModelError) as caught:
        entry(typed)
    assert KNOWN in str(caught.value)
    assert "did you mean" not in str(caught.value)


def test_error_is_one_of_ours_and_survives_pickling() -> None:
    with pytest.raises(DensecastError) as caught:
        entry("yolo")
    again = pickle.loads(pickle.dumps(caught.value))  # noqa: S301
    assert type(again) is UnknownModelError
    assert str(again) == str(caught.value)
