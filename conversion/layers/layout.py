"""TensorFlow at arm's length: importing it, and the one rule about axis order.

Rule: inside the TensorFlow form every rank-4 tensor is NHWC, every tensor of another rank has Caffe's own order.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

from conversion.errors import MissingExtraError

_NHWC_FROM_NCHW = {0: 0, 1: 3, 2: 1, 3: 2}


def import_tensorflow() -> Any:
    """The tensorflow module, imported on first use (it takes seconds); raises MissingExtraError without it.

    It is told to take a GPU's memory as it needs it, unless the environment says otherwise: it would take all of it at
    its first operation, were it only to convert a model.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError(
            "TensorFlow is not installed",
            why="converting and running models needs it; reading and inspecting Caffe files does not",
            remedy="install densecast[cpu], or densecast[gpu] on a machine with an NVIDIA GPU",
        )
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    import tensorflow as tf

    return tf


def from_caffe(tensor: Any) -> Any:
    """A tensor in Caffe's axis order as the TensorFlow form carries it: NCHW becomes NHWC."""
    return import_tensorflow().transpose(tensor, (0, 2, 3, 1)) if tensor.shape.rank == 4 else tensor


def to_caffe(tensor: Any) -> Any:
    """The reverse of `from_caffe`: NHWC becomes NCHW, other ranks stay."""
    return import_tensorflow().transpose(tensor, (0, 3, 1, 2)) if tensor.shape.rank == 4 else tensor


def carried_axis(axis: int, rank: int) -> int:
    """Where Caffe's axis (0 <= axis < rank) lies in the carried tensor."""
    return _NHWC_FROM_NCHW[axis] if rank == 4 else axis
