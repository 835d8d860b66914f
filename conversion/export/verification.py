"""Compares a form of a model with the NumPy reference, layer by layer; the error names the first that diverges."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from conversion.arrays import Array, Shape
from conversion.errors import VerificationError
from conversion.export.metadata import VerificationMetadata
from conversion.export.preprocessing import Preprocessing
from conversion.net.geometry import Number
from conversion.net.lifetimes import lifetimes
from conversion.net.network import Network
from conversion.net.reference import evaluate_each

TOLERANCE = 1e-4  # of a blob's largest magnitude: float32 stays near 1e-6, and a wrong layer is far above

_FLOAT_BYTES = 4
_FETCHED_BYTES = 1 << 30

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


@dataclasses.dataclass(frozen=True)
class Example:
    """Images, and the reference's answers, which are computed each time that they are asked for.

    Attributes:
        images: uint8 RGB [N, H, W, 3].
        network: With weights and one input blob.
        preprocessing: The preprocessing of its input.
    """

    images: Array
    network: Network
    preprocessing: Preprocessing

    @property
    def size(self) -> tuple[int, int, int]:
        """(batch, height, width)."""
        return self.images.shape[0], self.images.shape[1], self.images.shape[2]

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every blob, in Caffe's axis order."""
        return self.network.shapes_at({blob: (self.size[0], shape[1], *self.size[1:]) for blob, shape in self._inputs})

    @property
    def _inputs(self) -> Iterable[tuple[str, Shape]]:
        return self.network.inputs.items()

    def blobs(self) -> Iterator[tuple[str, Array]]:
        """Yields every blob, float64 in Caffe's axis order, as `reference.evaluate_each` does."""
        return evaluate_each(
            self.network, {blob: self.preprocessing.reference(self.images) for blob, _ in self._inputs}
        )


def verification_examples(
    network: Network, preprocessing: Preprocessing, sizes: Sequence[tuple[int, int, int]], *, seed: int = 0
) -> list[Example]:
    """Returns seeded images with the reference's answers; needs no TensorFlow.

    Args:
        network: With weights and one input blob.
        preprocessing: The preprocessing of its input.
        sizes: (batch, height, width) of the images.
        seed: Seed of the images.
    """
    rng = np.random.default_rng(seed)
    return [Example(_images(rng, *size), network, preprocessing) for size in sizes]


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

    @property
    def answered(self) -> Collection[str]:
        """The blobs that `answers` are of."""

    def blobs(self, images: Array, wanted: Sequence[str]) -> dict[str, Array]:
        """Returns these blobs of images, uint8 RGB [N, H, W, 3], in Caffe's axis order."""

    def answers(self, images: Array) -> list[Answer]:
        """Returns what users call, of the same images."""


class Comparison(NamedTuple):
    """The outcome of `compare_blobs`.

    Attributes:
        worst: The blob with the largest difference.
        blobs: The number of blobs.
        kept: The reference's values of the blobs that answers are of; float32, whose rounding errors are far below any
            tolerance.
        tolerances: The largest difference allowed in each blob, as a share of its largest magnitude.
    """

    worst: Difference
    blobs: int
    kept: dict[str, Array]
    tolerances: dict[str, float]


def compare_blobs(example: Example, runner: Runner, *, tolerance: float) -> Comparison:
    """Compares a form's blobs with the reference, blob by blob; no side holds all of them at once.

    Args:
        example: The images.
        runner: The form. It is asked for as many blobs at a time as take 1 GiB, at least one, in the order of the
            reference.
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude. A Softmax may also differ
            by what the difference of its bottom explains: probabilities move by at most half of what the scores move
            by, and the scores of a net with random weights are hundreds.

    Raises:
        VerificationError: A blob diverges; the message names the first layer that does.
    """
    network, worst = example.network, Difference("", 0.0)
    bottoms = {layer.tops[0]: layer.bottoms[0] for layer in network.layers if layer.caffe_type == "Softmax"}
    moved: dict[str, float] = {}
    outside: dict[str, str] = {}
    kept: dict[str, Array] = {}
    tolerances: dict[str, float] = {}
    groups = _groups(network, example.shapes)
    actual: dict[str, Array] = {}
    for blob, value in example.blobs():
        actual = actual or runner.blobs(example.images, next(groups))
        with np.errstate(over="ignore"):  # infinity, which the comparison explains
            expected = value.astype(np.float32)
        del value  # the reference computes the next blob meanwhile
        outside[blob] = _out_of_range(blob, expected)
        difference = Difference(blob, relative_error(actual.pop(blob), expected))
        finite = expected[np.isfinite(expected)]
        largest = float(np.abs(finite).max(initial=0.0))
        # Infinite scores explain nothing: their probabilities are NaN.
        moved[blob] = difference.error * largest if finite.size == expected.size else 0.0
        explained = moved.get(bottoms.get(blob, ""), 0.0) / 2 / largest if largest > 0 else 0.0
        tolerances[blob] = max(tolerance, explained)
        if not difference.error <= tolerances[blob]:
            why = _outside(network, blob, outside)
            _diverges(network, difference, example.size, tolerances[blob], form=runner.form, outside=why)
        if difference.error >= worst.error:
            worst = difference
        if blob in runner.answered:
            kept[blob] = expected
    return Comparison(worst, len(tolerances), kept, tolerances)


