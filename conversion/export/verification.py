"""Compares a form of a model with the NumPy reference, layer by layer; the error names the first that diverges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from conversion.arrays import Array
from conversion.errors import VerificationError
from conversion.export.metadata import VerificationMetadata
from conversion.export.preprocessing import Preprocessing
from conversion.net.geometry import Number
from conversion.net.network import Network
from conversion.net.reference import evaluate

TOLERANCE = 1e-4  # of a blob's largest magnitude: float32 stays near 1e-6, and a wrong layer is far above

_LARGEST, _SMALLEST = 1e18, 1e-30  # magnitudes whose squares, or whose products with weights, leave float32


class Difference(NamedTuple):
    """The largest difference in one blob, as a share of the reference's largest magnitude."""

    blob: str
    error: float


def relative_error(actual: Array, expected: Array) -> float:
    """Returns max |actual - expected| / max |expected|; infinity if shapes, NaNs or infinities differ."""
    if actual.shape != expected.shape:
        return float("inf")
    if not expected.size:
        return 0.0
    finite = np.isfinite(expected)
    if not np.array_equal(actual[~finite], expected[~finite], equal_nan=True) or not np.isfinite(actual[finite]).all():
        return float("inf")
    if not finite.any():
        return 0.0
    scale = float(np.abs(expected[finite]).max())
    error = float(np.abs(actual[finite] - expected[finite]).max())
    return error / scale if scale > 0 else error


def compare(network: Network, actual: Mapping[str, Array], expected: Mapping[str, Array]) -> list[Difference]:
    """Returns the difference of every blob, in the order in which the layers produce them."""
    order = list(dict.fromkeys(top for layer in network.layers for top in layer.tops))
    return [Difference(blob, relative_error(actual[blob], expected[blob])) for blob in order]


