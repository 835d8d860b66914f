"""The definitions of tests/field: small nets in the dialects that are found in the wild."""

from __future__ import annotations

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np

from conversion import DenseOptions, Network, load_dense, load_network, random_parameters, receptive_field
from conversion.errors import CastError, DensecastError, NetworkError
from conversion.layers.normalization import BatchNorm
from tests.support.field import FIELD

DEFINITIONS = sorted((FIELD / "definitions").glob("*.prototxt"))
_OPTIONS = re.compile(r"^# options: (.*)$", re.MULTILINE)


def is_classifier(definition: Path) -> bool:
    """Whether its map has class probabilities; densecast converts no others."""
    return "# no classifier" not in definition.read_text()


def has_dense_form(definition: Path) -> bool:
    """Whether its map slides; the others are refused, with the reason."""
    return "# no dense form" not in definition.read_text()


def refusal(definition: Path) -> DensecastError | None:
    """Why a definition has no dense form whose cells stand for pixels; None if it has one."""
    try:
        dense = load_dense(definition, options=DenseOptions(**options_of(definition)))
        receptive_field(dense.network, dense.output.blob)
    except (CastError, NetworkError) as error:
        return error
    return None


def seeded(definition: Path) -> Network:
    """The network with seeded weights; statistics are those of a trained BatchNorm: a variance near 1, the factor 1.

    Deep nets overflow with a factor near 0.
    """
    network = random_parameters(load_network(definition, dialect=options_of(definition).get("dialect")), seed=0)
    rng = np.random.default_rng(0)
    parameters = dict(network.parameters)
    for layer in network.layers:
        if isinstance(layer, BatchNorm):
            shape = parameters[layer.name][0].shape
            statistics = (rng.normal(0, 0.1, shape), rng.uniform(0.5, 1.5, shape), np.ones(1))
            parameters[layer.name] = tuple(values.astype(np.float32) for values in statistics)
    return dataclasses.replace(network, parameters=parameters)


def options_of(definition: Path) -> dict[str, str]:
    """The options that a definition needs, as its head states them: names as in Python."""
    stated = _OPTIONS.search(definition.read_text())
    words = shlex.split(stated[1]) if stated else []
    return {
        flag.removeprefix("--").replace("-", "_"): value for flag, value in zip(words[::2], words[1::2], strict=True)
    }
