"""Chooses the smallest form of maps that is accurate enough on a sample: `--accuracy-bound 0.01`."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from pipeline.engines import Engine
from pipeline.errors import EngineError, JobError
from pipeline.maps.classification_map import DEFAULT_K, CellScores, Floats, Probabilities, check_values, top_k
from pipeline.maps.encoding import DTYPES
from pipeline.maps.fusion import scattered
from pipeline.maps.quantization import quantize, restore
from pipeline.maps.recipe import Form


class Choice(BaseModel):
    """The chosen form and the measurements; `model_dump(mode="json")` is for the run's summary.

    Attributes:
        form: The smallest form within the bound.
        error: Its largest error, 0 to 1: of a class's probability as it is read back, in any cell of the sample.
        bound: The largest error allowed, 0 to 1.
        errors: The largest error of every form.
        bytes_a_cell: Bytes per cell of every form, before compression.
        images: Number of images in the sample.
        cells: Number of cells in the sample.
    """

    model_config = ConfigDict(frozen=True)

    form: Form
    error: float
    bound: float
    errors: dict[Form, float]
    bytes_a_cell: dict[Form, int]
    images: int
    cells: int


def choose_form(engine: Engine, images: Iterable[NDArray[np.uint8]], bound: float, k: int = DEFAULT_K) -> Choice:
    """Returns the smallest form whose probabilities, as they are read back, are within a bound on a sample.

    A class outside the top k is read as 0, so the error of `Form.TOP_K` is the largest probability that it omits.
    `Form.FLOAT32` is exact.

    Args:
        engine: Returns all probabilities as float32 (`Form.FLOAT32`).
        images: The sample, uint8 RGB [H, W, 3] each, at the size at which they are scored; one is held at a time.
        bound: The largest error allowed, 0 to 1.
        k: Number of classes that a cell keeps exactly.

    Raises:
        JobError: The bound is not from 0 to 1, k is less than 1, or there is no image.
        EngineError: The engine failed, or does not return float32 probabilities.
        MapError: The values that it returns are not probabilities.
    """
    if not 0 <= bound <= 1 or k < 1:
        raise JobError(
            f"an accuracy bound of {bound} with the top {k}", why="the bound is from 0 to 1, and k is at least 1"
        )
    errors = dict.fromkeys(Form, 0.0)
    count = cells = classes = 0
    for image in images:
        probabilities = probabilities_of(engine, image)
        count, cells = count + 1, cells + probabilities.shape[0] * probabilities.shape[1]
        classes = probabilities.shape[2]
        for form, error in form_errors(probabilities, k).items():
            errors[form] = max(errors[form], error)
    if not count:
        raise JobError("no image to choose the form by", remedy="name the form, or give images that can be scored")
    sizes = {form: bytes_a_cell(form, classes, k) for form in Form}
    form = min((form for form in Form if errors[form] <= bound), key=lambda form: sizes[form])
    return Choice(
        form=form, error=errors[form], bound=bound, errors=errors, bytes_a_cell=sizes, images=count, cells=cells
    )


def form_errors(probabilities: Floats, k: int) -> dict[Form, float]:
    """Returns, by form, the largest difference between the probabilities of a map and those that are read back.

    Args:
        probabilities: float32 [h, w, C].
        k: Number of classes that a cell keeps exactly.
    """
    best = top_k(probabilities, k)
    read: dict[Form, Probabilities] = {
        Form.TOP_K: scattered(best, probabilities.shape[2]),
        Form.LOG_UINT8: restore(quantize(probabilities), best.classes, best.scores),
        Form.FLOAT16: probabilities.astype(np.float16),
        Form.FLOAT32: probabilities,
    }
    return {form: float(np.abs(values - probabilities).max()) for form, values in read.items()}


def bytes_a_cell(form: Form, classes: int, k: int) -> int:
    """Returns the bytes per cell of a form, before compression.

    >>> [bytes_a_cell(form, 1000, 5) for form in Form]
    [44, 1044, 2044, 4044]
    """
    best = min(k, classes) * (np.dtype(np.int32).itemsize + np.dtype(np.float32).itemsize)
    every = classes * DTYPES[form].itemsize if form in DTYPES else 0
    return best + np.dtype(np.float32).itemsize + every


def probabilities_of(engine: Engine, image: NDArray[np.uint8]) -> Floats:
    """Returns all probabilities of an image, float32 [h, w, C].

    Args:
        engine: Returns all probabilities as float32 (`Form.FLOAT32`).
        image: uint8 RGB [H, W, 3].

    Raises:
        EngineError: The engine failed, or does not return float32 probabilities.
        MapError: The values that it returns are not probabilities.
    """
    [cells] = engine.score(image[np.newaxis])
    if cells.probabilities is None or cells.probabilities.dtype != np.float32:
        raise EngineError("the engine does not return float32 probabilities", remedy="open it with Form.FLOAT32")
    check_values("the sample", CellScores(cells.classes, cells.scores, cells.residual, cells.probabilities))
    return cells.probabilities.astype(np.float32, copy=False)
