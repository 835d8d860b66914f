"""An image as the model is to see it: decoded, and resampled to every scale. Runs where images are decoded."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import JobError
from pipeline.images.decode import DecodeLimits, Pixels, decode, header
from pipeline.images.resize import Scaling, resample
from pipeline.rejection import Reason, Rejected


class ScaledImage(NamedTuple):
    """An image at one scale.

    Attributes:
        scale: The scale that was asked for.
        height: Rows of pixels at that scale.
        width: Columns.
        pixels: uint8 RGB [height, width, 3]; None where the image has to be read by window.
        rejected: Why it cannot be scored at this scale; mostly None.
    """

    scale: float
    height: int
    width: int
    pixels: Pixels | None
    rejected: Rejected | None = None


class ScaledImages(NamedTuple):
    """An image at all scales.

    Attributes:
        height: Rows of pixels of the image as it was read, upright.
        width: Columns.
        views: One for each scale, in order.
    """

    height: int
    width: int
    views: tuple[ScaledImage, ...]


class ScalingLimits(NamedTuple):
    """What becomes a view.

    Attributes:
        decode: What is decoded.
        min_height: Rows of pixels that the model needs, after scaling.
        min_width: Columns.
        whole_pixels: Images with more are not decoded whole where their format can be read by window.
    """

    decode: DecodeLimits
    min_height: int = 1
    min_width: int = 1
    whole_pixels: int = 2**26


def views(data: bytes, limits: ScalingLimits, scaling: Scaling) -> ScaledImages:
    """Decodes an image once and resamples it to every scale.

    An image that has more than `whole_pixels` is left to be read by window at a scale that leaves it as it is. At other
    scales it has to be decoded whole, within the pixels that `limits.decode` allows.

    Raises:
        Rejected: All that `decode` refuses at any scale.
    """
    head = header(data, limits.decode.tiled())
    height, width = head.height, head.width
    huge = head.streams and height * width > min(limits.whole_pixels, limits.decode.max_pixels)
    try:
        sizes = scaling.target_sizes(height, width)
    except JobError as error:  # it would grow too much
        raise Rejected(Reason.TOO_SMALL, error.what) from error
    refused = {scale: _refusal(rows, columns, limits) for scale, rows, columns in sizes}
    by_window = {scale for scale, *size in sizes if huge and size == [height, width]}
    wanted = [(rows, columns) for scale, rows, columns in sizes if not refused[scale] and scale not in by_window]
    whole = None
    if wanted:
        largest = max(rows for rows, _ in wanted), max(columns for _, columns in wanted)
        try:
            whole = decode(data, limits.decode, at_least=largest).pixels
        except Rejected as rejected:
            if not by_window:
                raise
            refused = {scale: refused[scale] or (None if scale in by_window else rejected) for scale in refused}

    def pixels(scale: float, size: tuple[int, int]) -> Pixels | None:
        return None if whole is None or refused[scale] or scale in by_window else resample(whole, size)

    return ScaledImages(
        height,
        width,
        tuple(
            ScaledImage(scale, rows, cols, pixels(scale, (rows, cols)), refused[scale]) for scale, rows, cols in sizes
        ),
    )


def _refusal(height: int, width: int, limits: ScalingLimits) -> Rejected | None:
    if height < limits.min_height or width < limits.min_width:
        least = f"{limits.min_height} x {limits.min_width}"
        return Rejected(Reason.TOO_SMALL, f"{height} rows x {width} columns; at least {least}")
    most = limits.decode.tiled().max_pixels
    if height * width > most:
        return Rejected(Reason.TOO_MANY_PIXELS, f"{height} x {width} is {height * width} pixels; at most {most}")
    return None
