"""Writes networks as SavedModels with signatures, and loads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from conversion.arrays import Tensor
from conversion.errors import ModelError
from conversion.export.graph_ops import check_graph
from conversion.export.metadata import FILE_NAME, read_metadata, require_savedmodel
from conversion.export.net_module import NetworkModule, to_tensorflow
from conversion.export.preprocessing import Preprocessing
from conversion.export.seal import check_files
from conversion.layers.layout import import_tensorflow, to_caffe
from conversion.net.network import Network

Blobs = Mapping[str, Tensor]


class DenseModule(Protocol):
    """A `tf.Module` from images to maps; see `dense_model`."""

    network: NetworkModule
    probabilities: Callable[[Tensor], Blobs]
    top_k: Callable[[Tensor, Tensor], Blobs]
    features: Callable[[Tensor], Blobs]
    blobs: Callable[[Tensor], Blobs]


class Signature(Protocol):
    """A function that a SavedModel offers; `structured_outputs` has its results by name."""

    structured_outputs: Mapping[str, object]

    def __call__(self, **inputs: Tensor) -> Blobs:
        """Computes the results."""


class SavedModel(Protocol):
    """A loaded SavedModel that `save` wrote."""

    signatures: Mapping[str, Signature]
    blobs: Callable[[Tensor], Blobs]


def dense_model(
    network: Network, preprocessing: Preprocessing, output: str, features: Mapping[str, str]
) -> DenseModule:
    """Returns a `tf.Module` that turns images into maps, ready to be saved.

    Args:
        network: Fully convolutional, with one input blob.
        preprocessing: Becomes part of the graph.
        output: The blob of class probabilities.
        features: The blob of each feature of the `features` signature, by name.

    Returns:
        A module with these functions of uint8 RGB images [N, H, W, 3]; h and w follow Caffe's rounding:
        `probabilities` -> float32 [N, h, w, C]; `top_k` (and an int32 scalar k) -> classes int32 and scores float32
        [N, h, w, k], best first; `features` -> float32 [N, h', w', C'] by name; `blobs` -> every blob in Caffe's axis
        order.
    """
    tf = import_tensorflow()
    (data,) = network.inputs
    images_spec = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")

    class DenseModel(tf.Module):  # type: ignore[name-defined]
        """See `dense_model`."""

        def __init__(self, network: NetworkModule) -> None:
            super().__init__(name="densecast")
            self.network = network

        def _carried(self, images: Tensor) -> dict[str, Tensor]:
            carried: dict[str, Tensor] = self.network.carried({data: preprocessing.tensorflow(tf, images)})
            return carried

        @tf.function(input_signature=[images_spec], autograph=False)
        def probabilities(self, images: Tensor) -> dict[str, Tensor]:
            return {"probabilities": self._carried(images)[output]}

        @tf.function(input_signature=[images_spec, tf.TensorSpec([], tf.int32, name="k")], autograph=False)
        def top_k(self, images: Tensor, k: Tensor) -> dict[str, Tensor]:
            scores, classes = tf.math.top_k(self._carried(images)[output], k)
            return {"classes": classes, "scores": scores}

        @tf.function(input_signature=[images_spec], autograph=False)
        def features(self, images: Tensor) -> dict[str, Tensor]:
            carried = self._carried(images)
            return {name: carried[blob] for name, blob in features.items()}

        @tf.function(input_signature=[images_spec], autograph=False)
        def blobs(self, images: Tensor) -> dict[str, Tensor]:
            return {blob: to_caffe(value) for blob, value in self._carried(images).items()}

    model: DenseModule = DenseModel(to_tensorflow(network))
    return model


def save(module: DenseModule, path: str | Path) -> None:
    """Writes a dense model with its signatures, which share one copy of the weights."""
    tf = import_tensorflow()
    signatures = {"serving_default": module.probabilities, "top_k": module.top_k, "features": module.features}
    tf.saved_model.save(module, str(path), signatures=signatures)


def load_savedmodel(path: str | Path) -> SavedModel:
    """Loads a SavedModel that `save` wrote, after its files and its graph were checked.

    Raises:
        ModelError: A file is not the one that the model was made with, the model has no SavedModel, the graph has
            operations that densecast does not write, or it cannot be loaded.
    """
    if (Path(path) / FILE_NAME).exists():  # a model that is being made has none yet
        metadata = read_metadata(path)
        require_savedmodel(path, metadata)
        check_files(path, metadata)
    tf = import_tensorflow()
    check_graph(path)
    try:
        loaded: SavedModel = tf.saved_model.load(str(path))
    except (OSError, ValueError, LookupError, RuntimeError, tf.errors.OpError) as error:  # raised for damaged files
        raise ModelError(
            f"the SavedModel cannot be loaded: {error}",
            where=str(path),
            remedy="make one with: densecast convert PROTOTXT WEIGHTS --output MODEL",
        ) from error
    return loaded
