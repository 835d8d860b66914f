"""Grey as Caffe's programs make it of colours."""

from __future__ import annotations

import numpy as np

from conversion.arrays import Array

# ITU-R BT.601 luma in 14 bits, rounded, as OpenCV's cvtColor turns colour into grey. Grey that is repeated in three
# channels stays as it is. So `ReadImageToCVMat` with is_color false is followed where its file is decoded: in a JPEG it
# takes the luma that is stored, which the luma of the decoded colours does not equal where they were clipped.
# Sums stay below 2 ** 24, where float32 is exact: 0.299 R + ... has ties that rounding errors would decide.
LUMA = (4899, 9617, 1868)
LUMA_ONE = 1 << 14


def luma(images: Array) -> Array:
    """Returns the grey of images, uint8 [..., H, W], as OpenCV's cvtColor makes it of uint8 RGB [..., H, W, 3]."""
    weighted = images.astype(np.int32) @ np.array(LUMA, np.int32)
    grey: Array = ((weighted + LUMA_ONE // 2) // LUMA_ONE).astype(np.uint8)
    return grey
