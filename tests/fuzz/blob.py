"""A binaryproto -> array, which has as many values as its shape says; and back."""

from __future__ import annotations

import numpy as np

from conversion.caffe.reading import blob_message, parse_blob
from tests.fuzz.harness import LIMITS, launch


def one_input(data: bytes) -> None:
    array = parse_blob(data, where="mean.binaryproto", limits=LIMITS)
    again = parse_blob(blob_message(array).SerializeToString(), where="again", limits=LIMITS)
    if array.dtype != np.float32 or again.shape != array.shape or again.tobytes() != array.tobytes():
        raise AssertionError(f"{array.dtype} {array.shape} became {again.shape}")


if __name__ == "__main__":
    launch("blob")
