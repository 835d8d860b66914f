"""The decoders of stored images: Pillow, and libvips for what Pillow does not read.

The pixels are those of the file: not turned upright. `pipeline.images.decode` has the rules.
"""

import contextlib
import functools
import importlib
import io
from collections.abc import Iterator, Sequence
from typing import IO, Protocol, cast

import numpy as np
from PIL import Image
from PIL.ImageFile import ImageFile

from pipeline.images import bmp, formats, libvips
from pipeline.images.samples import Pixels, grey_16, high_byte, to_rgb
from pipeline.rejection import Reason, Rejected

_ROWS_AT_ONCE = 64
_PIXELS_AT_ONCE = 2**20

_GAP = 2
"""An image decoded smaller keeps this factor for the averaging filter; Pillow's value for good quality."""

_TO_RGB = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr"})
"""Pillow's modes of at most 8 bits per channel, whose conversion to RGB depends only on the pixel."""

_GREY16 = frozenset({"I;16", "I;16B", "I;16L", "I;16N"})

_PLUGINS = {
    "PNG": ("PIL.PngImagePlugin", "PngImageFile"),
    "WEBP": ("PIL.WebPImagePlugin", "WebPImageFile"),
    "BMP": ("PIL.BmpImagePlugin", "BmpImageFile"),
    "GIF": ("PIL.GifImagePlugin", "GifImageFile"),
    "TIFF": ("PIL.TiffImagePlugin", "TiffImageFile"),
    "PPM": ("PIL.PpmImagePlugin", "PpmImageFile"),
}


@functools.cache
def plugin(format_name: str) -> type[ImageFile]:
    """Returns Pillow's class for a format.

    It is imported at the first file of the format: a decoder process that starts loads only what it decodes.
    """
    if format_name == "JPEG":
        return _jpeg_plugin()
    module, name = _PLUGINS[format_name]
    plugin: type[ImageFile] = getattr(importlib.import_module(module), name)
    return plugin


def _jpeg_plugin() -> type[ImageFile]:
    from PIL.JpegImagePlugin import JpegImageFile

    class Jpeg(JpegImageFile):
        def _open(self) -> None:
            # Where the density is known, Pillow does not look for it in EXIF data, whose damage it warns about.
            self.info["dpi"] = (72, 72)
            super()._open()

    return Jpeg


class StoredImage(Protocol):
    """An image as its file stores it.

    Attributes:
        mode: Pillow's name of the pixel mode.
        height: Rows of pixels.
        width: Columns of pixels.
        exif: Its EXIF block; empty where the orientation is known without it.
    """

    mode: str
    height: int
    width: int
    exif: bytes

    def load(self, at_least: tuple[int, int] | None, *, grey: bool) -> Pixels:
        """Returns the pixels, uint8 [h, w, 3], h and w not less than `at_least`; see `decode`."""


class _PillowImage:
    """An image that Pillow decodes; see `StoredImage`."""

    def __init__(self, image: ImageFile, container: formats.Container) -> None:
        self.mode, self.height, self.width = image.mode, image.height, image.width
        if container.canvas is not None:
            self.height, self.width = container.canvas[:2]
        self.exif: bytes = image.info.get("exif", b"")
        self._image, self._container = image, container

    def load(self, at_least: tuple[int, int] | None, *, grey: bool) -> Pixels:
        image = self.loaded(at_least, grey=grey)
        if image.mode not in _TO_RGB:
            return grey_16(np.asarray(image), self._container.largest)
        # If its info has a transparency, convert() looks for that colour in the palette and warns.
        image.info.pop("transparency", None)
        canvas = self._container.canvas
        return _rgb(image) if canvas is None else _on_canvas(_rgb(image), canvas)

    def loaded(self, at_least: tuple[int, int] | None = None, *, grey: bool = False) -> ImageFile:
        """Returns Pillow's image, with its pixels."""
        image = self._image
        # As Image.thumbnail does (reducing_gap 2). Formats other than JPEG ignore it.
        size = None if at_least is None else (_GAP * at_least[1], _GAP * at_least[0])
        image.draft("L" if grey else None, size)
        if self._container.format == "TIFF":
            # For TIFF alone, Pillow compares with the global MAX_IMAGE_PIXELS before it allocates the pixels.
            image.im = Image.new(image.mode, image.size).im
        image.load()
        return image


