"""Bytes of an image file into RGB pixels, or a typed rejection.

Pillow decodes; `pipeline.images.formats` decides what it sees. Nothing here touches state that other threads share:

- `PIL.Image.open` is not called, because it compares every image with the global `Image.MAX_IMAGE_PIXELS` and warns or
  raises. The plugins' classes are instantiated directly; the limit is `DecodeLimits.max_pixels`.
- `warnings.catch_warnings` is not used, because it replaces the process's filters. Nothing that Pillow warns of reaches
  it: tests/pipeline/test_decoding.py decodes odd files with warnings as errors.
- `ImageFile.LOAD_TRUNCATED_IMAGES` stays as it is, False: a file that ends early raises.

What no decoder of JPEG detects: altered entropy-coded data gives altered pixels, and a premature end marker grey ones.
"""

import contextlib
import dataclasses
import functools
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.PpmImagePlugin import PpmImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from pipeline.images import formats, tiff
from pipeline.rejection import Reason, Rejected
from pipeline.settings import LimitSettings

Pixels: TypeAlias = npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class DecodeLimits:
    """What is decoded at all.

    Attributes:
        max_pixels: Height times width at most. The default is where Pillow itself raises: 2 * (2**28 // 3) pixels.
        min_height: Rows at least, the image upright.
        min_width: Columns at least, the image upright.
        formats: Pillow's names of the formats to decode, among `containers.FORMATS`; no other decoder runs.
        max_tiled_pixels: Height times width at most of an image that is read by rows; see `pipeline.images.row_reader`.

    Raises:
        ValueError: A number is less than 1, or a format is not one that densecast decodes.
    """

    max_pixels: int = LimitSettings.max_pixels
    min_height: int = 1
    min_width: int = 1
    formats: tuple[str, ...] = formats.FORMATS
    max_tiled_pixels: int = 2**34

    def __post_init__(self) -> None:
        for name in ("max_pixels", "min_height", "min_width", "max_tiled_pixels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        unknown = [name for name in self.formats if name not in formats.FORMATS]
        if unknown or not self.formats:
            raise ValueError(
                f"formats are {', '.join(self.formats) or 'none'}; densecast decodes {', '.join(formats.FORMATS)}"
            )

    def tiled(self) -> "DecodeLimits":
        """Those of an image that is read by rows: `header(data, limits.tiled())` says the size of a huge one."""
        return dataclasses.replace(self, max_pixels=max(self.max_pixels, self.max_tiled_pixels))


@dataclasses.dataclass(frozen=True)
class ImageHeader:
    """What a file says of its first image.

    Attributes:
        format: Pillow's name of the format.
        mode: Pillow's name of the file's pixel mode (`RGB`, `L`, `P`, `CMYK`, `I;16`, ...).
        orientation: EXIF orientation, 1 to 8: how the stored image has to be turned.
        height: Rows, the image upright.
        width: Columns, the image upright.
        streams: Whether its rows can be decoded from top to bottom, at a bounded memory, to the pixels that `decode`
            gives.
    """

    format: str
    mode: str
    orientation: int
    height: int
    width: int
    streams: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image, upright.

    Attributes:
        pixels: uint8 [height, width, 3], RGB, C-contiguous, read-only.
        format: Pillow's name of the file's format.
        mode: Pillow's name of the file's pixel mode, before the conversion to RGB.
        orientation: EXIF orientation of the file, 1 to 8; already applied to `pixels`.
        height: Rows of the file's image, upright; more than `pixels` has where it was decoded smaller.
        width: Columns likewise.
    """

    pixels: Pixels
    format: str
    mode: str
    orientation: int
    height: int
    width: int


def header(data: formats.File, limits: DecodeLimits) -> ImageHeader:
    """Reads the header of `data`, which is a whole file, and decodes no pixel.

    Raises:
        Rejected: All that `decode` would refuse before it decodes pixels.
    """
    with _rejecting(data) as fate, _open(data, limits, fate, whole=False) as (image, found):
        return _described(image, found)


def decode(data: formats.File, limits: DecodeLimits, at_least: tuple[int, int] | None = None) -> DecodedImage:
    """Decodes the first image of `data`, the bytes of a whole file, to upright RGB.

    With `at_least`, a JPEG that has at least four times that many rows and columns is decoded at 1/2, 1/4 or 1/8, the
    smallest of those that has twice as many of both. Scaled down from there it differs a little from one scaled down
    from all pixels (by less than 0.4 of 255 in the mean); it takes a fraction of the time and memory.

    - Alpha is dropped, not blended: the stored colours are taken as they are, as Caffe's own readers do (OpenCV's
      IMREAD_COLOR in `ReadImageToCVMat`; `caffe.io.load_image` takes the first three channels). So is transparency
      stated by a palette, a colour key or a GIF.
    - Grey is repeated in three channels. 16-bit grey becomes round(v * 255 / 65535), 12-bit TIFF round(v * 255 / 4095);
      of other 16-bit samples (RGB, grey with alpha) Pillow, as libpng and OpenCV, keeps the high byte.
    - CMYK is converted without a profile; in JPEG both CMYK and YCCK are taken as inverted, as all readers do since
      Photoshop. Colour profiles are ignored, as Caffe's readers do.
    - Of animations and multi-page files, the first image.
    - Orientation is EXIF's (in JPEG, PNG, WebP) or TIFF's own tag; one stated in XMP alone is not followed.

    Raises:
        Rejected: EMPTY, UNKNOWN_FORMAT, FORMAT_NOT_ALLOWED; TOO_MANY_PIXELS, TOO_SMALL, UNSUPPORTED_MODE, all from the
            header before any pixel is decoded; TRUNCATED, CORRUPT, OUT_OF_MEMORY.
        ValueError: `at_least` is not positive.
    """
    if at_least is not None and min(at_least) < 1:
        raise ValueError(f"at_least is {at_least}; both must be at least 1")
    with _rejecting(data) as fate, _open(data, limits, fate, whole=True) as (image, found):
        described = _described(image, found)
        if at_least is not None:
            # As Image.thumbnail does (reducing_gap 2). Formats other than JPEG ignore it.
            height, width = at_least if described.orientation <= 4 else at_least[::-1]
            image.draft(None, (_GAP * width, _GAP * height))
        if isinstance(image, TiffImageFile):
            # Pillow allocates a TIFF's pixels, unlike other formats', after a look at the global MAX_IMAGE_PIXELS.
            image.im = Image.new(image.mode, image.size).im
        image.load()
        pixels = np.ascontiguousarray(_upright(_rgb(image, found), described.orientation))
        pixels.setflags(write=False)
        return DecodedImage(
            pixels, described.format, described.mode, described.orientation, described.height, described.width
        )


class _Jpeg(JpegImageFile):
    def _open(self) -> None:
        # Where the density is known Pillow does not look for it in EXIF, whose damages it warns of.
        self.info["dpi"] = (72, 72)
        super()._open()


_PLUGINS: dict[str, type[ImageFile]] = {
    "JPEG": _Jpeg,
    "PNG": PngImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "GIF": GifImageFile,
    "TIFF": TiffImageFile,
    "PPM": PpmImageFile,
}

_GAP = 2
"""What decodes smaller leaves the rest of the way to a filter that averages; Pillow's choice for good quality."""

