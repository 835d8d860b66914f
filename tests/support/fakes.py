"""A model that needs no TensorFlow: its map is a function of the pixels that a test can compute by itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from conversion.export.metadata import FILE_NAME, NETWORK_FILE, ModelMetadata
from conversion.export.preprocessing import Preprocessing
from conversion.net.geometry import AxisGeometry, ReceptiveField
from pipeline.engines import EngineOutOfMemoryError
from pipeline.errors import EngineError
from pipeline.maps.classification_map import CellScores, top_k

STRIDE, WINDOW, CLASSES = 8, 16, 4
_AXIS = AxisGeometry(stride=STRIDE, offset=(WINDOW - 1) / 2, window=WINDOW, receptive_field=WINDOW)
METADATA = ModelMetadata(
    name="fake",
    digest="f" * 64,
    converter_version="0",
    preprocessing=Preprocessing(mean=(0.0, 0.0, 0.0)),
    geometry=ReceptiveField(_AXIS, _AXIS),
    alignment=(STRIDE, STRIDE),
    classes=CLASSES,
    labels=("red", "green", "blue", "dark"),
    output_blob="prob",
    features={},
    multiply_adds_per_window=1,
    parameters=1,
)


def write_model(folder: Path) -> Path:
    """A model directory that holds nothing but its description."""
    folder.mkdir()
    (folder / FILE_NAME).write_text(METADATA.model_dump_json())
    return folder


def write_network(model: Path) -> None:
    """Gives such a model the definition of a net whose blobs are data and prob."""
    net = 'input: "data" input_shape { dim: 1 dim: 4 dim: 8 dim: 8 }\n'
    (model / NETWORK_FILE).write_text(f'{net}layer {{ name: "prob" type: "Softmax" bottom: "data" top: "prob" }}\n')


def probabilities(pixels: np.ndarray) -> np.ndarray:
    """[H, W, 3] -> [h, w, 4]: mean red, green and blue of each window, and what is missing to white."""
    h, w = ((side - WINDOW) // STRIDE + 1 for side in pixels.shape[:2])
    out = np.empty((h, w, CLASSES), np.float32)
    for y in range(h):
        for x in range(w):
            window = pixels[y * STRIDE : y * STRIDE + WINDOW, x * STRIDE : x * STRIDE + WINDOW]
            colour = window.reshape(-1, 3).mean(axis=0, dtype=np.float64) / 255 / 3
            out[y, x] = [*colour, 1 - colour.sum()]
    return out


class FakeEngine:
    """Scores by `probabilities`; fails where its arguments say so.

    Args:
        largest_batch: Larger ones are out of memory.
        broken: Images whose first pixel has this red value make the engine fail.
    """

    metadata = METADATA
    identity = "fake"

    def __init__(self, largest_batch: int = 1000, broken: int = -1) -> None:
        self.largest_batch, self.broken = largest_batch, broken
        self.batches: list[tuple[int, ...]] = []

    def score(self, images: np.ndarray) -> list[CellScores]:
        self.batches.append(images.shape)
        if len(images) > self.largest_batch:
            raise EngineOutOfMemoryError("does not fit")
        if (images[:, 0, 0, 0] == self.broken).any():
            raise EngineError("cannot do it")
        return [top_k(probabilities(image), 2) for image in images]


class FakeMixedEngine(FakeEngine):
    """Takes images of several sizes; `batches` has the sizes of each call."""

    exact = mixed = True

    def score_mixed(self, images: Sequence[np.ndarray]) -> list[CellScores]:
        self.batches.append(tuple(len(image) for image in images))
        if len(images) > self.largest_batch:
            raise EngineOutOfMemoryError("does not fit")
        if any(image[0, 0, 0] == self.broken for image in images):
            raise EngineError("cannot do it")
        return [top_k(probabilities(image), 2) for image in images]


class FullEngine(FakeEngine):
    """Gives all probabilities as well; `tilt` moves them, as an engine of another make would."""

    def __init__(self, tilt: float = 0.0) -> None:
        super().__init__()
        self.tilt = tilt

    def score(self, images: np.ndarray) -> list[CellScores]:
        self.batches.append(images.shape)
        maps = [probabilities(image) for image in images]
        tilted = [(p + np.float32(self.tilt)) / (1 + CLASSES * np.float32(self.tilt)) if self.tilt else p for p in maps]
        return [top_k(p, 3)._replace(probabilities=p) for p in tilted]
