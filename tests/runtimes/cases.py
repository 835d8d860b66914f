"""The networks that runtimes are compared on: golden cases, and the nets of the catalog."""

from __future__ import annotations

import json

import numpy as np

from conversion import cast, load_network, random_parameters
from conversion.errors import CastError
from models import CatalogEntry
from tests.runtimes.compare import Case, case_of
from tests.support.golden_cases import GOLDEN, cases

# What Caffe itself would fill at random is refused: these cases have no network.
_REFUSED = ("fmt_weights_missing_layer", "caffenet_small_fullconv")
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
    """A net of the catalog with seeded weights: fully convolutional on larger images than its own, if it can be."""
    classifier = load_network(entry.definition)
    more = (33, 1)
    try:
        network = cast(classifier)
    except CastError:
        network, more = classifier, (0, 0)
    network = random_parameters(network)
    ((blob, shape),) = network.inputs.items()
    size = (2, shape[1], shape[2] + more[0], shape[3] + more[1])
    images = np.random.default_rng(0).uniform(-120, 130, size) * entry.scale
    (output,) = network.outputs
    scores = next(layer for layer in reversed(network.layers) if output in layer.tops).bottoms
    return case_of(entry.name, network, {blob: images}, [output, *scores])
