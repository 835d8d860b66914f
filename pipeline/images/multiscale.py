"""An image as the model sees it: decoded and resampled to every scale. Runs in the process that decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from pipeline.errors import JobError
from pipeline.images.decode import MAX_WIDTH, DecodeLimits, decode, header, too_wide
from pipeline.images.frames import count_frames
from pipeline.images.resize import WINDOWS_SCALE, Scaling, Size, WindowResize, resample
from pipeline.images.samples import Pixels
from pipeline.rejection import Reason, Rejected

if TYPE_CHECKING:
    from pipeline.images.window_filters import Floats32

_BYTES_OF_A_PIXEL = 7
"""What decoding takes of memory: 4 bytes in Pillow's image, and 3 as RGB."""

_BYTES_OF_A_WINDOW_PIXEL = 128
"""What resizing for windows takes at most for a pixel of the result: float64 of three channels, several times."""
_LARGEST_FOR_WINDOWS = 1 << 24
"""Pixels of an image that windows are cut from: a strip whose shorter side grows to 256 may be 65,536 long."""
_BYTES_OF_A_WEBP_PIXEL = 16
"""The same of WebP, whose decoder for animations has pictures of its own."""


class ScaledImage(NamedTuple):
    """An image at one scale.

    Attributes:
        scale: One of `Scaling.scales`.
        height: Rows of pixels at that scale.
        width: Columns of pixels at that scale.
        pixels: uint8 RGB [height, width, 3]; None if the image has to be read by rows, is rejected, or is resized for
            windows.
        rejected: Why the image cannot be scored at this scale; None if it can.
        for_windows: At `WINDOWS_SCALE`: float32 or uint8 RGB [height, width, 3], from which windows are cut.
    """

    scale: float
    height: int
    width: int
    pixels: Pixels | None
    rejected: Rejected | None = None
    for_windows: Floats32 | Pixels | None = None

    @property
    def by_rows(self) -> bool:
        """Whether the image has to be read by rows."""
        return self.pixels is None and self.rejected is None and self.for_windows is None

    @property
    def nbytes(self) -> int:
        """The bytes of memory that its pixels take."""
        return sum(array.nbytes for array in (self.pixels, self.for_windows) if array is not None)


class ScaledImages(NamedTuple):
    """An image at all scales.

    Attributes:
        height: Rows of pixels of the image as read, upright.
        width: Columns of pixels of the same.
        images: One for each scale, in order.
        frames: The number of frames of the file, of which the first was decoded.
    """

    height: int
    width: int
    images: tuple[ScaledImage, ...]
    frames: int = 1


class ScalingLimits(NamedTuple):
    """Which images are decoded and scaled.

    Attributes:
        decode: The limits on files.
        minimum_size: (height, width) in pixels that the model needs, after scaling.
        whole_pixels: An image with more pixels than this is not decoded whole if its format can be read by rows.
        grey: Whether the model takes grey images; see `decode`.
    """

    decode: DecodeLimits
    minimum_size: Size = (1, 1)
    whole_pixels: int = 2**26
    grey: bool = False


class NeededBytes(NamedTuple):
    """The memory that decoding takes, where that is more than was granted; nothing was decoded.

    Attributes:
        size: Bytes.
    """

    size: int


