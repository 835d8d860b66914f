"""The network of a model directory, with the weights that are stored there in Caffe's shapes again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from conversion.arrays import Array, Shape
from conversion.errors import ModelError
from conversion.export.metadata import CLASSIFIER_FILE, NETWORK_FILE
from conversion.export.savedmodel import load_savedmodel
from conversion.export.weights_store import INDEX_FILE, Weights, read_weights
from conversion.layers.base import Layer
from conversion.layers.convolution import InnerProduct
from conversion.limits import UNLIMITED
from conversion.net.load import load_network
from conversion.net.network import Network, learned
from conversion.passes.cast_names import CAST_SUFFIX

_AGAIN = "make the model again with: densecast convert PROTOTXT WEIGHTS --output MODEL"


def needs_tensorflow(model: str | Path) -> bool:
    """Returns whether the weights of a model can only be read by TensorFlow: formats before 3 have no index of them."""
    return not (Path(model) / INDEX_FILE).exists()


def check_readable(model: str | Path, reader: str) -> None:
    """Checks that the weights of a model can be read without TensorFlow.

    Args:
        model: The model directory.
        reader: Who would read them, for the message.

    Raises:
        ModelError: They cannot.
    """
    if needs_tensorflow(model):
        raise ModelError(
            f"the model has no weights that {reader} could read",
            where=str(model),
            why="an older version of densecast made it",
            remedy=f"{_AGAIN}; or use TensorFlow",
        )


def load_model_network(model: str | Path) -> Network:
    """Returns the fully convolutional network of a model directory, without weights.

    The limits of a conversion held when the model was made, and may have been raised for it: none hold here.

    Raises:
        ReadingError: The directory has no definition.
    """
    return load_network(Path(model) / NETWORK_FILE, limits=UNLIMITED)


def model_weights(model: str | Path) -> Weights:
    """Returns the weights of a model by layer, as `Layer.prepare` returned them, whatever the model's format is.

    Raises:
        ModelError: They cannot be read.
        MissingExtraError: Only TensorFlow can read them, and it is not installed.
    """
    if not needs_tensorflow(model):
        return read_weights(model)
    loaded: Any = load_savedmodel(model)
    return {name: [value.numpy() for value in values] for name, values in loaded.network.weights.items()}


def load_stored(model: str | Path, weights: Weights) -> Network:
    """Returns the fully convolutional network of a model directory.

    Args:
        model: The model directory.
        weights: From `model_weights`.

    Raises:
        ModelError: The weights do not fit the network.
    """
    network = load_model_network(model)
    restored: dict[tuple[int, ...], tuple[Array, ...]] = {}  # shared arrays stay shared
    parameters = {}
    for layer, shapes in learned(network):
        arrays = weights.get(layer.name, ())
        key = tuple(map(id, arrays))
        if key not in restored or not arrays:
            restored[key] = _restored(layer, arrays, shapes, str(model))
        parameters[layer.name] = restored[key]
    return dataclasses.replace(network, parameters=parameters)


def load_classifier(model: str | Path, dense: Network) -> Network:
    """Returns the classifier that a model was cast from, with the dense network's weights.

    Raises:
        ModelError: The model directory does not have its definition, or the weights do not fit.
    """
    path = Path(model) / CLASSIFIER_FILE
    if not path.exists():
        raise ModelError(
            f"the model does not have the classifier's definition, {CLASSIFIER_FILE}",
            where=str(model),
            why="an older version of densecast made it",
            remedy=_AGAIN,
        )
    classifier = load_network(path, limits=UNLIMITED)
    parameters = {}
    reshaped: dict[tuple[tuple[int, ...], tuple[Shape, ...], bool], tuple[Array, ...]] = {}
    for layer, shapes in learned(classifier):
        cast_name = layer.name + CAST_SUFFIX
        blobs = dense.parameters.get(cast_name if cast_name in dense.parameters else layer.name, ())
        turned = isinstance(layer, InnerProduct) and layer.transpose
        key = (tuple(map(id, blobs)), tuple(shapes), turned)
        if key not in reshaped:
            if [blob.size for blob in blobs] != [int(np.prod(shape)) for shape in shapes]:
                raise _unfit(layer, [blob.shape for blob in blobs], shapes, str(path))
            first = [blobs[0].reshape(layer.num_output, -1).T] if isinstance(layer, InnerProduct) and turned else []
            rest = [blob.reshape(shape) for blob, shape in zip(blobs, shapes, strict=True)][len(first) :]
            reshaped[key] = (*first, *rest)
        parameters[layer.name] = reshaped[key]
    return dataclasses.replace(classifier, parameters=parameters)


def _restored(layer: Layer, arrays: Sequence[Array], shapes: Sequence[Shape], where: str) -> tuple[Array, ...]:
    try:
        blobs = tuple(layer.restore(arrays))
    except (ValueError, IndexError) as error:
        raise _unfit(layer, [array.shape for array in arrays], shapes, where) from error
    # BatchNorm over the batch's own statistics stores nothing, though it has blobs.
    stores_all = type(layer).restore is Layer.restore
    if (blobs or stores_all) and [blob.shape for blob in blobs] != list(shapes):
        raise _unfit(layer, [blob.shape for blob in blobs], shapes, where)
    return blobs


def _unfit(layer: Layer, found: Sequence[Shape], expected: Sequence[Shape], where: str) -> ModelError:
    return ModelError(
        f"the weights of {layer.where} have the shapes {list(found)}, its definition {list(expected)}",
        where=where,
        why="the files of the model do not belong together",
        remedy=_AGAIN,
    )
