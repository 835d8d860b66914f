"""Arithmetic of samples: from the numbers that a file stores to RGB of 8 bits."""

import functools
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels: TypeAlias = npt.NDArray[np.uint8]
Samples: TypeAlias = npt.NDArray[np.integer]


def to_rgb(colours: Pixels) -> Pixels:
    """Returns colours, uint8 [h, w, 1 (grey), 3 (RGB) or 4 (CMYK, converted without a profile)], as RGB, [h, w, 3]."""
    if colours.shape[2] == 1:
        return np.repeat(colours, 3, axis=2)
    if colours.shape[2] == 4:
        return np.asarray(Image.fromarray(np.ascontiguousarray(colours), "CMYK").convert("RGB"))
    return colours


def grey_16(samples: Samples, largest: int = 65535) -> Pixels:
    """Returns grey samples as RGB, uint8 [h, w, 3].

    Args:
        samples: Integers [h, w], 0 to 65535.
        largest: The highest value that a sample can have; odd.
    """
    table = _to_8_bits(largest)
    grey = np.empty(samples.shape, np.uint8)
    # Row by row: an index array costs 8 bytes per sample.
    for row in range(samples.shape[0]):
        grey[row] = table[samples[row]]
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


def high_byte(samples: Samples) -> Pixels:
    """Returns the high byte of 16-bit samples, uint8 of the same shape; samples of 8 bits stay."""
    return (samples >> 8).astype(np.uint8) if samples.dtype.itemsize > 1 else samples.astype(np.uint8, copy=False)


@functools.cache
def _to_8_bits(largest: int) -> Pixels:
    """Returns uint8 [65536]: round(v * 255 / largest). There are no ties: 2 * 255 * v is even and `largest` is odd."""
    values = np.minimum(np.arange(2**16, dtype=np.int64), largest)
    return ((values * 255 * 2 + largest) // (2 * largest)).astype(np.uint8)
