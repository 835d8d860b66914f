"""Runs a SavedModel for the verification: all blobs, and the signatures."""

from __future__ import annotations

from collections.abc import Sequence

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
        network: The network that it was made from; its weights are not needed.
        output: The blob of class probabilities.
        examples: From `verification_examples`.
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.

    Raises:
        VerificationError: A blob or a signature diverges; the message names the first layer that does.
    """
    return verify(_SavedModelRunner(loaded, network, output), examples, tolerance=tolerance)


class _SavedModelRunner:
    """See `Runner`."""

    form = "TensorFlow"

    def __init__(self, loaded: SavedModel, network: Network, output: str) -> None:
        self._loaded, self._output = loaded, output
        names = blob_names(network)
        features = loaded.signatures["features"].structured_outputs
        self._features = {name: names[name] for name in features}
        self.answered = {output, *self._features.values()}

    def blobs(self, images: Array, wanted: Sequence[str]) -> dict[str, Array]:
        """See `Runner.blobs`."""
        tf = import_tensorflow()

        @tf.function(autograph=False)
        def some(images: Tensor) -> dict[str, Tensor]:
            # What a function does not return is not computed, or freed when it has been read.
            blobs = self._loaded.blobs(images)
            return {blob: blobs[blob] for blob in wanted}

        images_spec = tf.TensorSpec([None, None, None, 3], tf.uint8)
        with tf.device("/device:CPU:0"):
            found = some.get_concrete_function(images_spec)(tf.constant(images))
        return {blob: np.asarray(value) for blob, value in found.items()}

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
            *(Answer(f"signature features ({n})", self._features[n], _nchw(v)) for n, v in features.items()),
        ]


def _nchw(tensor: Tensor) -> Array:
    array: Array = tensor.numpy().transpose(0, 3, 1, 2)
    return array
