"""Probabilities in one byte each, as a logarithmic code, so that small probabilities keep their magnitude.

Code 0 is probability 0. Codes 1 to 255 are 2^-20 to 1, each 2^(20/254) = 1.056 times the previous one. A probability
is stored as the code with the nearest value. So the error is at most 2.73 % of the probability (`RELATIVE_ERROR`) from
2^-20 = 9.5e-7 on, and at most 2^-21 below.

The best k classes are stored exactly beside the codes, and replace them when a map is read (`restore`). Any other class
has at most 1 / (k + 1), so the error of every probability of a map is at most `RELATIVE_ERROR` / (k + 1).
"""

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from pipeline.maps.classification_map import Floats, Integers, MapError

OCTAVES = 20
"""The smallest probability that is not stored as 0 is about 2^-OCTAVES."""

_STEP = OCTAVES / 254  # octaves from one code to the next
RELATIVE_ERROR = math.tanh(math.log(2) * _STEP / 2)
"""The relative error of the middle of two codes with the values a and b: (b - a) / (b + a), the same for all pairs."""

_VALUES = np.concatenate([[0.0], 2.0 ** ((np.arange(1, 256) - 255) * _STEP)])
_TABLE = _VALUES.astype(np.float32)
# The borders between codes. The border between code 0 and code 1 is half of the smallest value.
_BORDERS = ((_VALUES[1:] + _VALUES[:-1]) / 2).astype(np.float32)


def _by_high_bits() -> tuple[NDArray[np.uint8], Floats]:
    """Returns, by the upper 16 bits of a float, the lowest code of such floats and the border to the next code.

    Such floats differ by at most 1/128 of their value, so there is at most one border between them. This takes 8 ns per
    value, a sixth of a search in the borders (measured).
    """
    with np.errstate(invalid="ignore"):
        first = (np.arange(1 << 16, dtype=np.uint32) << 16).view(np.float32)
    positive = first >= 0
    codes = np.searchsorted(_BORDERS, np.where(positive, first, 0), side="right")
    borders = np.append(_BORDERS, np.float32(np.inf))[codes]
    return codes.astype(np.uint8), np.where(positive, borders, np.float32(np.inf))


_CODES, _NEXT = _by_high_bits()


Real: TypeAlias = NDArray[np.float16 | np.float32 | np.float64]


def quantize(probabilities: Real) -> NDArray[np.uint8]:
    """Returns the codes of probabilities; a larger probability never has a smaller code.

    Args:
        probabilities: float [...], 0 to 1; values beyond, from rounding errors, count as 0 and 1.

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
    """Returns the probabilities of codes, float32 [...], 0 to 1.

    >>> dequantize(np.array([0, 1, 255], np.uint8)).tolist()
    [0.0, 9.5367431640625e-07, 1.0]
    """
    probabilities: Floats = _TABLE[codes]
    return probabilities


def restore(codes: NDArray[np.uint8], classes: Integers, scores: Floats) -> Floats:
    """Returns the probabilities of a map from their codes and the best classes.

    Args:
        codes: uint8 [h, w, C].
        classes: int32 [h, w, k], best first.
        scores: float32 [h, w, k], their exact probabilities, descending.

    Returns:
        float32 [h, w, C]; exact for `classes`, and at most the last of `scores` for the other classes.
    """
    # Rounded up, a class outside the top k could exceed one inside.
    probabilities = np.minimum(dequantize(codes), scores[..., -1:])
    np.put_along_axis(probabilities, classes.astype(np.intp), scores, axis=-1)
    return probabilities
