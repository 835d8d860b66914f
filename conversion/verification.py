"""Holding a SavedModel against the NumPy reference, layer by layer; the first layer that diverges is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from conversion.errors import VerificationError
from conversion.evaluation import evaluate
from conversion.layers.base import Array
from conversion.layers.layout import tensorflow
from conversion.metadata import VerificationMetadata
from conversion.network import Network
from conversion.preprocessing import Preprocessing

TOLERANCE = 1e-4  # of a blob's largest magnitude: plain float32 stays near 1e-6, a wrong layer is far beyond


class Difference(NamedTuple):
    """The largest difference in one blob, as a share of the reference's largest magnitude."""

    blob: str
    error: float


def relative_error(found: Array, expected: Array) -> float:
    """Max |found - expected| / max |expected|; infinite where shapes, NaN or infinities differ."""
    if found.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    finite = np.isfinite(expected)
    if not np.array_equal(found[~finite], expected[~finite], equal_nan=True) or not np.isfinite(found[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(expected[finite]).max())
    error = float(np.abs(found[finite] - expected[finite]).max())
    return error / scale if scale > 0 else error


def compare(network: Network, found: Mapping[str, Array], expected: Mapping[str, Array]) -> list[Difference]:
    """The difference of every blob, in the order in which the layers produce them."""
    order = list(dict.fromkeys(top for layer in network.layers for top in layer.tops))
    return [Difference(blob, relative_error(found[blob], expected[blob])) for blob in order]


def verify(
    loaded: Any,
    network: Network,
    preprocessing: Preprocessing,
    output: str,
    sizes: Sequence[tuple[int, int, int]],
    *,
    seed: int = 0,
    tolerance: float = TOLERANCE,
) -> VerificationMetadata:
    """Compares a loaded SavedModel with the NumPy reference on seeded images.

    Args:
        loaded: From `savedmodel.load`.
        network: What it was made from.
        preprocessing: What it was made with.
        output: The blob of class probabilities.
        sizes: (batch, height, width) of the images to try.
        seed: Of the images.
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.

    Raises:
        VerificationError: A blob or a signature diverges; the first layer that does is named.
    """
    tf = tensorflow()
    (data,) = network.inputs
    rng = np.random.default_rng(seed)
    worst = Difference("", 0.0)
    count = 0
    for size in sizes:
        images = _images(rng, *size)
        expected = evaluate(network, {data: preprocessing.reference(images)})
        tensor = tf.constant(images)
        differences = compare(network, {b: v.numpy() for b, v in loaded.blobs(tensor).items()}, expected)
        count = len(differences)
        for difference in differences:
            if difference.error > tolerance:
                _diverges(network, difference, size, tolerance)
            if difference.error >= worst.error:
                worst = difference
        _check_signatures(loaded, tensor, expected[output], size, tolerance)
    return VerificationMetadata(
        sizes=tuple(sizes), tolerance=tolerance, worst=worst.error, worst_blob=worst.blob, blobs=count
    )


def _images(rng: np.random.Generator, batch: int, height: int, width: int) -> Array:
    """Coarse blotches plus noise: flat areas and edges at several scales, unlike white noise alone."""
    coarse = rng.integers(0, 256, (batch, height // 16 + 1, width // 16 + 1, 3))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def _check_signatures(loaded: Any, images: Any, expected: Array, size: tuple[int, int, int], tolerance: float) -> None:
    """The signatures that users call must agree with the blobs."""
    tf = tensorflow()
    maps = expected.transpose(0, 2, 3, 1)
    probabilities = loaded.signatures["serving_default"](images=images)["probabilities"].numpy()
    k = min(5, maps.shape[-1])
    top = loaded.signatures["top_k"](images=images, k=tf.constant(k))
    at_classes = np.take_along_axis(maps, top["classes"].numpy().astype(np.int64), axis=-1)
    best = -np.sort(-maps, axis=-1)[..., :k]
    for name, found, wanted in (
        ("serving_default", probabilities, maps),
        ("top_k", top["scores"].numpy(), best),
        ("top_k", at_classes, best),
    ):
        error = relative_error(found, wanted)
        if error > tolerance:
            raise VerificationError(
                f"signature {name} differs from the reference by {error:.2e} of its largest value at {_text(size)}",
                why=f"the tolerance is {tolerance:.0e}",
            )


def _diverges(network: Network, difference: Difference, size: tuple[int, int, int], tolerance: float) -> None:
    # A layer in place overwrites what the layer before it wrote: which of them is at fault, the blob does not say.
    writers = [layer.where for layer in network.layers if difference.blob in layer.tops]
    raise VerificationError(
        f"blob {difference.blob!r} differs from the reference by {difference.error:.2e} of its largest magnitude "
        f"on images of {_text(size)}; it is the first that does",
        where=", ".join(writers),
        why=f"the tolerance is {tolerance:.0e}; nothing was published",
        remedy="please report this with the definition: the TensorFlow form of that layer is at fault",
    )


def _text(size: tuple[int, int, int]) -> str:
    return f"{size[0]} x {size[1]}x{size[2]}"