class _Planes:
    """An image whose samples are stored in separate planes, each decoded by Pillow; see `StoredImage`."""

    def __init__(self, container: formats.Container, first: _PillowImage) -> None:
        self.mode, self.exif = {1: "L", 3: "RGB", 4: "CMYK"}[len(container.planes)], b""
        self.height, self.width = first.height, first.width
        self._container = container

    def load(self, at_least: tuple[int, int] | None, *, grey: bool) -> Pixels:  # noqa: ARG002 - only JPEG heeds them
        colours = np.empty((self.height, self.width, len(self._container.planes)), np.uint8)
        for index, parts in enumerate(self._container.planes):
            with _open_by_pillow(self._container, parts, whole=True) as plane:
                image = plane.loaded()
                if image.mode in _GREY16:
                    samples = high_byte(np.asarray(image))
                    colours[..., index] = 255 - samples if self._container.inverted else samples
                else:
                    colours[..., index] = np.asarray(image.convert("L"))
        return to_rgb(colours)


class _RunLengthImage:
    """A run-length encoded BMP; see `StoredImage`."""

    def __init__(self, container: formats.Container, bitmap: bmp.RunLengthBitmap) -> None:
        self.mode, self.exif = "P", b""
        self.height, self.width = bitmap.height, bitmap.width
        self._data, self._bitmap = container.data, bitmap

    def load(self, at_least: tuple[int, int] | None, *, grey: bool) -> Pixels:  # noqa: ARG002 - only JPEG heeds them
        return bmp.decode_run_length(self._data, self._bitmap)


class _LibvipsImage:
    """An image that libvips decodes; see `StoredImage`."""

    def __init__(self, container: formats.Container) -> None:
        self.mode, self.exif = {1: "L", 3: "RGB", 4: "CMYK"}[container.colours], b""
        self.height, self.width = container.size or (0, 0)
        self._container = container

    def load(self, at_least: tuple[int, int] | None, *, grey: bool) -> Pixels:  # noqa: ARG002 - only JPEG heeds them
        pixels = np.empty((self.height, self.width, 3), np.uint8)
        container = self._container
        with formats.Joined(container.parts) as stream, libvips.rejecting("TIFF", complete=container.complete):
            rows = libvips.Rows(stream, container.format, (self.height, self.width), container.colours)
            for row in range(0, self.height, _ROWS_AT_ONCE):
                count = min(_ROWS_AT_ONCE, self.height - row)
                pixels[row : row + count] = rows.fetch(row, count)
        return pixels


def _is_16_bit_ppm(image: ImageFile) -> bool:
    # Mode I holds 32-bit integers of any range; only Pillow's PGM reader limits them to 0 to 65535.
    return image.mode == "I" and image.format == "PPM"


def open_stored(container: formats.Container, *, whole: bool) -> contextlib.AbstractContextManager[StoredImage]:
    """Opens the image of a container, without decoding pixels.

    Args:
        container: The container.
        whole: Whether its pixels will be loaded.

    Raises:
        Rejected: UNSUPPORTED_MODE; and whatever Pillow's plugins raise.
    """
    if container.run_length:
        return contextlib.nullcontext(_RunLengthImage(container, container.run_length))
    if container.by_libvips:
        return contextlib.nullcontext(_LibvipsImage(container))
    if container.planes:
        return _open_planes(container, whole=whole)
    return _open_by_pillow(container, container.parts, whole=whole)


@contextlib.contextmanager
def _open_by_pillow(
    container: formats.Container, parts: Sequence[bytes | memoryview], *, whole: bool
) -> Iterator[_PillowImage]:
    # Decoders need the file in one piece; a header is read in place.
    stream = io.BytesIO(b"".join(parts)) if whole else formats.Joined(parts)
    with stream, plugin(container.format)(cast("IO[bytes]", stream), "") as image:
        if not (image.mode in _TO_RGB or image.mode in _GREY16 or _is_16_bit_ppm(image)):
            raise Rejected(Reason.UNSUPPORTED_MODE, f"{container.format} of mode {image.mode}")
        yield _PillowImage(image, container)


def _rgb(image: Image.Image) -> Pixels:
    """Returns the pixels of an image, uint8 [h, w, 3].

    They are copied piece by piece: at once, Pillow takes the memory of a large image three times.
    """
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    count = max(1, _PIXELS_AT_ONCE // max(1, image.width))
    for top in range(0, image.height, count):
        piece = image if image.height <= count else image.crop((0, top, image.width, min(top + count, image.height)))
        pixels[top : top + count] = np.asarray(piece if piece.mode == "RGB" else piece.convert("RGB"))
    return pixels


def _on_canvas(pixels: Pixels, canvas: formats.Canvas) -> Pixels:
    height, width = pixels.shape[:2]
    if (height, width) == canvas[:2]:
        return pixels
    whole = np.empty((canvas.height, canvas.width, 3), np.uint8)
    whole[...] = canvas.colour
    whole[canvas.top : canvas.top + height, canvas.left : canvas.left + width] = pixels
    return whole


@contextlib.contextmanager
def _open_planes(container: formats.Container, *, whole: bool) -> Iterator[_Planes]:
    with _open_by_pillow(container, container.planes[0], whole=whole) as first:
        yield _Planes(container, first)
