"""Decodes an image file to RGB pixels, or raises a typed rejection.

Pillow decodes; `pipeline.images.formats` decides which parts of the file Pillow sees. Nothing here changes state that
threads share:

- `PIL.Image.open` is not called, because it compares every image with the global `Image.MAX_IMAGE_PIXELS` and warns or
  raises. The plugin classes are instantiated directly, and the limit is `DecodeLimits.max_pixels`.
- `warnings.catch_warnings` is not used, because it replaces the process's filters. Pillow never sees the parts of a
  file that it warns about: tests/pipeline/images/test_decode.py decodes odd files with warnings as errors.
- `ImageFile.LOAD_TRUNCATED_IMAGES` keeps its default, False: a file that ends early raises.

No JPEG decoder detects altered entropy-coded data, which gives altered pixels, or a premature end marker, which gives
grey ones.
"""

import contextlib
import dataclasses
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image

from pipeline.images import formats, jpeg, libvips, tiff
from pipeline.images.samples import Pixels
from pipeline.images.stored_image import StoredImage, open_stored
from pipeline.rejection import Reason, Rejected
from pipeline.settings import LimitSettings

MAX_WIDTH = 2**19
"""The most columns of an image that is read by rows; fewer where a pixel has more than 3 bytes."""


def too_wide(width: int) -> Rejected:
    """Returns the rejection of an image with too many columns to be read by rows."""
    return Rejected(
        Reason.TOO_MANY_PIXELS, f"rows of {width:,} pixels; at most {MAX_WIDTH:,} in an image that is read by rows"
    )


@dataclasses.dataclass(frozen=True)
class DecodeLimits:
    """Which images are decoded.

    Attributes:
        max_pixels: The largest height times width. The default is Pillow's own limit: 2 * (2**28 // 3) pixels.
        formats: The formats to decode, by Pillow's names, from `formats.FORMATS`. No other decoder runs.
        max_tiled_pixels: The largest height times width of an image that is read by rows; see
            `pipeline.images.row_reader`.
        strict: Whether a JPEG needs its end marker. Otherwise it needs all of its pixels.

    Raises:
        ValueError: A number is less than 1, or a format is not one that densecast decodes.
    """

    max_pixels: int = LimitSettings.max_pixels
    formats: tuple[str, ...] = formats.FORMATS
    max_tiled_pixels: int = LimitSettings.max_tiled_pixels
    strict: bool = LimitSettings.strict_images

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_tiled_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        unknown = [name for name in self.formats if name not in formats.FORMATS]
        if unknown or not self.formats:
            raise ValueError(
                f"formats are {', '.join(self.formats) or 'none'}; densecast decodes {', '.join(formats.FORMATS)}"
            )

    def tiled(self) -> "DecodeLimits":
        """Returns the limits for an image that is read by rows: `header(data, limits.tiled())` accepts a huge image."""
        return dataclasses.replace(self, max_pixels=max(self.max_pixels, self.max_tiled_pixels))


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """The header of a file's first image.

    Attributes:
        format: Pillow's name of the format.
        mode: Pillow's name of the file's pixel mode (`RGB`, `L`, `P`, `CMYK`, `I;16`, ...).
        orientation: EXIF orientation, 1 to 8: how the stored image has to be turned.
        height: Rows of pixels of the upright image.
        width: Columns of pixels of the upright image.
        streams: Whether the rows can be decoded from top to bottom, in bounded memory, to the same pixels as by
            `decode`.
    """

    format: str
    mode: str
    orientation: int
    height: int
    width: int
    streams: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImage:
    """A decoded image, upright.

    Attributes:
        pixels: uint8 [height, width, 3], RGB, C-contiguous, read-only.
        format: Pillow's name of the file's format.
        mode: Pillow's name of the file's pixel mode, before the conversion to RGB.
        orientation: EXIF orientation of the file, 1 to 8; already applied to `pixels`.
        height: Rows of pixels in the file, upright; more than `pixels` has if the image was decoded at a lower size.
        width: Columns of pixels in the file, likewise.
    """

    pixels: Pixels
    format: str
    mode: str
    orientation: int
    height: int
    width: int


