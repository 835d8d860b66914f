"""TensorFlow's resizing, as Synopsys' fork of Caffe took it over: nearest neighbour and bilinear."""

from __future__ import annotations

import dataclasses
import math
from abc import abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from types import ModuleType
from typing import ClassVar, Self

import numpy as np

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe.caffe_pb2 import LayerParameter
from conversion.errors import UnsupportedError
from conversion.layers.base import Layer, Narrow, Step, register
from conversion.layers.layout import carried_axis, import_tensorflow
from conversion.layers.sampling import Taps, interpolated, interpolated_tensor, sampling_step

_AXES = {"NHWC": (1, 2), "NCHW": (2, 3)}  # of the blob, which is in Caffe's order of axes, whatever they are


@dataclasses.dataclass(frozen=True, eq=False)
class Resize(Layer):
    """Base of both: two axes of a blob of four get another size.

    `data_format` says which axes: 1 and 2 for NHWC, the default, 2 and 3 for NCHW. The size is `output_height` and
    `output_width`, or where one is missing the bottom's times `scale_height` or `scale_width`, rounded down. Cell o is
    read at o * n / m, from n cells to m; with `align_corners` at o * (n - 1) / (m - 1); with `half_pixel_centers` at
    (o + 0.5) * n / m - 0.5. Places are computed in float32, as in the fork.
    """

    axes: tuple[int, int] = (1, 2)
    size: tuple[int | None, int | None] = (None, None)
    scale: tuple[float, float] = (1.0, 1.0)
    align_corners: bool = False
    half_pixel_centers: bool = False

    may_be_in_place = False
    field: ClassVar[str]

    @classmethod
    def parse(cls, definition: LayerParameter) -> Self:
        """Reads the layer's parameter message."""
        message = getattr(definition, cls.field)
        layer = cls(definition)
        if message.data_format not in _AXES:
            raise UnsupportedError(f"data_format {message.data_format!r}", where=layer.where)
        modes = [
            name for name in ("align_corners", "half_pixel_centers", "pytorch_half_pixel") if getattr(message, name)
        ]
        if len(modes) > 1:
            raise layer.invalid(f"both {modes[0]} and {modes[1]}", why="the fork accepts one of them")
        size = tuple(
            getattr(message, name) if message.HasField(name) else None for name in ("output_height", "output_width")
        )
        if any(cells is not None and cells < 1 for cells in size):
            raise layer.invalid(f"an output of {size[0]}x{size[1]}")
        return dataclasses.replace(
            layer,
            axes=_AXES[message.data_format],
            size=(size[0], size[1]),
            scale=(message.scale_height, message.scale_width),
            align_corners=message.align_corners,
            half_pixel_centers=message.half_pixel_centers,
        ).with_mode(modes[0] if modes else "")

    def with_mode(self, mode: str) -> Self:
        """Returns the layer itself; raises NetworkError for a mode that it does not have."""
        if mode == "pytorch_half_pixel":
            raise self.invalid("pytorch_half_pixel", why="only bilinear resizing has it")
        return self

    def _cells(self, axis: int, size: int) -> int:
        fixed = self.size[axis]
        return math.floor(np.float32(size) * np.float32(self.scale[axis])) if fixed is None else fixed

    def output_shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        """Returns the shapes that the class states."""
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.invalid(f"a bottom of {len(shape)} axes", why="it is defined for four")
        top = list(shape)
        for axis, place in enumerate(self.axes):
            top[place] = self._cells(axis, shape[place])
            if top[place] < 1:
                raise self.invalid(f"{shape[place]} cells times {self.scale[axis]} are none")
        return [tuple(top)]

    def workspace(self, bottoms: Sequence[Shape], tops: Sequence[Shape]) -> int:
        """Returns the neighbours of every cell, and their weights."""
        return 5 * super().workspace(bottoms, tops)

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns the step of whole factors; None where it would be another one at another size."""
        if self.axes != (2, 3) or self.align_corners or any(cells is not None for cells in self.size):
            return None
        steps = []
        for axis in (0, 1):
            size = bottoms[0][2 + axis]
            stride = Fraction(1) / Fraction(self.scale[axis])
            if 1 not in (stride.numerator, stride.denominator) or size % stride:
                return None
            steps.append(self.sampled(stride))
        return steps[0], steps[1]

    @abstractmethod
    def sampled(self, stride: Fraction) -> Step:
        """Returns the step along an axis whose cells are `stride` apart."""

    @abstractmethod
    def taps(self, size: Tensor, cells: Tensor, xp: ModuleType | None = None) -> Taps:
        """Returns where the cells of the top are read: arrays, or tensors if `xp` is TensorFlow."""

    def places(self, size: Tensor, cells: Tensor, tf: ModuleType | None) -> tuple[Tensor, Tensor]:
        """Returns (o, the scale from cells of the top to those of the bottom), float32."""
        if tf is None:
            aligned = self.align_corners and cells > 1
            scale = np.float32(size - 1) / np.float32(cells - 1) if aligned else np.float32(size) / np.float32(cells)
            return np.arange(cells, dtype=np.float32), scale
        scale = tf.cast(size, tf.float32) / tf.cast(cells, tf.float32)
        if self.align_corners:
            aligned = tf.math.divide_no_nan(tf.cast(size - 1, tf.float32), tf.cast(cells - 1, tf.float32))
            scale = tf.where(cells > 1, aligned, scale)
        return tf.cast(tf.range(cells), tf.float32), scale

    def reference(self, bottoms: Sequence[Array], blobs: Sequence[Array]) -> list[Array]:  # noqa: ARG002
        """Resizes one axis after the other."""
        x = bottoms[0]
        for axis, place in enumerate(self.axes):
            size = bottoms[0].shape[place]
            x = self.resized(x, place, self.taps(size, self._cells(axis, size)), None)
        return [x]

    def tensorflow(self, bottoms: Sequence[Tensor], variables: Sequence[Tensor]) -> list[Tensor]:  # noqa: ARG002
        """Gathers the cells of each place, one axis after the other."""
        tf = import_tensorflow()
        x = bottoms[0]
        static = x.shape.as_list()
        for axis, place in enumerate(self.axes):
            at = carried_axis(place, 4)
            size = tf.shape(bottoms[0])[at]
            cells = self.size[axis]
            if cells is None:
                cells = tf.cast(tf.floor(tf.cast(size, tf.float32) * np.float32(self.scale[axis])), tf.int32)
                static[at] = None if static[at] is None else self._cells(axis, static[at])
            else:
                static[at] = cells
            x = self.resized(x, at, self.taps(size, tf.convert_to_tensor(cells), tf), tf)
        x.set_shape(static)
        return [x]

    @abstractmethod
    def resized(self, x: Tensor, axis: int, taps: Taps, tf: ModuleType | None) -> Tensor:
        """Returns an array, or a tensor, that is resized along one axis."""


@register("ResizeNearestNeighbor")
@dataclasses.dataclass(frozen=True, eq=False)
class ResizeNearestNeighbor(Resize):
    """Each cell is that of the bottom at its place, rounded down (resize_nearest_neighbor_layer.cpp).

    Places are those of `Resize`, but (o + 0.5) * n / m with `half_pixel_centers`; with `align_corners` they are rounded
    to the nearest cell, halves up.
    """

    field = "resize_nearest_neighbor_param"

    def sampled(self, stride: Fraction) -> Step:
        """See `Resize.sampled`."""
        return sampling_step(stride, stride / 2 if self.half_pixel_centers else Fraction(0), nearest=True)

    def step(self, bottoms: Sequence[Shape]) -> tuple[Step, Step] | None:
        """Returns it where float32 rounds to the places that it stands for."""
        steps = super().step(bottoms)
        for axis, step in enumerate(steps or ()):
            size = bottoms[0][2 + axis]
            cells = self._cells(axis, size)
            half = step.stride / 2 if self.half_pixel_centers else 0
            if list(self.taps(size, cells).lower) != [math.floor(step.stride * o + half) for o in range(cells)]:
                return None
        return steps

    def taps(self, size: Tensor, cells: Tensor, xp: ModuleType | None = None) -> Taps:
        """See `Resize.taps`; the upper cell is not read."""
        o, scale = self.places(size, cells, xp)
        half = np.float32(0.5)
        place = (o + half) * scale if self.half_pixel_centers else o * scale
        # roundf: `place + 0.5` would round once more.
        if xp is None:
            whole = np.floor(place)
            whole = whole + (place - whole >= half) if self.align_corners else whole
            lower = np.minimum(whole.astype(np.int64), size - 1)
        else:
            whole = xp.floor(place)
            whole = whole + xp.cast(place - whole >= half, xp.float32) if self.align_corners else whole
            lower = xp.minimum(xp.cast(whole, xp.int32), size - 1)
        return Taps(lower, lower, None)

    def resized(self, x: Tensor, axis: int, taps: Taps, tf: ModuleType | None) -> Tensor:
        """See `Resize.resized`."""
        return np.take(x, taps.lower, axis) if tf is None else tf.gather(x, taps.lower, axis=axis)

    @property
    def narrow(self) -> Narrow:
        """See `Layer.narrow`."""
        return Narrow.INFER


@register("ResizeBilinear")
@dataclasses.dataclass(frozen=True, eq=False)
class ResizeBilinear(Resize):
    """Each cell lies between the four of the bottom around its place (resize_bilinear_layer.cpp).

    With `pytorch_half_pixel` a place is (o + 0.5) * n / m - 0.5, and -0.5 where there is one cell.
    """

    pytorch_half_pixel: bool = False

    field = "resize_bilinear_param"

    def with_mode(self, mode: str) -> Self:
        """Returns the layer with `pytorch_half_pixel` if it is the mode."""
        return dataclasses.replace(self, pytorch_half_pixel=True) if mode == "pytorch_half_pixel" else self

    def sampled(self, stride: Fraction) -> Step:
        """See `Resize.sampled`."""
        half = self.half_pixel_centers or self.pytorch_half_pixel
        return sampling_step(stride, (stride - 1) / 2 if half else Fraction(0))

    def taps(self, size: Tensor, cells: Tensor, xp: ModuleType | None = None) -> Taps:
        """See `Resize.taps`."""
        o, scale = self.places(size, cells, xp)
        half = np.float32(0.5)
        place = (o + half) * scale - half if self.half_pixel_centers or self.pytorch_half_pixel else o * scale
        if xp is None:
            if self.pytorch_half_pixel and cells == 1:
                place = np.full(1, -half)
            whole = np.floor(place)
            lower = np.maximum(whole.astype(np.int64), 0)
            upper = np.minimum(np.ceil(place).astype(np.int64), size - 1)
        else:
            if self.pytorch_half_pixel:
                place = xp.where(cells > 1, place, -half)
            whole = xp.floor(place)
            lower = xp.maximum(xp.cast(whole, xp.int32), 0)
            upper = xp.minimum(xp.cast(xp.math.ceil(place), xp.int32), size - 1)
        return Taps(lower, upper, place - whole)

    def resized(self, x: Tensor, axis: int, taps: Taps, tf: ModuleType | None) -> Tensor:
        """See `Resize.resized`."""
        return interpolated(x, axis, taps) if tf is None else interpolated_tensor(x, axis, taps)
