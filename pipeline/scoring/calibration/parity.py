"""Measures on a sample how computing in 16 bits changes the maps, and stops a run if the change is too large."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.engines import Engine
from pipeline.errors import JobError
from pipeline.maps.classification_map import MapError
from pipeline.maps.recipe import Precision
from pipeline.scoring.calibration.form import probabilities_of
from pipeline.settings import ExecutionSettings

DEFAULT_ERROR = ExecutionSettings.max_parity_error
DEFAULT_FLIPS = ExecutionSettings.max_parity_flips


class ParityError(JobError):
    """A precision changes the maps by more than the job allows."""


class Parity(BaseModel):
    """The differences between maps in one precision and in float32; `model_dump(mode="json")` is for a run's summary.

    Attributes:
        precision: The precision that was compared with float32.
        largest: The largest difference of a class's probability in any cell, 0 to 1.
        mean: The mean difference over all classes and cells, 0 to 1.
        flips: The share of cells, 0 to 1, whose best class differs.
        images: Number of images in the sample.
        cells: Number of cells in the sample.
        max_error: The largest `largest` that the job allows.
        max_flips: The largest `flips` that the job allows.
        devices: The devices of the measurement.
    """

    model_config = ConfigDict(frozen=True)

    precision: Precision
    largest: float
    mean: float
    flips: float
    images: int
    cells: int
    max_error: float = DEFAULT_ERROR
    max_flips: float = DEFAULT_FLIPS
    devices: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises ParityError if a difference is beyond its bound."""
        if self.largest <= self.max_error and self.flips <= self.max_flips:
            return
        raise ParityError(
            f"in {self.precision} probabilities differ by up to {self.largest:.2g} ({self.mean:.2g} on average), and "
            f"{self.flips:.2%} of the cells have another best class",
            why=f"the job allows {self.max_error:g} and {self.max_flips:.2%}; measured against float32 on the first "
            f"{self.images} images, {self.cells:,} cells",
            remedy="score in float32, or allow more with --max-parity-error and --max-parity-flips",
        )


def measure_parity(exact: Engine, narrow: Engine, images: Iterable[NDArray[np.uint8]], precision: Precision) -> Parity:
    """Compares the maps of an engine with those of an exact engine.

    Args:
        exact: Computes in float32. Both engines return all probabilities as float32 (`Form.FLOAT32`).
        narrow: Computes in `precision`.
        images: The sample, uint8 RGB [H, W, 3] each; one is held at a time.
        precision: The precision to compare with float32.

    Raises:
        ParityError: The values that `narrow` returns are not probabilities, for example after an overflow.
        EngineError: An engine failed.
        MapError: The values that `exact` returns are not probabilities.
        JobError: There is no image.
    """
    largest = total = 0.0
    flips = cells = count = classes = 0
    for image in images:
        expected = probabilities_of(exact, image)
        try:
            computed = probabilities_of(narrow, image)
        except MapError as error:
            raise ParityError(
                f"in {precision} the model does not return probabilities: {error.what}",
                why="16 bits have too little precision or range for it: the largest float16 is 65,504",
                remedy="score in float32; bfloat16 has the range of float32",
            ) from error
        difference = np.abs(computed - expected)
        largest, total = max(largest, float(difference.max())), total + float(difference.sum(dtype=np.float64))
        flips += int((computed.argmax(-1) != expected.argmax(-1)).sum())
        count, cells, classes = count + 1, cells + difference.shape[0] * difference.shape[1], difference.shape[2]
    if not count:
        raise JobError("no image to compare the precisions on", remedy="score in float32, or give images")
    return Parity(
        precision=precision,
        largest=largest,
        mean=total / (cells * classes),
        flips=flips / cells,
        images=count,
        cells=cells,
    )
