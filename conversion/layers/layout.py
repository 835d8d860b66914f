"""Imports TensorFlow on first use, and holds the one rule of axis order.

Rule: in the TensorFlow form, rank-4 tensors are NHWC, and tensors of other ranks are in Caffe's order.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from types import ModuleType

from conversion.arrays import Tensor
from conversion.errors import MissingExtraError, install_extra

_NHWC_FROM_NCHW = {0: 0, 1: 3, 2: 1, 3: 2}


def import_tensorflow() -> ModuleType:
    """Returns the tensorflow module, imported on first use (it takes seconds); raises MissingExtraError without it.

    It allocates a GPU's memory as needed, unless the environment says otherwise. By default its first operation would
    take all memory, even to convert a model.
    """
    if importlib.util.find_spec("tensorflow") is None:
        raise MissingExtraError(
            "TensorFlow is not installed",
            why="scoring, and a model's SavedModel, need it; reading Caffe files and the ONNX form do not",
            remedy=install_extra("tensorflow", gpu="gpu-tensorflow"),
        )
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    return importlib.import_module("tensorflow")


def from_caffe(tensor: Tensor) -> Tensor:
    """Returns a tensor in Caffe's axis order in that of the TensorFlow form: NCHW becomes NHWC."""
    return import_tensorflow().transpose(tensor, (0, 2, 3, 1)) if tensor.shape.rank == 4 else tensor


def to_caffe(tensor: Tensor) -> Tensor:
    """Returns a tensor of the TensorFlow form in Caffe's axis order: NHWC becomes NCHW, other ranks stay."""
    return import_tensorflow().transpose(tensor, (0, 3, 1, 2)) if tensor.shape.rank == 4 else tensor


def carried_axis(axis: int, rank: int) -> int:
    """Returns the axis of the TensorFlow form for an axis of Caffe's (0 <= axis < rank)."""
    return _NHWC_FROM_NCHW[axis] if rank == 4 else axis
