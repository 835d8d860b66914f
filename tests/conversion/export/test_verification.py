"""The comparison of a form with the reference, blob by blob."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from conversion.errors import VerificationError
from conversion.export.preprocessing import Preprocessing
from conversion.export.verification import Answer, Example, verification_examples, verify
from conversion.net.reference import evaluate
from tests.support.definitions import data, layer, network


class Moved:
    """The reference itself, in float32, but for what is added to scores and probabilities."""

    form = "TensorFlow"
    answered = ("prob",)

    def __init__(self, example: Example, scores: float, probabilities: float) -> None:
        self.example, self.moved = example, {"scores": scores, "prob": probabilities}

    def blobs(self, images: np.ndarray, wanted: Sequence[str]) -> dict[str, np.ndarray]:
        given = {"data": self.example.preprocessing.reference(images)}
        found = evaluate(self.example.network, given)
        return {blob: (found[blob] + self.moved.get(blob, 0.0)).astype(np.float32) for blob in wanted}

    def answers(self, images: np.ndarray) -> list[Answer]:
        return [Answer("map", "prob", self.blobs(images, ["prob"])["prob"])]


def example(scale: float) -> Example:
    """Scores of up to 255 * `scale`."""
    text = data(1, 3, 4, 4) + layer("Power", "scores", "data", power_param=f"scale: {scale}")
    net = network(text + layer("Softmax", "prob", "scores"))
    preprocessing = Preprocessing(channel_order="bgr", mean=(0.0, 0.0, 0.0), scale=1.0)
    (found,) = verification_examples(net, preprocessing, [(1, 4, 4)])
    return found


def test_a_softmax_may_move_by_half_of_what_its_scores_move_by() -> None:
    given = example(scale=10)
    assert verify(Moved(given, scores=0.02, probabilities=0.009), [given]).worst == pytest.approx(0.009, rel=0.1)
    with pytest.raises(VerificationError, match="'prob' differs"):
        verify(Moved(given, scores=0.02, probabilities=0.011), [given])
    with pytest.raises(VerificationError, match="'prob' differs"):
        verify(Moved(given, scores=0.0, probabilities=0.001), [given])


def test_scores_that_overflow_excuse_no_probabilities() -> None:
    given = example(scale=1.5e36)  # beyond 3.4e38 in float32

    class Overflowed(Moved):
        def blobs(self, images: np.ndarray, wanted: Sequence[str]) -> dict[str, np.ndarray]:
            with np.errstate(over="ignore"):
                found = super().blobs(images, wanted)
            if "prob" in found:
                found["prob"][:] = np.nan
            return found

    with pytest.raises(VerificationError):
        verify(Overflowed(given, 0.0, 0.0), [given])
