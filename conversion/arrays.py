"""The types of the values in a network: shapes, arrays and tensors."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

Shape = tuple[int, ...]
Array = NDArray[Any]
Tensor = Any  # a tf.Tensor: TensorFlow ships no types and is imported only when it is used
Size = int | Tensor  # the length of an axis: known, or computed at run time
