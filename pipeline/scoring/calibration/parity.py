"""What computing in 16 bits does to the maps, measured on a sample, and the gate that keeps a run from starting."""

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
    """How far maps in one precision are from those in float32; `model_dump(mode="json")` is for the run's summary.

    Attributes:
        precision: The precision.
        largest: The largest difference of a class's probability in any cell, 0 to 1.
        mean: The mean difference, over all classes and cells.
        flips: The share of cells, 0 to 1, whose best class is another.
        images: How many images the sample had.
        cells: How many cells.
        max_error: What `largest` may be.
        max_flips: What `flips` may be.
        devices: What it was measured on.
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
        """Raises ParityError if it is beyond the bounds."""
        if self.largest <= self.max_error and self.flips <= self.max_flips:
            return
        raise ParityError(
            f"in {self.precision} probabilities are off by up to {self.largest:.2g} ({self.mean:.2g} on average), and "
            f"{self.flips:.2%} of the cells have another best class",
            why=f"the job allows {self.max_error:g} and {self.max_flips:.2%}; measured against float32 on the first "
            f"{self.images} images, {self.cells:,} cells",
            remedy="score in float32, or allow more with --max-parity-error and --max-parity-flips",
        )


def measure_parity(exact: Engine, narrow: Engine, images: Iterable[NDArray[np.uint8]], precision: Precision) -> Parity:
    """Holds the maps of one engine against those of another, which is exact.

    Args:
        exact: In float32; gives all probabilities as float32 (`Form.FLOAT32`), as does the other.
        narrow: In `precision`.
        images: The sample, uint8 RGB [H, W, 3] each; one is held at a time.
        precision: The precision.

    Raises:
        ParityError: What `narrow` gives are no probabilities: it has overflowed, say.
        EngineError: An engine failed.
        MapError: What `exact` gives are no probabilities.
        JobError: There is no image.
    """
    largest = total = 0.0
    flips = cells = count = classes = 0
    for image in images:
        expected = probabilities_of(exact, image)
        try:
            found = probabilities_of(narrow, image)
        except MapError as error:
            raise ParityError(
                f"in {precision} the model gives no probabilities: {error.what}",
                why="numbers of 16 bits are too coarse for it, or too small: those of float16 end at 65,504",
                remedy="score in float32; bfloat16 reaches as far as float32",
            ) from error
        difference = np.abs(found - expected)
        largest, total = max(largest, float(difference.max())), total + float(difference.sum(dtype=np.float64))
        flips += int((found.argmax(-1) != expected.argmax(-1)).sum())
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
