"""Runs a SavedModel for the verification: all blobs, and the signatures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from conversion.arrays import Array, Tensor
from conversion.export.metadata import VerificationMetadata
from conversion.export.savedmodel import SavedModel
from conversion.export.verification import TOLERANCE, Answer, Example, verify
from conversion.layers.layout import import_tensorflow
from conversion.net.network import Network
from conversion.passes.cast_names import blob_names

_BEST = 5  # classes that are asked for


def verify_savedmodel(
    loaded: SavedModel, network: Network, output: str, examples: Sequence[Example], *, tolerance: float = TOLERANCE
) -> VerificationMetadata:
    """Compares a loaded SavedModel with the NumPy reference.

    Args:
        loaded: From `savedmodel.load_savedmodel`.
        network: The network that it was made from.
        output: The blob of class probabilities.
        examples: From `verification_examples`.
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.

    Raises:
        VerificationError: A blob or a signature diverges; the message names the first layer that does.
    """
    return verify(_SavedModelRunner(loaded, network, output), network, examples, tolerance=tolerance)


class _SavedModelRunner:
    """See `Runner`."""

    form = "TensorFlow"

    def __init__(self, loaded: SavedModel, network: Network, output: str) -> None:
        self._loaded, self._output = loaded, output
        self._names = blob_names(network)

    def blobs(self, images: Array) -> Mapping[str, Array]:
        """See `Runner.blobs`."""
        tf = import_tensorflow()
        with tf.device("/device:CPU:0"):
            return {blob: value.numpy() for blob, value in self._loaded.blobs(tf.constant(images)).items()}

    def answers(self, images: Array) -> list[Answer]:
        """See `Runner.answers`."""
        tf, signatures = import_tensorflow(), self._loaded.signatures
        with tf.device("/device:CPU:0"):
            given = tf.constant(images)
            maps = _nchw(signatures["serving_default"](images=given)["probabilities"])
            k = min(_BEST, maps.shape[1])
            top = signatures["top_k"](images=given, k=tf.constant(k))
            features = signatures["features"](images=given)
        at_classes = np.take_along_axis(maps, _nchw(top["classes"]).astype(np.int64), axis=1)
        return [
            Answer("signature serving_default", self._output, maps),
            Answer("signature top_k", self._output, _nchw(top["scores"]), best=True),
            Answer("signature top_k", self._output, at_classes, best=True),
            *(Answer(f"signature features ({n})", self._names[n], _nchw(v)) for n, v in features.items()),
        ]


def _nchw(tensor: Tensor) -> Array:
    array: Array = tensor.numpy().transpose(0, 3, 1, 2)
    return array
