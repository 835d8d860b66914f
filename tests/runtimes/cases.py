"""The networks that runtimes are compared on: golden cases, and the nets of the catalog."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from conversion import Network, cast, load_network, random_parameters
from conversion.errors import CastError
from conversion.layers.base import Layer
from conversion.net.network import walk
from models import CatalogEntry
from tests.runtimes.compare import Case, case_of
from tests.support.golden_cases import GOLDEN, cases

# What Caffe itself would fill at random is refused: these cases have no network.
_REFUSED = ("fmt_weights_missing_layer", "caffenet_small_fullconv")
_PRODUCTS = ("Convolution", "InnerProduct")
SMALL_NETS = ("digits", "squeezenet_1_1", "mobilenet", "open_nsfw", "densenet121", "googlenet")


def golden(kind: str) -> list[Case]:
    """The golden cases: `layers` and `nets` are Caffe's, `dialects` those of its forks."""
    found = []
    index = json.loads((GOLDEN / kind / "index.json").read_text())
    dialects = {entry["case"]: entry.get("dialect") for entry in index}
    for case in cases(kind):
        if case.name not in _REFUSED:
            network = load_network(case.prototxt, case.weights, dialect=dialects[case.name])
            found.append(case_of(case.name, network, case.inputs(next(iter(network.inputs), ""))))
    return found


def catalog_net(entry: CatalogEntry) -> Case:
    """A net of the catalog with tempered weights: fully convolutional on larger images than its own, if it can be."""
    classifier = load_network(entry.definition)
    more = (33, 1)
    try:
        network = cast(classifier)
    except CastError:
        network, more = classifier, (0, 0)
    network = random_parameters(network)
    ((blob, shape),) = network.inputs.items()
    size = (2, shape[1], shape[2] + more[0], shape[3] + more[1])
    images = np.random.default_rng(0).uniform(-120, 130, size).astype(np.float32) * np.float32(entry.scale)
    network = tempered(network, {blob: images})
    (output,) = network.outputs
    scores = next(layer for layer in reversed(network.layers) if output in layer.tops).bottoms
    return case_of(entry.name, network, {blob: images}, [output, *scores])


def tempered(network: Network, inputs: Mapping[str, np.ndarray]) -> Network:
    """Returns the network with its matrices and filters scaled so that what they compute has variance 1.

    It is the second step of layer-sequential unit-variance initialization (Mishkin and Matas 2016, "All you need is a
    good init"), in one pass. In a trained net gates and probabilities take values of this order. Random weights alone
    let them grow from layer to layer, until float32 keeps no digit after the point.

    Args:
        network: With weights.
        inputs: One array per input blob; the variance is that of all values that a layer makes of them.
    """
    parameters = dict(network.parameters)

    def given(layer: Layer) -> list[np.ndarray]:
        return [inputs[top].astype(np.float64) for top in layer.tops]

    def apply(layer: Layer, bottoms: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        blobs = parameters.get(layer.name, ())
        tops = layer.reference(bottoms, [blob.astype(np.float64) for blob in blobs])
        if layer.caffe_type not in _PRODUCTS or not blobs:
            return tops
        deviation = float(tops[0].std())
        parameters[layer.name] = tuple((blob / deviation).astype(np.float32) for blob in blobs)
        return [top / deviation for top in tops]

    for _ in walk(network.layers, given, apply, lambda value, like: value.reshape(like.shape)):
        pass
    return dataclasses.replace(network, parameters=parameters)