def _groups(network: Network, shapes: Mapping[str, Shape]) -> Iterator[list[str]]:
    """Yields the blobs in the order of `Example.blobs`, as many at a time as take `_FETCHED_BYTES`, at least one."""
    group, size = list[str](), 0
    for blob in itertools.chain.from_iterable(lifetimes(network.layers).final):
        own = math.prod(shapes[blob]) * _FLOAT_BYTES
        if group and size + own > _FETCHED_BYTES:
            yield group
            group, size = [], 0
        group.append(blob)
        size += own
    yield group


def verify(runner: Runner, examples: Sequence[Example], *, tolerance: float = TOLERANCE) -> VerificationMetadata:
    """Compares a form of a model with the NumPy reference.

    Args:
        runner: The form.
        examples: From `verification_examples`.
        tolerance: The largest difference allowed, as a share of a blob's largest magnitude.

    Raises:
        VerificationError: A blob or an answer diverges; the message names the first layer that does.
    """
    comparisons = [compare_blobs(example, runner, tolerance=tolerance) for example in examples]
    for example, comparison in zip(examples, comparisons, strict=True):
        _check_answers(runner.answers(example.images), comparison, example.size)
    worst = max((c.worst for c in comparisons), key=lambda difference: difference.error, default=Difference("", 0.0))
    return VerificationMetadata(
        sizes=tuple(example.size for example in examples),
        tolerance=tolerance,
        worst=worst.error,
        worst_blob=worst.blob,
        blobs=comparisons[0].blobs if comparisons else 0,
    )


def _images(rng: np.random.Generator, batch: int, height: int, width: int) -> Array:
    """Returns coarse blotches plus noise: flat areas and edges at several scales, unlike white noise alone."""
    coarse = rng.integers(0, 256, (batch, height // 16 + 1, width // 16 + 1, 3))
    smooth = coarse.repeat(16, axis=1).repeat(16, axis=2)[:, :height, :width]
    return np.clip(smooth + rng.normal(0, 20, smooth.shape), 0, 255).astype(np.uint8)


def _check_answers(answers: Sequence[Answer], comparison: Comparison, size: Sequence[int]) -> None:
    """Raises VerificationError unless what users call agrees with the reference too."""
    for name, blob, value, best in answers:
        expected, tolerance = comparison.kept[blob], comparison.tolerances[blob]
        wanted = -np.sort(-expected, axis=1)[:, : value.shape[1]] if best else expected
        error = relative_error(value, wanted)
        if error > tolerance:
            raise VerificationError(
                f"{name} differs from the reference by {error:.2e} of its largest value at {_text(size)}",
                why=f"the tolerance is {tolerance:.0e}",
            )


def _out_of_range(blob: str, expected: Array) -> str:
    """Returns how a blob's values leave what float32 computes with; "" if they do not.

    float32 reaches from 1.2e-38 to 3.4e38, and layers such as LRN square their inputs. Smaller values are denormal
    numbers, which TensorFlow and ONNX Runtime may count as 0.
    """
    largest = float(np.abs(expected).max(initial=0.0))
    if not largest < _LARGEST:
        reached = f"reach {largest:.0e}" if np.isfinite(largest) else "are infinite"
        return f"the values of blob {blob!r} {reached}: they overflow, because float32 ends at 3.4e38"
    if 0 < largest < _SMALLEST:
        return (
            f"the values of blob {blob!r} are at most {largest:.0e}: they, or the weights that make them, are "
            "denormal numbers, which programs may count as 0"
        )
    return ""


def _outside(network: Network, blob: str, reasons: Mapping[str, str]) -> str:
    """Returns the first of the reasons of a blob and of those that it is computed from; "" if there is none."""
    writers = [layer for layer in network.layers if blob in layer.tops]
    around = dict.fromkeys([blob, *(bottom for layer in writers for bottom in layer.bottoms)])
    return next(filter(None, (reasons.get(name, "") for name in around)), "")


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