def header(data: formats.File, limits: DecodeLimits, *, grey: bool = False) -> ImageHeader:
    """Returns the header of `data`, a whole file, without decoding pixels.

    Args:
        data: The bytes of a whole file.
        limits: Which images are decoded.
        grey: See `decode`.

    Raises:
        Rejected: `decode` would reject the file before it decodes pixels.
    """
    with rejecting(data) as state, _open(data, limits, state, whole=False) as (image, container):
        described = _described(image, container)
        if grey and described.streams and described.format == "JPEG" and jpeg.luma_parts(data) is None:
            described = dataclasses.replace(described, streams=False)
        return described


def decode(
    data: formats.File, limits: DecodeLimits, at_least: tuple[int, int] | None = None, *, grey: bool = False
) -> DecodedImage:
    """Decodes the first image of a file to upright RGB.

    - Alpha is dropped, not blended: the stored colours are used unchanged, as in Caffe's own readers (OpenCV's
      IMREAD_COLOR in `ReadImageToCVMat`; `caffe.io.load_image` takes the first three channels). The same holds for
      transparency given by a palette, a colour key or a GIF, and for associated (premultiplied) alpha in a TIFF.
    - Grey is repeated in three channels. 16-bit grey becomes round(v * 255 / 65535), 12-bit TIFF round(v * 255 / 4095).
      Of other 16-bit samples (RGB, grey with alpha) Pillow keeps the high byte, as libpng and OpenCV do.
    - CMYK is converted without a profile. In JPEG, CMYK and YCCK are treated as inverted: Photoshop began this, and all
      readers follow. Colour profiles are ignored, as in Caffe's readers.
    - Of an animation or a multi-page file, the first image is decoded. In a GIF it may be smaller than the screen; the
      rest has the background colour, or is black if the file has none.
    - The orientation is that of EXIF (in JPEG, PNG, WebP) or of the TIFF tag. XMP is not read.
    - A JPEG without its end marker is decoded if it has all of its pixels, as viewers do.

    Args:
        data: The bytes of a whole file.
        limits: Which images are decoded.
        at_least: (height, width) that the caller needs. A JPEG with at least four times as many rows and columns is
            decoded at 1/2, 1/4 or 1/8 of its size: the smallest size with twice the rows and columns needed. The result
            of scaling that down differs slightly from scaling the full size down (by less than 0.4 of 255 in the mean),
            and it needs a fraction of the time and memory.
        grey: Whether the pixels are for a net that takes grey images. Then a colour JPEG gives its luma, repeated in
            three channels: libjpeg's grey, as in Caffe's own reader (OpenCV's IMREAD_GRAYSCALE in `ReadImageToCVMat`).
            The luma of the decoded colours differs from it where they were clipped to 0 to 255.

    Raises:
        Rejected: EMPTY, UNKNOWN_FORMAT, FORMAT_NOT_ALLOWED, TOO_MANY_PIXELS or UNSUPPORTED_MODE, before any pixel is
            decoded; TRUNCATED, CORRUPT, OUT_OF_MEMORY.
        ValueError: `at_least` is not positive.
    """
    if at_least is not None and min(at_least) < 1:
        raise ValueError(f"at_least is {at_least}; both must be at least 1")
    try:
        return _decode(data, limits, at_least, grey=grey)
    except Rejected as rejected:
        completed = None
        if rejected.reason is Reason.TRUNCATED and not limits.strict and formats.sniff(data) == "JPEG":
            completed = _with_end(data)
        if completed is None:
            raise
    return _decode(completed, limits, at_least, grey=grey)


def _with_end(data: formats.File) -> bytes | None:
    """Returns a JPEG that lacks its end marker with one; None if it lacks pixels too.

    libjpeg invents pixels that are missing, and warns. Pillow does not pass on the warning, libvips does.
    """
    completed = bytes(data) + jpeg.END
    if jpeg.has_all_scans(data) and not libvips.warnings_of_jpeg(completed):
        return completed
    return None


def _decode(data: formats.File, limits: DecodeLimits, at_least: tuple[int, int] | None, *, grey: bool) -> DecodedImage:
    with rejecting(data) as state, _open(data, limits, state, whole=True) as (image, container):
        described = _described(image, container)
        if at_least is not None and described.orientation > 4:
            at_least = at_least[::-1]
        pixels = np.ascontiguousarray(_upright(image.load(at_least, grey=grey), described.orientation))
        pixels.setflags(write=False)
        return DecodedImage(
            pixels, described.format, described.mode, described.orientation, described.height, described.width
        )


