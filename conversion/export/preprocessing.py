"""The preprocessing of images (channel order, mean, scale), and the readers of means and labels."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

from conversion.arrays import Array, Tensor
from conversion.caffe import reading
from conversion.errors import ConversionError, ReadingError
from conversion.limits import DEFAULT_LIMITS, Limits
from conversion.names import control_character

ChannelOrder = Literal["bgr", "rgb", "gray"]
Mean = ArrayLike | str | Path | None  # see `channel_mean`
# ITU-R BT.601 luma in 14 bits, rounded, as OpenCV's cvtColor turns colour into grey. Grey that is repeated in three
# channels stays as it is. So `ReadImageToCVMat` with is_color false is followed where its file is decoded: in a JPEG it
# takes the luma that is stored, which the luma of the decoded colours does not equal where they were clipped.
# Sums stay below 2 ** 24, where float32 is exact: 0.299 R + ... has ties that rounding errors would decide.
_LUMA = (4899, 9617, 1868)
_LUMA_ONE = 1 << 14


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
            x = np.floor((x @ np.array(_LUMA) + _LUMA_ONE // 2) / _LUMA_ONE)[..., None]
        scaled: Array = (x - np.array(self.mean)) * self.scale
        return scaled.transpose(0, 3, 1, 2)

    def tensorflow(self, tf: ModuleType, images: Tensor) -> Tensor:
        """Returns float32 [N, H, W, C] for images, uint8 RGB [N, H, W, 3], as TensorFlow ops."""
        x = tf.cast(images, tf.float32)
        if self.channel_order == "bgr":
            x = tf.reverse(x, axis=[-1])
        elif self.channel_order == "gray":
            luma = tf.reduce_sum(x * tf.constant(_LUMA, tf.float32), axis=-1, keepdims=True)
            x = tf.floor((luma + _LUMA_ONE // 2) / _LUMA_ONE)
        x = x - tf.constant(self.mean, tf.float32)
        return x * self.scale if self.scale != 1.0 else x


def channel_mean(mean: Mean, channels: int, *, limits: Limits = DEFAULT_LIMITS) -> tuple[tuple[float, ...], str]:
    """Returns the mean as one value per channel, and a note if a mean image was reduced.

    Args:
        mean: None for zeros; numbers (one, or one per channel, in the network's channel order); or the path of a mean
            image: `.npy` [C, H, W] or `.binaryproto` [1, C, H, W]. An image is reduced to its mean over positions, as
            in Caffe's classification notebook: cells of a map have no fixed position in a mean image.
        channels: Number of channels of the network's input.
        limits: Upper limits on a mean file.

    Raises:
        ReadingError: The file cannot be read.
        LimitError: The file is larger than a limit.
        ConversionError: The number of channels is another, or values are not finite.
    """
    if mean is None:
        return (0.0,) * channels, ""
    note, where = "", ""
    if isinstance(mean, (str, Path)):
        where = str(mean)
        array = _mean_image(Path(mean), limits)
        if array.ndim > 1:
            size = "x".join(map(str, array.shape[-2:]))
            note = (
                f"the mean image of {size} is reduced to its channel mean: cells of a map have no fixed position in it"
            )
            with np.errstate(all="ignore"):  # values that are not finite are refused below
                array = array.mean(axis=(-2, -1), dtype=np.float64)
    else:
        array = np.atleast_1d(np.asarray(mean, dtype=np.float64))
    if array.ndim != 1 or array.size not in (1, channels) or not np.isfinite(array).all():
        raise ConversionError(
            f"a mean of shape {array.shape} for {channels} channels",
            where=where,
            remedy="give one finite value per channel, in the network's channel order (B,G,R for Caffe's nets)",
        )
    values = [float(v) for v in array]
    return tuple(values * channels if len(values) == 1 else values), note


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


def _mean_image(path: Path, limits: Limits) -> Array:
    read = reading.read_npy if path.suffix == ".npy" else reading.read_blob
    array = read(path, limits=limits)
    if array.ndim == 4 and array.shape[0] == 1:
        array = array[0]
    if array.ndim not in (1, 3):
        raise ConversionError(f"a mean of shape {array.shape}", where=str(path), why="expected [C, H, W] or [C]")
    return array
