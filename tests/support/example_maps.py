"""Small maps whose best classes are given, for tests of what people see."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.maps.classification_map import ClassificationMap
from pipeline.maps.geometry import Geometry

DIGITS = (*"0123456789", "background")


def make_map(
    best: Any,
    labels: tuple[str, ...] = DIGITS,
    *,
    score: float = 0.9,
    stride: float = 4,
    window: float = 28,
    uri: str = "pages/1.png",
) -> ClassificationMap:
    """A map whose best classes are `best`, int [h, w], all with the same score."""
    classes = np.asarray(best, np.int32)[..., None]
    height, width = classes.shape[:2]
    size = int(window + stride * (height - 1)), int(window + stride * (width - 1))
    offset = (window - 1) / 2
    return ClassificationMap(
        uri=uri,
        id=None,
        image_size=size,
        labels=labels,
        classes=classes,
        scores=np.full(classes.shape, score, np.float32),
        residual=np.full((height, width), 1 - score, np.float32),
        probabilities=None,
        geometry=Geometry(stride, stride, offset, offset, window, window, window, window),
        model_digest="m",
        run_id="r",
    )


def gray(map_: ClassificationMap, value: int = 128) -> NDArray[np.uint8]:
    return np.full((*map_.image_size, 3), value, np.uint8)
