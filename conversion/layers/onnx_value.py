"""The values of an ONNX graph, and the version of ONNX that it is written in."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from conversion.arrays import Array
from conversion.errors import MissingExtraError, install_extra

if TYPE_CHECKING:
    import onnx

# The lowest version that has every operation of ours in its present form (sizes of Split and axes of Squeeze as inputs,
# any axis of Softmax). A runtime implements old versions for longer than it takes to learn new ones: OpenCV and the
# runtimes in browsers know 13 better than any later one, and later versions add nothing that Caffe needs.
OPSET = 13
IR_VERSION = 8  # the file format of 2021; every runtime that reads the opset reads it

Dim = int | str | None  # the length of an axis: known, named, or unknown until run time


def import_onnx() -> ModuleType:
    """Returns the onnx module, imported on first use; raises MissingExtraError without it."""
    if importlib.util.find_spec("onnx") is None:
        raise MissingExtraError(
            "onnx is not installed",
            why="writing the ONNX form of a model needs it",
            remedy=install_extra("onnx", gpu="gpu"),
        )
    importlib.import_module("onnx.shape_inference")
    return importlib.import_module("onnx")


@dataclasses.dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph.

    Attributes:
        name: Its name in the graph.
        dtype: "float32", "float16", "int64" or "bool".
        shape: The length of each axis, as far as it is known before run time.
        finite: Whether it has neither NaN nor infinity, unless arithmetic leaves the range of its type.
        array: The values, if they are known: a constant, or a learned blob.
        stored: Whether the array lies in a file of its own, so that the graph must not copy it.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]
    finite: bool = False
    array: Array | None = None
    stored: bool = False

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def foldable(self) -> bool:
        """Whether operations on it may be carried out while the graph is built."""
        return self.array is not None and not self.stored

    def known(self, axis: int) -> int:
        """Returns the length of an axis that is the same in every run, such as channels; raises ValueError if not."""
        length = self.shape[axis]
        if not isinstance(length, int):
            raise ValueError(f"axis {axis} of {self.name!r} has no known length: {self.shape}")
        return length


def element_type(onnx_module: ModuleType, dtype: str) -> int:
    """Returns ONNX's number of a type."""
    return int(onnx_module.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))


def output_type(
    onnx_module: ModuleType, proto: onnx.TypeProto, stated: Sequence[Dim] | None
) -> tuple[str, tuple[Dim, ...]]:
    """Returns type and shape of a node's output from what inference found and what the caller states."""
    tensor = proto.tensor_type
    dtype = str(onnx_module.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
    if not tensor.HasField("shape"):
        if stated is None:
            raise ValueError("the number of axes of a node's output is unknown; state its shape")
        return dtype, tuple(stated)
    found: list[Dim] = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in tensor.shape.dim]
    if stated is None:
        return dtype, tuple(found)
    return dtype, tuple(f if isinstance(f, int) or s is None else s for f, s in zip(found, stated, strict=True))