def verification_sizes(window: Sequence[int], stride: tuple[Number, Number]) -> list[tuple[int, int, int]]:
    """Returns the (batch, height, width) of the images to verify on.

    These are the training size, and two sizes that exercise Caffe's rounding.

    Args:
        window: The training size, (height, width) in pixels.
        stride: The map's, (vertical, horizontal) in pixels; the other sizes are not a whole number of strides larger.
    """
    y, x = (max(int(s), 1) for s in stride)
    return [
        (2, window[0], window[1]),
        (1, window[0] + y // 2 + 1, window[1] + 2 * x - 1),
        (1, window[0] + 2 * y + 1, window[1] + x // 3),
    ]


class Example(NamedTuple):
    """Images, and the reference's answers.

    Attributes:
        images: uint8 RGB [N, H, W, 3].
        expected: Every blob by name, in Caffe's axis order; float32, whose rounding errors are far below any tolerance.
    """

    images: Array
    expected: Mapping[str, Array]


def verification_examples(
    network: Network, preprocessing: Preprocessing, sizes: Sequence[tuple[int, int, int]], *, seed: int = 0
) -> list[Example]:
    """Returns the reference's answers on seeded images; needs no TensorFlow.

    Args:
        network: With weights and one input blob.
        preprocessing: The preprocessing of its input.
        sizes: (batch, height, width) of the images.
        seed: Seed of the images.
    """
    (data,) = network.inputs
    rng = np.random.default_rng(seed)
    examples = []
    for size in sizes:
        images = _images(rng, *size)
        blobs = evaluate(network, {data: preprocessing.reference(images)})
        with np.errstate(over="ignore"):  # infinity, which the comparison explains
            examples.append(Example(images, {blob: value.astype(np.float32) for blob, value in blobs.items()}))
    return examples


class Answer(NamedTuple):
    """What a form of a model returns to its users.

    Attributes:
        name: How errors call it.
        blob: The blob that it is; for the best classes the blob that they are of.
        value: In Caffe's axis order.
        best: Whether the value is the best scores of every position, best first, along the axis of classes.
    """

    name: str
    blob: str
    value: Array
    best: bool = False


class Runner(Protocol):
    """A form of a model, as the verification runs it; on the CPU, since GPUs round float32 to fewer digits by default.

    Attributes:
        form: Its name, for errors: TensorFlow or ONNX.
    """

    form: str

    def blobs(self, images: Array) -> Mapping[str, Array]:
        """Returns every blob of images, uint8 RGB [N, H, W, 3], in Caffe's axis order."""

    def answers(self, images: Array) -> list[Answer]:
        """Returns what users call, of the same images."""


def verify(
    runner: Runner, network: Network, examples: Sequence[Example], *, tolerance: float = TOLERANCE
) -> VerificationMetadata:
    """Compares a form of a model with the NumPy reference.

    Args:
        runner: The form.
        network: The network that it was made from.
        examples: From `verification_examples`.
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.

    Raises:
        VerificationError: A blob or an answer diverges; the message names the first layer that does.
    """
    worst = Difference("", 0.0)
    for images, expected in examples:
        size = (images.shape[0], images.shape[1], images.shape[2])
        for difference in compare(network, runner.blobs(images), expected):
            if difference.error > tolerance:
                outside = _outside(network, difference.blob, expected)
                _diverges(network, difference, size, tolerance, form=runner.form, outside=outside)
            if difference.error >= worst.error:
                worst = difference
    for images, expected in examples:
        _check_answers(runner.answers(images), expected, images.shape, tolerance)
    return VerificationMetadata(
        sizes=tuple((e.images.shape[0], e.images.shape[1], e.images.shape[2]) for e in examples),
        tolerance=tolerance,
        worst=worst.error,
        worst_blob=worst.blob,
        blobs=len(examples[0].expected) if examples else 0,
    )


def _images(rng: np.random.Generator, batch: int, height: int, width: int) -> Array:
    """Returns coarse blotches plus noise: flat areas and edges at several scales, unlike white noise alone."""
    coarse = rng.integers(0, 256, (batch, height // 16 + 1, width // 16 + 1, 3))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def _check_answers(
    answers: Sequence[Answer], expected: Mapping[str, Array], size: Sequence[int], tolerance: float
) -> None:
    """Raises VerificationError unless what users call agrees with the reference too."""
    for name, blob, value, best in answers:
        wanted = -np.sort(-expected[blob], axis=1)[:, : value.shape[1]] if best else expected[blob]
        error = relative_error(value, wanted)
        if error > tolerance:
            raise VerificationError(
                f"{name} differs from the reference by {error:.2e} of its largest value at {_text(size)}",
                why=f"the tolerance is {tolerance:.0e}",
            )


def _outside(network: Network, blob: str, expected: Mapping[str, Array]) -> str:
    """Returns how the values around a blob leave what float32 computes with; "" if they do not.

    float32 reaches from 1.2e-38 to 3.4e38, and layers such as LRN square their inputs. Smaller values are denormal
    numbers, which TensorFlow and ONNX Runtime may count as 0.
    """
    writers = [layer for layer in network.layers if blob in layer.tops]
    around = dict.fromkeys([blob, *(bottom for layer in writers for bottom in layer.bottoms)])
    for name in around:
        if name in expected and expected[name].size:
            largest = float(np.abs(expected[name]).max())
            if not largest < _LARGEST:
                reached = f"reach {largest:.0e}" if np.isfinite(largest) else "are infinite"
                return f"the values of blob {name!r} {reached}: they overflow, because float32 ends at 3.4e38"
            if 0 < largest < _SMALLEST:
                return (
                    f"the values of blob {name!r} are at most {largest:.0e}: they, or the weights that make them, are "
                    "denormal numbers, which programs may count as 0"
                )
    return ""


def _diverges(
    network: Network, difference: Difference, size: tuple[int, int, int], tolerance: float, *, form: str, outside: str
) -> None:
    # A layer in place overwrites its bottom: the blob alone does not show which of its writers is wrong.
    writers = [layer.where for layer in network.layers if difference.blob in layer.tops]
    raise VerificationError(
        f"blob {difference.blob!r} differs from the reference by {difference.error:.2e} of its largest magnitude "
        f"on images of {_text(size)}; it is the first that does",
        where=", ".join(writers),
        why=outside or f"the tolerance is {tolerance:.0e}; nothing was published",
        remedy="scale the weights into the range of float32, or look whether the file is damaged: no trained net has "
        "such values"
        if outside
        else f"please report this with the definition: the {form} form of that layer is wrong",
    )


def _text(size: Sequence[int]) -> str:
    return f"{size[0]} x {size[1]}x{size[2]}"
