"""The sizes that an image is scaled to before it is scored, and the resampling."""

import dataclasses
import math
from typing import TypeAlias

import numpy as np
from PIL import Image

from pipeline.errors import JobError, SettingError
from pipeline.images.samples import Pixels
from pipeline.settings import WindowFilter

Size: TypeAlias = tuple[int, int]

MAX_SCALES = 16
MAX_ENLARGEMENT = 8.0
"""The largest factor by which a side of an image may grow: enlarging adds no information."""
MAX_SIDE = 2**20
WINDOWS_SCALE = 0.0
"""The scale of the row of an image that holds its windows: no map of the whole image has it."""


@dataclasses.dataclass(frozen=True)
class WindowResize:
    """How an image is resized before windows are cut from it.

    Attributes:
        filter: Whose rule resamples it.
        size: (height, width) in pixels, or the length of the shorter side.
    """

    filter: WindowFilter
    size: int | Size

    def target_size(self, height: int, width: int) -> Size:
        """Returns the (height, width) that an image of this size is brought to; each side is rounded half up."""
        if not isinstance(self.size, int):
            return self.size
        factor = self.size / min(height, width)
        return _rounded(height * factor), _rounded(width * factor)


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The sizes that an image is scored at. The steps are applied in this order: `resize`, `max_side`, `scales`.

    Attributes:
        resize: None keeps the size. A number is the new length of the shorter side in pixels, and the aspect ratio is
            kept, as in torchvision's Resize. A pair is the new (height, width), and the aspect ratio may change, as in
            Caffe (`convert_imageset --resize_height`, `caffe.io.resize_image`).
        max_side: Pixels of the longer side at most. Larger images are reduced; others keep their size.
        scales: The resulting size is multiplied by each of these factors; there is one map per scale.
        windows: How the image is resized for windows, whatever the other attributes say; None if there are none.

    Raises:
        SettingError: A number is out of range, or two scales are equal.
    """

    resize: int | Size | None = None
    max_side: int | None = None
    scales: tuple[float, ...] = (1.0,)
    windows: WindowResize | None = None

    @property
    def row_scales(self) -> tuple[float, ...]:
        """`scales`, and `WINDOWS_SCALE` if there are windows."""
        return (*self.scales, *([WINDOWS_SCALE] if self.windows is not None else []))

    def __post_init__(self) -> None:
        sides = () if self.resize is None else (self.resize,) if isinstance(self.resize, int) else self.resize
        if isinstance(self.resize, tuple) and len(sides) != 2:
            raise SettingError(f"resize {self.resize}", why="it must be one number, or height and width")
        for name, side in [*(("resize", side) for side in sides), ("max_side", self.max_side or 1)]:
            if not 1 <= side <= MAX_SIDE:
                raise SettingError(f"{name} {side}", why=f"it must be between 1 and {MAX_SIDE} pixels")
        if self.max_side == 0:
            raise SettingError("max_side 0", why=f"it must be between 1 and {MAX_SIDE} pixels")
        if not self.scales and self.windows is None:
            raise SettingError("no scales", why="without --windows nothing would be made of an image")
        if len(self.scales) > MAX_SCALES:
            raise SettingError(f"{len(self.scales)} scales", why=f"there may be at most {MAX_SCALES}")
        window_size = self.windows.size if self.windows is not None else 1
        window_sides = (window_size,) if isinstance(window_size, int) else window_size
        if not all(1 <= side <= MAX_SIDE for side in window_sides):
            raise SettingError(f"window_resize {window_size}", why=f"it must be between 1 and {MAX_SIDE} pixels")
        if not all(math.isfinite(scale) and 0 < scale <= MAX_ENLARGEMENT for scale in self.scales):
            raise SettingError(
                f"scales {', '.join(map(str, self.scales))}", why=f"each must be above 0 and at most {MAX_ENLARGEMENT}"
            )
        if len(set(self.scales)) != len(self.scales):
            raise SettingError(f"scales {', '.join(map(str, self.scales))}", why="each scale may occur only once")

    def target_sizes(self, height: int, width: int) -> tuple[tuple[float, int, int], ...]:
        """Returns (scale, height, width) for each scale of an image of this size, in pixels.

        Each side is rounded once, at the end, half up, to at least 1 pixel. So after a `resize` of the shorter side, or
        after `max_side`, a side differs from the exact aspect ratio by half a pixel at most. (torchvision rounds the
        longer side down, so its result may differ by one pixel.) If several scales give one size, each is listed.

        Raises:
            JobError: A side would grow by more than `MAX_ENLARGEMENT`.
        """
        high, wide = float(height), float(width)
        if isinstance(self.resize, int):
            factor = self.resize / min(height, width)
            high, wide = high * factor, wide * factor
        elif self.resize is not None:
            high, wide = float(self.resize[0]), float(self.resize[1])
        if self.max_side is not None and max(high, wide) > self.max_side:
            factor = self.max_side / max(high, wide)
            high, wide = high * factor, wide * factor
        sizes = tuple((scale, _rounded(high * scale), _rounded(wide * scale)) for scale in self.scales)
        for scale, h, w in sizes:
            if h > height * MAX_ENLARGEMENT or w > width * MAX_ENLARGEMENT:
                raise JobError(
                    f"{height} x {width} pixels would become {h} x {w} at scale {scale}",
                    why=f"a side may grow {MAX_ENLARGEMENT:g} times at most",
                    remedy="ask for a smaller size",
                )
        return sizes


def _rounded(side: float) -> int:
    return max(1, math.floor(side + 0.5))


def resample(pixels: Pixels, size: Size) -> Pixels:
    """Returns an image at another (height, width); the same array if it already has that size.

    The interpolation is bilinear; for a reduction the triangle filter is widened by the factor (antialiasing). Bilinear
    resampling was used to train the common networks: Caffe's `convert_imageset` (OpenCV) and `caffe.io.resize_image`
    (scikit-image, order 1), and torchvision's Resize, whose antialiased form is this function of Pillow. Unlike bicubic
    and Lanczos it never overshoots.

    Args:
        pixels: uint8 [h, w, 3].
        size: (height, width) in pixels.
    """
    if pixels.shape[:2] == tuple(size):
        return pixels
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
