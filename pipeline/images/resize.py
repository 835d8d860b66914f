"""To which sizes an image is scaled before it is scored, and where the cells of its map lie in the image as it was."""

import dataclasses
import math
from typing import TypeAlias

import numpy as np
from PIL import Image

from pipeline.errors import JobError
from pipeline.images.decode import Pixels

Size: TypeAlias = tuple[int, int]

MAX_SCALES = 16
MAX_ENLARGEMENT = 8.0
"""By what either side of an image may grow at most: no pixel of a map comes of nothing."""
MAX_SIDE = 2**20


@dataclasses.dataclass(frozen=True)
class Scaling:
    """The sizes that an image is scored at. The steps follow each other: `resize`, `max_side`, `scales`.

    Attributes:
        resize: None: as it is. A number: the shorter side becomes that, the aspect is kept, as torchvision's Resize
            does. A pair: (height, width), whatever the aspect, as Caffe does (`convert_imageset --resize_height`,
            `caffe.io.resize_image`).
        max_side: The longer side at most; larger images shrink, others stay.
        scales: What comes of that is multiplied by each; one map a scale.

    Raises:
        JobError: A number is out of range, or two scales are equal.
    """

    resize: int | Size | None = None
    max_side: int | None = None
    scales: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        sides = () if self.resize is None else (self.resize,) if isinstance(self.resize, int) else self.resize
        if isinstance(self.resize, tuple) and len(sides) != 2:
            raise JobError(f"resize {self.resize}", why="it is one number, or height and width")
        for name, side in [*(("resize", side) for side in sides), ("max_side", self.max_side or 1)]:
            if not 1 <= side <= MAX_SIDE:
                raise JobError(f"{name} {side}", why=f"it must be between 1 and {MAX_SIDE} pixels")
        if self.max_side == 0:
            raise JobError("max_side 0", why=f"it must be between 1 and {MAX_SIDE} pixels")
        if not 1 <= len(self.scales) <= MAX_SCALES:
            raise JobError(f"{len(self.scales)} scales", why=f"there must be between 1 and {MAX_SCALES}")
        if not all(math.isfinite(scale) and 0 < scale <= MAX_ENLARGEMENT for scale in self.scales):
            raise JobError(
                f"scales {', '.join(map(str, self.scales))}", why=f"each must be above 0, and {MAX_ENLARGEMENT} at most"
            )
        if len(set(self.scales)) != len(self.scales):
            raise JobError(f"scales {', '.join(map(str, self.scales))}", why="two are equal")

    def target_sizes(self, height: int, width: int) -> tuple[tuple[float, int, int], ...]:
        """For an image of this size, each scale with the height and width to score at.

        One rounding at the end, of each side by itself, half up, to at least 1 pixel; the sides of a `resize` by the
        shorter one, and of `max_side`, are so at most half a pixel off the aspect. (torchvision rounds the longer side
        down instead: it differs by one pixel at times.) A size that several scales round to is given once for each.

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
                    why=f"no side may grow more than {MAX_ENLARGEMENT:g} times",
                    remedy="ask for a smaller size, or leave out images that small (min_height, min_width)",
                )
        return sizes

    def largest(self, height: int, width: int) -> Size:
        """The height and width that none of the target sizes exceeds: `at_least` of `pipeline.images.decode.decode`."""
        sizes = self.target_sizes(height, width)
        return max(h for _, h, _ in sizes), max(w for _, _, w in sizes)


def _rounded(side: float) -> int:
    return max(1, math.floor(side + 0.5))


def resample(pixels: Pixels, size: Size) -> Pixels:
    """`pixels`, uint8 [h, w, 3], at another (height, width); the same array where it has it already.

    Bilinear, with the triangle widened by the factor where it shrinks (antialiased). Bilinear is what the nets of the
    field were trained on: Caffe's `convert_imageset` and `caffe.io.resize_image` (OpenCV's and scikit-image's, order
    1), and torchvision's Resize, whose antialiased form is this very function of Pillow. It never overshoots, unlike
    bicubic and Lanczos.
    """
    if pixels.shape[:2] == tuple(size):
        return pixels
    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))
