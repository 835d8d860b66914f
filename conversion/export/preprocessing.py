"""The preprocessing of images (channel order, mean, scale), and the readers of means and labels."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from conversion.arrays import Array, Shape, Tensor
from conversion.caffe import reading
from conversion.errors import OptionError, ReadingError
from conversion.grey import LUMA, LUMA_ONE, luma
from conversion.layers.onnx_graph import OnnxGraph, Value
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.names import control_character

ChannelOrder = Literal["bgr", "rgb", "gray"]
Mean = ArrayLike | str | Path | None  # see `channel_mean`
_COLOURS = 3
MEAN_IMAGE_NOTE = "the mean image of "
"""The beginning of the note of a model that was made with a mean image: models of older versions keep no more of it."""


class Preprocessing(BaseModel):
    """(pixel - mean) * scale, for pixels 0 to 255 in the network's channel order (data_transformer.cpp).

    Attributes:
        channel_order: The order of the network's channels; Caffe's own nets take BGR.
        mean: One value per channel, in the network's channel order, 0 to 255.
        scale: Factor applied after the mean is subtracted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    channel_order: ChannelOrder = "bgr"
    mean: tuple[float, ...]
    scale: float = 1.0

    def reference(self, images: Array) -> Array:
        """Returns float64 [N, C, H, W] for images, uint8 RGB [N, H, W, 3], in plain NumPy."""
        x = images.astype(np.float64)
        if self.channel_order == "bgr":
            x = x[..., ::-1]
        elif self.channel_order == "gray":
            x = luma(images).astype(np.float64)[..., None]
        scaled: Array = (x - np.array(self.mean)) * self.scale
        return scaled.transpose(0, 3, 1, 2)

    def tensorflow(self, tf: ModuleType, images: Tensor) -> Tensor:
        """Returns float32 [N, H, W, C] for images, uint8 RGB [N, H, W, 3], as TensorFlow ops."""
        x = tf.cast(images, tf.float32)
        if self.channel_order == "bgr":
            x = tf.reverse(x, axis=[-1])
        elif self.channel_order == "gray":
            luma = tf.reduce_sum(x * tf.constant(LUMA, tf.float32), axis=-1, keepdims=True)
            x = tf.floor((luma + LUMA_ONE // 2) / LUMA_ONE)
        x = x - tf.constant(self.mean, tf.float32)
        return x * self.scale if self.scale != 1.0 else x

    def onnx(self, graph: OnnxGraph, images: Value) -> Value:
        """Returns float32 [N, C, H, W] for images, uint8 RGB [N, H, W, 3], as nodes of an ONNX graph."""
        x = graph.transposed(graph.cast(images, "float32"), [0, 3, 1, 2])
        if self.channel_order == "bgr":
            x = graph.node("Gather", [x, graph.integers([2, 1, 0])], axis=1)
        elif self.channel_order == "gray":
            luma = graph.node("Conv", [x, graph.constant(np.array(LUMA, np.float32).reshape(1, -1, 1, 1))])
            rounded = graph.node("Add", [luma, graph.scalar(LUMA_ONE // 2, luma)])
            x = graph.node("Floor", [graph.node("Mul", [rounded, graph.scalar(1 / LUMA_ONE, luma)])])
        x = graph.node("Sub", [x, graph.constant(np.array(self.mean, np.float32).reshape(1, -1, 1, 1))])
        return x if self.scale == 1.0 else graph.node("Mul", [x, graph.scalar(self.scale, x)])


def channel_mean(mean: Mean, channels: int, *, limits: Limits = DEFAULT_LIMITS) -> tuple[tuple[float, ...], str]:
    """Returns the mean as one value per channel, and a note if a mean image was reduced.

    Each shape has one meaning:

    - numbers: one for all channels (Caffe's single `mean_value`), or [C], one per channel;
    - `.npy`: [C], or a mean image [C, H, W] or [1, C, H, W];
    - `.binaryproto`: the same; Caffe's own are mean images [1, C, H, W].

    C is the network's number of channels, and values are in the network's channel order. An image is reduced to its
    mean over positions, as in Caffe's classification notebook: cells of a map have no fixed position in a mean image.

    Args:
        mean: None for zeros; numbers; or the path of a file, `.npy` or else `.binaryproto`.
        channels: Number of channels of the network's input.
        limits: Upper limits on a mean file.

    Raises:
        ReadingError: The file cannot be read.
        LimitError: The file is larger than a limit.
        ConversionError: It has another shape, whose layout the message names, or values that are not finite.
    """
    if mean is None:
        return (0.0,) * channels, ""
    if not isinstance(mean, (str, Path)):
        numbers = np.asarray(mean, dtype=np.float64)
        if numbers.size == 1 and numbers.ndim < 2:
            numbers = np.repeat(numbers, channels)
        return _finite(numbers, channels, ""), ""
    path = Path(mean)
    array = _read(path, limits)
    image = _image_of(array, channels, path)
    if image is None:
        return _finite(array, channels, str(path)), ""
    with np.errstate(all="ignore"):  # values that are not finite are refused
        values = _finite(image.mean(axis=(1, 2), dtype=np.float64), channels, str(path))
    size = "x".join(map(str, image.shape[1:]))
    return (
        values,
        f"{MEAN_IMAGE_NOTE}{size} is reduced to its channel mean: cells of a map have no fixed position in it",
    )


def mean_image(mean: Mean, channels: int, *, limits: Limits = DEFAULT_LIMITS) -> Array | None:
    """Returns the mean image [C, H, W] that a file holds, float32 or float64; None if the mean is not an image.

    Args:
        mean: See `channel_mean`, as the others.
        channels: See there.
        limits: See there.

    Raises:
        ReadingError: As there.
        LimitError: As there.
    """
    if not isinstance(mean, (str, Path)):
        return None
    image = _image_of(_read(Path(mean), limits), channels, Path(mean))
    if image is None:
        return None
    return np.ascontiguousarray(image, "<f8" if image.dtype.itemsize == 8 else "<f4")


def _read(path: Path, limits: Limits) -> Array:
    return (reading.read_npy if path.suffix == ".npy" else reading.read_blob)(path, limits=limits)


def _image_of(array: Array, channels: int, path: Path) -> Array | None:
    """Returns a mean file's array as an image [C, H, W]; None if it is not one."""
    image = array[0] if array.ndim == 4 and array.shape[0] == 1 else array
    if image.ndim != 3 or image.shape[0] != channels or (path.suffix == ".npy" and image.shape[2] == _COLOURS):
        return None
    return image


def _finite(array: Array, channels: int, where: str) -> tuple[float, ...]:
    """Returns the values of an array [channels]; raises ConversionError for another shape, or if one is not finite."""
    if array.shape != (channels,):
        raise OptionError(
            f"a mean of shape {array.shape} for {channels} channels",
            where=where,
            why=f"it is {_layout(array.shape, channels)}; a mean has one value per channel, or is an image [C, H, W]",
            remedy="give the mean that the network was trained with: one value per channel, in the network's order "
            "(B,G,R for Caffe's nets); or a mean image, channels first",
        )
    if not np.isfinite(array).all():
        raise OptionError(
            f"a mean with values that are not finite: {', '.join(map(str, array))}",
            where=where,
            remedy="give one finite value per channel",
        )
    return tuple(float(value) for value in array)


def _layout(shape: Shape, channels: int) -> str:
    """Returns what an array of a shape that no mean has seems to be."""
    sides = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
    if len(sides) == 3 and sides[2] in (channels, _COLOURS):
        also = ", or [C, H, W] of an image 3 pixels wide" if sides[0] == channels else ""
        return f"[H, W, C], channels last{also}"
    if len(sides) == 3:
        return f"an image [C, H, W] with C = {sides[0]}"
    if len(shape) == 2:
        return "[H, W] without channels, or [N, C]"
    if len(shape) == 1:
        return f"[C] with C = {shape[0]}"
    return "one value without an axis" if not shape else f"an array of {len(shape)} axes"


def read_labels(path: str | Path, *, limits: Limits = DEFAULT_LIMITS) -> tuple[str, ...]:
    """Reads class names from a text file, one per line, without `#` comments and synset ids (`n01440764 tench`).

    Raises:
        ReadingError: The file cannot be read as UTF-8 text, or has control characters.
        LimitError: The file is larger than a limit.
    """
    data = reading.read_bytes(path, "labels_bytes", limits)
    reading.refuse_other_formats(data, str(path))
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ReadingError(f"cannot be read: {error}", where=str(path)) from error
    character = control_character("".join(lines).replace("\t", " "))
    if character:
        number = next(number for number, line in enumerate(lines, 1) if character in line)
        raise ReadingError(
            f"line {number} has the control character {character!r}", where=str(path), why="a class name is plain text"
        )
    names = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    return tuple(_without_synset(name) for name in names)


def _without_synset(line: str) -> str:
    head, _, tail = line.partition(" ")
    is_synset = len(head) == 9 and head[0] == "n" and head[1:].isdigit()
    return tail.strip() if is_synset and tail else line
