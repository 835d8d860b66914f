"""A mean as .npy -> array; what is accepted is what NumPy itself reads."""

from __future__ import annotations

import io

import numpy as np

from conversion.caffe.reading import parse_npy
from tests.fuzz.harness import LIMITS, launch


def one_input(data: bytes) -> None:
    array = parse_npy(data, where="mean.npy", limits=LIMITS)
    if b"L" in data[:128]:  # Python 2's numbers, of which NumPy warns
        return
    expected = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    if array.dtype != expected.dtype or array.shape != expected.shape or array.tobytes() != expected.tobytes():
        raise AssertionError(f"{array.dtype} {array.shape}, NumPy reads {expected.dtype} {expected.shape}")


if __name__ == "__main__":
    launch("npy")