_STREAMED = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L", "I;16N"})

_FAILURES = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    AttributeError,
    AssertionError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow's plugins raise on hostile data, or may raise according to their source."""

_UNSUPPORTED = ("unknown pixel mode", "cannot handle", "unsupported bmp", "not yet supported", "unknown raw mode")
"""Parts of Pillow's messages about valid files of a kind that it does not read."""


@dataclasses.dataclass
class _FileState:
    """What is known about a file while it is read; a rejection is derived from it."""

    format: str = ""
    complete: bool = True


@contextlib.contextmanager
def rejecting(data: formats.File) -> Iterator[_FileState]:
    """Turns Pillow's exceptions into `Rejected`."""
    if not data:
        raise Rejected(Reason.EMPTY)
    state = _FileState()
    try:
        yield state
    except MemoryError as error:
        raise Rejected(Reason.OUT_OF_MEMORY, f"{state.format}: the pixels do not fit in memory") from error
    except _FAILURES as error:
        raise Rejected(_reason(error, state), f"{state.format}: {error or type(error).__name__}") from error


def _reason(error: Exception, state: _FileState) -> Reason:
    text = str(error).lower()
    if "out of memory" in text or text == "decoder error -9":
        return Reason.OUT_OF_MEMORY
    if any(part in text for part in _UNSUPPORTED):
        return Reason.UNSUPPORTED_MODE
    # If a header is cut short, plugins raise a SyntaxError from the original exception.
    early = isinstance(error.__cause__ or error, (EOFError, IndexError, struct.error))
    if not state.complete or early or "truncated" in text or "not enough image data" in text or "reached eof" in text:
        return Reason.TRUNCATED
    return Reason.CORRUPT


@contextlib.contextmanager
def _open(
    data: formats.File, limits: DecodeLimits, state: _FileState, *, whole: bool
) -> Iterator[tuple[StoredImage, formats.Container]]:
    """Opens the first image of `data`, and rejects what can be rejected without decoding its pixels.

    Yields:
        The image, whose pixels can be loaded only if `whole`, and its container with the orientation filled in.
    """
    state.format = formats.sniff(data)
    if state.format and state.format not in limits.formats:
        raise Rejected(Reason.FORMAT_NOT_ALLOWED, f"{state.format}; allowed are {', '.join(limits.formats)}")
    container = formats.read(data)
    state.complete = container.complete
    if container.size is not None and container.orientation is not None:
        _check_size(*container.size, container.orientation, limits)
    if container.tile and container.tile[0] * container.tile[1] > limits.max_pixels:
        raise Rejected(Reason.TOO_MANY_PIXELS, f"tiles of {container.tile[0]} x {container.tile[1]}")
    if container.flaw:
        raise container.flaw
    with open_stored(container, whole=whole) as image:
        if container.orientation is None:
            container = dataclasses.replace(container, orientation=tiff.exif_orientation(image.exif))
        size = (image.height, image.width)
        if container.size not in (None, size):
            raise Rejected(Reason.CORRUPT, f"{container.format}: its headers contradict each other on the size")
        _check_size(*size, container.orientation or 1, limits)
        yield image, container


def _check_size(height: int, width: int, orientation: int, limits: DecodeLimits) -> None:
    """Rejects an image whose stored `height` and `width` are not positive or are beyond the limits."""
    if height < 1 or width < 1:
        raise Rejected(Reason.CORRUPT, f"an image of {height} rows and {width} columns")
    if height * width > limits.max_pixels:
        if orientation >= 5:
            height, width = width, height
        raise Rejected(
            Reason.TOO_MANY_PIXELS, f"{height} x {width} is {height * width} pixels; at most {limits.max_pixels}"
        )


def _described(image: StoredImage, container: formats.Container) -> ImageHeader:
    orientation = container.orientation or 1
    height, width = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    streams = container.streams and orientation == 1 and image.mode in _STREAMED and not container.by_libvips
    return ImageHeader(container.format, image.mode, orientation, height, width, streams)


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """Returns a view of `pixels`, turned according to EXIF 2.32 (section 4.6.4, tag 0x0112); orientation is 1 to 8."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