def decode_scaled(
    data: bytes, limits: ScalingLimits, scaling: Scaling, granted: int | None = None
) -> ScaledImages | NeededBytes:
    """Decodes an image once and resamples it to every scale.

    An image with more than `whole_pixels` pixels is left to be read by rows at a scale that keeps its size. For other
    scales it is decoded whole if it has no more pixels than `limits.decode` allows.

    Args:
        data: The image file.
        limits: Which images are decoded and scaled.
        scaling: The sizes to scale to.
        granted: The bytes that decoding may take besides the file; None for any number.

    Raises:
        Rejected: The image cannot be decoded, for any of the reasons of `decode`, or would have to grow too much.
    """
    head = header(data, limits.decode.tiled(), grey=limits.grey)
    height, width = head.height, head.width
    if head.streams and width > MAX_WIDTH and height * width > limits.decode.max_pixels:
        raise too_wide(width)
    by_rows = (
        head.streams and width <= MAX_WIDTH and height * width > min(limits.whole_pixels, limits.decode.max_pixels)
    )
    try:
        sizes = scaling.target_sizes(height, width)
        refusals = {scale: _refusal(rows, columns, limits) for scale, rows, columns in sizes}
    except JobError as error:  # it would have to grow too much
        too_small = Rejected(Reason.TOO_SMALL, error.what)
        if scaling.windows is None:
            raise too_small from error
        sizes = tuple((scale, height, width) for scale in scaling.scales)
        refusals = dict.fromkeys(scaling.scales, too_small)
    unread = {scale for scale, *size in sizes if by_rows and size == [height, width]}
    wanted = [(rows, columns) for scale, rows, columns in sizes if not refusals[scale] and scale not in unread]
    of_a_pixel = _BYTES_OF_A_WEBP_PIXEL if head.format == "WEBP" else _BYTES_OF_A_PIXEL
    needed = of_a_pixel * height * width + sum(3 * rows * columns for rows, columns in wanted)
    needed += _needed_for_windows(scaling.windows, height, width)
    # An image that is too large is rejected by `decode`, at no cost.
    if (
        (wanted or scaling.windows)
        and granted is not None
        and granted < needed
        and height * width <= limits.decode.max_pixels
    ):
        return NeededBytes(needed)
    whole = None
    if wanted:
        largest = max(rows for rows, _ in wanted), max(columns for _, columns in wanted)
        try:
            whole = decode(data, limits.decode, at_least=largest, grey=limits.grey).pixels
        except Rejected as rejected:
            if not unread:
                raise
            refusals = {scale: refusals[scale] or (None if scale in unread else rejected) for scale in refusals}

    def pixels(scale: float, size: Size) -> Pixels | None:
        return None if whole is None or refusals[scale] or scale in unread else resample(whole, size)

    images = [
        ScaledImage(scale, rows, columns, pixels(scale, (rows, columns)), refusals[scale])
        for scale, rows, columns in sizes
    ]
    if scaling.windows is not None:
        # A JPEG may have been decoded smaller for the scales: Caffe's programs decode it whole.
        usable = whole if whole is not None and whole.shape[:2] == (height, width) else None
        images.append(_for_windows(data, limits, scaling.windows, size=(height, width), whole=usable))
    return ScaledImages(height, width, tuple(images), count_frames(data))


def _needed_for_windows(windows: WindowResize | None, height: int, width: int) -> int:
    """Returns the bytes that resizing an image for windows takes."""
    if windows is None:
        return 0
    rows, columns = windows.target_size(height, width)
    return _BYTES_OF_A_WINDOW_PIXEL * min(rows * columns, _LARGEST_FOR_WINDOWS)


def _for_windows(
    data: bytes, limits: ScalingLimits, windows: WindowResize, *, size: Size, whole: Pixels | None
) -> ScaledImage:
    """Returns an image of (height, width) `size`, resized for windows; `whole` are its pixels, if they are known."""
    rows, columns = windows.target_size(*size)
    most = min(limits.decode.max_pixels, _LARGEST_FOR_WINDOWS)
    if rows * columns > most:
        detail = f"{rows} x {columns} is {rows * columns} pixels; at most {most}"
        return ScaledImage(WINDOWS_SCALE, rows, columns, None, Rejected(Reason.TOO_MANY_PIXELS, detail))
    try:
        pixels = decode(data, limits.decode, grey=limits.grey).pixels if whole is None else whole
    except Rejected as rejected:
        return ScaledImage(WINDOWS_SCALE, rows, columns, None, rejected)
    # A decoder process that starts loads only what it needs.
    from pipeline.images.window_filters import resize_for_windows

    if limits.grey:
        from conversion import luma

        pixels = np.repeat(luma(pixels)[:, :, None], 3, axis=2)
    resized = resize_for_windows(pixels, (rows, columns), windows.filter)
    return ScaledImage(WINDOWS_SCALE, rows, columns, None, for_windows=resized)


def _refusal(height: int, width: int, limits: ScalingLimits) -> Rejected | None:
    rows, columns = limits.minimum_size
    if height < rows or width < columns:
        return Rejected(Reason.TOO_SMALL, f"{height} rows x {width} columns; at least {rows} x {columns}")
    most = limits.decode.tiled().max_pixels
    if height * width > most:
        return Rejected(Reason.TOO_MANY_PIXELS, f"{height} x {width} is {height * width} pixels; at most {most}")
    return None
