"""An image as the model sees it: decoded and resampled to every scale. Runs in the process that decodes."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import JobError
from pipeline.images.decode import MAX_WIDTH, DecodeLimits, decode, header, too_wide
from pipeline.images.frames import count_frames
from pipeline.images.resize import Scaling, Size, resample
from pipeline.images.samples import Pixels
from pipeline.rejection import Reason, Rejected

_BYTES_OF_A_PIXEL = 7
"""What decoding takes of memory: 4 bytes in Pillow's image, and 3 as RGB."""

_BYTES_OF_A_WEBP_PIXEL = 16
"""The same of WebP, whose decoder for animations has pictures of its own."""


class ScaledImage(NamedTuple):
    """An image at one scale.

    Attributes:
        scale: One of `Scaling.scales`.
        height: Rows of pixels at that scale.
        width: Columns of pixels at that scale.
        pixels: uint8 RGB [height, width, 3]; None if the image has to be read by rows, or is rejected.
        rejected: Why the image cannot be scored at this scale; None if it can.
    """

    scale: float
    height: int
    width: int
    pixels: Pixels | None
    rejected: Rejected | None = None


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
    except JobError as error:  # it would have to grow too much
        raise Rejected(Reason.TOO_SMALL, error.what) from error
    refusals = {scale: _refusal(rows, columns, limits) for scale, rows, columns in sizes}
    unread = {scale for scale, *size in sizes if by_rows and size == [height, width]}
    wanted = [(rows, columns) for scale, rows, columns in sizes if not refusals[scale] and scale not in unread]
    of_a_pixel = _BYTES_OF_A_WEBP_PIXEL if head.format == "WEBP" else _BYTES_OF_A_PIXEL
    needed = of_a_pixel * height * width + sum(3 * rows * columns for rows, columns in wanted)
    # An image that is too large is rejected by `decode`, at no cost.
    if wanted and granted is not None and granted < needed and height * width <= limits.decode.max_pixels:
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

    return ScaledImages(
        height,
        width,
        tuple(
            ScaledImage(scale, rows, columns, pixels(scale, (rows, columns)), refusals[scale])
            for scale, rows, columns in sizes
        ),
        count_frames(data),
    )


def _refusal(height: int, width: int, limits: ScalingLimits) -> Rejected | None:
    rows, columns = limits.minimum_size
    if height < rows or width < columns:
        return Rejected(Reason.TOO_SMALL, f"{height} rows x {width} columns; at least {rows} x {columns}")
    most = limits.decode.tiled().max_pixels
    if height * width > most:
        return Rejected(Reason.TOO_MANY_PIXELS, f"{height} x {width} is {height * width} pixels; at most {most}")
    return None