_TO_RGB = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"})
"""Pillow's modes of 8 bits a channel at most, whose conversion to RGB depends on nothing but the pixel."""

_STREAMED = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "RGBX", "I;16", "I;16B", "I;16L", "I;16N"})

_GREY16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})

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
"""What Pillow's plugins raise, or by their source may raise, on hostile data."""

_UNSUPPORTED = ("unknown pixel mode", "cannot handle", "unsupported bmp", "not yet supported", "unknown raw mode")
"""Parts of Pillow's messages about files that are in order and of a kind that it does not read."""


@dataclasses.dataclass
class _Fate:
    """What is known of a file while it is read, for the rejection that it may end in."""

    format: str = ""
    complete: bool = True


@contextlib.contextmanager
def _rejecting(data: formats.File) -> Iterator[_Fate]:
    """Turns what Pillow raises into `Rejected`."""
    if not data:
        raise Rejected(Reason.EMPTY)
    fate = _Fate()
    try:
        yield fate
    except MemoryError as error:
        raise Rejected(Reason.OUT_OF_MEMORY, f"{fate.format}: the pixels do not fit in memory") from error
    except _FAILURES as error:
        raise Rejected(_reason(error, fate), f"{fate.format}: {error or type(error).__name__}") from error


def _reason(error: Exception, fate: _Fate) -> Reason:
    text = str(error).lower()
    if "out of memory" in text or text == "decoder error -9":
        return Reason.OUT_OF_MEMORY
    if any(part in text for part in _UNSUPPORTED):
        return Reason.UNSUPPORTED_MODE
    # Plugins hide what a header cut short raises in a SyntaxError.
    early = isinstance(error.__cause__ or error, (EOFError, IndexError, struct.error))
    if not fate.complete or early or "truncated" in text or "not enough image data" in text or "reached eof" in text:
        return Reason.TRUNCATED
    return Reason.CORRUPT


