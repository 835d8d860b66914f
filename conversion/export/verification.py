"""Holding a SavedModel against the NumPy reference, layer by layer; the first layer that diverges is named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from conversion.arrays import Array
from conversion.errors import VerificationError
from conversion.export.metadata import VerificationMetadata
from conversion.export.preprocessing import Preprocessing
from conversion.layers.layout import import_tensorflow
from conversion.net.geometry import Number
from conversion.net.network import Network
from conversion.net.reference import evaluate
from conversion.passes.cast_names import blob_names

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


def verification_sizes(window: Sequence[int], stride: tuple[Number, Number]) -> list[tuple[int, int, int]]:
    """The (batch, height, width) of images to verify on: the training size, and two that exercise Caffe's rounding.

    Args:
        window: The training size, (height, width) in pixels.
        stride: Of the map, (vertical, horizontal) in pixels: neither other size is a whole number of strides away.
    """
    y, x = (max(int(s), 1) for s in stride)
    return [
        (2, window[0], window[1]),
        (1, window[0] + y // 2 + 1, window[1] + 2 * x - 1),
        (1, window[0] + 2 * y + 1, window[1] + x // 3),
    ]


class Example(NamedTuple):
    """Images, and what the reference makes of them.

    Attributes:
        images: uint8 RGB [N, H, W, 3].
        expected: Every blob by name, in Caffe's axis order; float32, whose rounding is far below any tolerance.
    """

    images: Array
    expected: Mapping[str, Array]


def verification_examples(
    network: Network, preprocessing: Preprocessing, sizes: Sequence[tuple[int, int, int]], *, seed: int = 0
) -> list[Example]:
    """The reference's answers on seeded images; needs no TensorFlow.

    Args:
        network: With weights and one input blob.
        preprocessing: Of its input.
        sizes: (batch, height, width) of the images.
        seed: Of the images.
    """
    (data,) = network.inputs
    rng = np.random.default_rng(seed)
    found = []
    for size in sizes:
        images = _images(rng, *size)
        blobs = evaluate(network, {data: preprocessing.reference(images)})
        found.append(Example(images, {blob: value.astype(np.float32) for blob, value in blobs.items()}))
    return found


def verify_savedmodel(
    loaded: Any, network: Network, output: str, against: Sequence[Example], *, tolerance: float = TOLERANCE
) -> VerificationMetadata:
    """Compares a loaded SavedModel with the NumPy reference, on the CPU: GPUs round float32 to fewer digits by default.

    Args:
        loaded: From `savedmodel.load`.
        network: What it was made from.
        output: The blob of class probabilities.
        against: From `examples`.
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.

    Raises:
        VerificationError: A blob or a signature diverges; the first layer that does is named.
    """
    tf = import_tensorflow()
    worst = Difference("", 0.0)
    for images, expected in against:
        size = (images.shape[0], images.shape[1], images.shape[2])
        with tf.device("/device:CPU:0"):
            tensor = tf.constant(images)
            found = {blob: value.numpy() for blob, value in loaded.blobs(tensor).items()}
        for difference in compare(network, found, expected):
            if difference.error > tolerance:
                _diverges(network, difference, size, tolerance)
            if difference.error >= worst.error:
                worst = difference
        with tf.device("/device:CPU:0"):
            _check_signatures(loaded, tensor, network, output, expected, size, tolerance)
    return VerificationMetadata(
        sizes=tuple((e.images.shape[0], e.images.shape[1], e.images.shape[2]) for e in against),
        tolerance=tolerance,
        worst=worst.error,
        worst_blob=worst.blob,
        blobs=len(against[0].expected) if against else 0,
    )


def _images(rng: np.random.Generator, batch: int, height: int, width: int) -> Array:
    """Coarse blotches plus noise: flat areas and edges at several scales, unlike white noise alone."""
    coarse = rng.integers(0, 256, (batch, height // 16 + 1, width // 16 + 1, 3))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def _check_signatures(
    loaded: Any,
    images: Any,
    network: Network,
    output: str,
    expected: Mapping[str, Array],
    size: tuple[int, int, int],
    tolerance: float,
) -> None:
    """The signatures that users call must agree with the reference too."""
    tf = import_tensorflow()
    blobs = blob_names(network)
    maps = _nhwc(expected[output])
    k = min(5, maps.shape[-1])
    best = -np.sort(-maps, axis=-1)[..., :k]
    top = loaded.signatures["top_k"](images=images, k=tf.constant(k))
    at_classes = np.take_along_axis(maps, top["classes"].numpy().astype(np.int64), axis=-1)
    checks = [
        ("serving_default", loaded.signatures["serving_default"](images=images)["probabilities"].numpy(), maps),
        ("top_k", top["scores"].numpy(), best),
        ("top_k", at_classes, best),
    ]
    for name, value in loaded.signatures["features"](images=images).items():
        checks.append((f"features ({name})", value.numpy(), _nhwc(expected[blobs[name]])))
    for name, found, wanted in checks:
        error = relative_error(found, wanted)
        if error > tolerance:
            raise VerificationError(
                f"signature {name} differs from the reference by {error:.2e} of its largest value at {_text(size)}",
                why=f"the tolerance is {tolerance:.0e}",
            )


def _nhwc(blob: Array) -> Array:
    return blob.transpose(0, 2, 3, 1)


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
