"""Probabilities in one byte each: a logarithmic code, so that small ones keep their size and not just large ones.

Code 0 is probability 0. Codes 1 to 255 are 2^-20 to 1, each 2^(20/254) = 1.056 times the one before. A probability
becomes the code whose value is nearest. So from 2^-20 = 9.5e-7 on, a value that comes back is off by at most 2.73 % of
the probability (`RELATIVE_ERROR`), and below that by at most 2^-21.

The best k classes are stored exactly beside the codes, and take their places when a map is read (`restore`). Any other
class has at most 1 / (k + 1), so that no probability of a map is off by more than `RELATIVE_ERROR` / (k + 1).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.maps.classification_map import Floats, Integers, MapError

OCTAVES = 20
"""The smallest probability that is not taken for 0 is about 2^-OCTAVES."""

_STEP = OCTAVES / 254  # octaves from a code to the next
RELATIVE_ERROR = math.tanh(math.log(2) * _STEP / 2)
"""Between values a and b, the middle is off by (b - a) / (b + a) of itself, which is this for every pair of codes."""

_VALUES = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 256) - 255) * _STEP)])
_TABLE = _VALUES.astype(np.float32)
# Where one code gives way to the next. Half of the smallest value is that place for 0.
_BORDERS = ((_VALUES[1:] + _VALUES[:-1]) / 2).astype(np.float32)


def _by_high_bits() -> tuple[NDArray[np.uint8], Floats]:
    """For the upper half of a float's bits: the lowest code of such floats, and the border to the next code.

    Such floats lie within 1/128 of each other, so at most one border lies between them. Measured: 6 times as fast as
    searching the borders, 8 ns a value.
    """
    with np.errstate(invalid="ignore"):
        first = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    positive = first >= 0
    codes = np.searchsorted(_BORDERS, np.where(positive, first, 0), side="right")
    borders = np.append(_BORDERS, np.float32(np.inf))[codes]
    return codes.astype(np.uint8), np.where(positive, borders, np.float32(np.inf))


_CODES, _NEXT = _by_high_bits()


def quantize(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """The codes of probabilities; a larger probability never gets a smaller code.

    Args:
        probabilities: float [...], 0 to 1; what rounding took beyond counts as 0 and 1.

    Returns:
        uint8 [...].

    Raises:
        MapError: A value is NaN or infinite.

    >>> quantize(np.array([0, 1e-7, 1e-6, 0.5, 1]))
    array([  0,   0,   2, 242, 255], dtype=uint8)
    """
    values = np.ascontiguousarray(probabilities, dtype=np.float32)
    if not np.isfinite(values).all():
        raise MapError("NaN and infinity have no code", why="a map holds probabilities")
    high = (values.view(np.uint32) >> 16).astype(np.uint16)
    codes = _CODES[high]
    codes += values >= _NEXT[high]
    return codes


def dequantize(codes: NDArray[np.uint8]) -> Floats:
    """The probabilities that codes stand for, float32 [...], 0 to 1.

    >>> dequantize(np.array([0, 1, 255], np.uint8)).tolist()
    [0.0, 9.5367431640625e-07, 1.0]
    """
    found: Floats = _TABLE[codes]
    return found


def restore(codes: NDArray[np.uint8], classes: Integers, scores: Floats) -> Floats:
    """The probabilities of a map, from their codes and the best classes.

    Args:
        codes: uint8 [h, w, C].
        classes: int32 [h, w, k], best first.
        scores: float32 [h, w, k], their exact probabilities, descending.

    Returns:
        float32 [h, w, C]; exact at `classes`, and nowhere else above the last of `scores`.
    """
    # Rounded up, a class outside the top k could pass one inside.
    found = np.minimum(dequantize(codes), scores[..., -1:])
    np.put_along_axis(found, classes.astype(np.intp), scores, axis=-1)
    return found