@contextlib.contextmanager
def _open(
    data: formats.File, limits: DecodeLimits, fate: _Fate, *, whole: bool
) -> Iterator[tuple[ImageFile, formats.Container]]:
    """Opens the first image of `data` and refuses what can be refused without its pixels.

    Gives the image, which has pixels only if `whole`, and its container, orientation filled in.
    """
    fate.format = formats.sniff(data)
    if fate.format and fate.format not in limits.formats:
        raise Rejected(Reason.FORMAT_NOT_ALLOWED, f"{fate.format}; allowed are {', '.join(limits.formats)}")
    found = formats.read(data)
    fate.complete = found.complete
    if found.size is not None and found.orientation is not None:
        _check_size(*found.size, found.orientation, limits)
    if found.tile and found.tile[0] * found.tile[1] > limits.max_pixels:
        raise Rejected(Reason.TOO_MANY_PIXELS, f"tiles of {found.tile[0]} x {found.tile[1]}")
    if found.flaw:
        raise found.flaw
    # Decoders want the file in one piece; a header is read where it lies.
    stream: Any = io.BytesIO(found.data) if whole else formats.Joined(found.parts)
    with stream, _PLUGINS[found.format](stream, "") as image:
        if found.orientation is None:
            found = dataclasses.replace(found, orientation=tiff.orientation(image.info.get("exif", b"")))
        size = (image.height, image.width)
        if found.size not in (None, size):
            raise Rejected(Reason.CORRUPT, f"{found.format}: its headers contradict each other on the size")
        _check_size(*size, found.orientation or 1, limits)
        if not (image.mode in _TO_RGB or image.mode in _GREY16 or _is_16_bit_ppm(image)):
            raise Rejected(Reason.UNSUPPORTED_MODE, f"{found.format} of mode {image.mode}")
        yield image, found


def _check_size(height: int, width: int, orientation: int, limits: DecodeLimits) -> None:
    """`height` and `width` as stored."""
    if height < 1 or width < 1:
        raise Rejected(Reason.CORRUPT, f"an image of {height} rows and {width} columns")
    if orientation >= 5:
        height, width = width, height
    if height * width > limits.max_pixels:
        raise Rejected(
            Reason.TOO_MANY_PIXELS, f"{height} x {width} is {height * width} pixels; at most {limits.max_pixels}"
        )
    if height < limits.min_height or width < limits.min_width:
        raise Rejected(
            Reason.TOO_SMALL, f"{height} rows x {width} columns; at least {limits.min_height} x {limits.min_width}"
        )


def _described(image: ImageFile, found: formats.Container) -> ImageHeader:
    orientation = found.orientation or 1
    height, width = (image.width, image.height) if orientation >= 5 else (image.height, image.width)
    streams = found.streams and orientation == 1 and image.mode in _STREAMED
    return ImageHeader(found.format, image.mode, orientation, height, width, streams)


def _is_16_bit_ppm(image: ImageFile) -> bool:
    # Mode I is 32-bit integers of any range; only Pillow's PGM reader fills it with 0 to 65535.
    return image.mode == "I" and isinstance(image, PpmImageFile)


def _rgb(image: ImageFile, found: formats.Container) -> Pixels:
    """uint8 [h, w, 3] of a loaded image, as stored."""
    if image.mode in _TO_RGB:
        # With transparency in its info, convert() looks for its colour in the palette, and warns.
        image.info.pop("transparency", None)
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    return grey_16(np.asarray(image), found.largest, inverted=found.inverted)


def grey_16(samples: npt.NDArray[Any], largest: int = 65535, *, inverted: bool = False) -> Pixels:
    """uint8 [h, w, 3] of grey samples, integer [h, w], whose highest value is `largest`."""
    table = _to_8_bits(largest, inverted)
    grey = np.empty(samples.shape, np.uint8)
    # By rows: an index array costs 8 bytes a sample.
    for row in range(samples.shape[0]):
        grey[row] = table[samples[row]]
    return np.repeat(grey[:, :, np.newaxis], 3, axis=2)


@functools.cache
def _to_8_bits(largest: int, inverted: bool) -> Pixels:
    """uint8 [65536]: round(v * 255 / largest); no v lies halfway, 2 * 255 * v being even and `largest` odd."""
    values = np.minimum(np.arange(2**16, dtype=np.int64), largest)
    table = ((values * 255 * 2 + largest) // (2 * largest)).astype(np.uint8)
    return 255 - table if inverted else table


def _upright(pixels: Pixels, orientation: int) -> Pixels:
    """A view of `pixels` turned as EXIF 2.32 (section 4.6.4, tag 0x0112) says; orientation 1 to 8."""
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels
