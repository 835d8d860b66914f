"""`densecast show`: one image's map as a table of class names and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from conversion.errors import printable
from pipeline.errors import JobError
from pipeline.images.decode import DecodedImage, DecodeLimits
from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.maps.classification_map import ClassificationMap
from pipeline.rejection import Rejected
from pipeline.sources import Reader, locate
from pipeline.storage.local import LocalStore
from pipeline.storage.options import StorageOptions
from pipeline.table.paths import TableRoot
from pipeline.table.reader import MapTable
from pipeline.visualization.overlay import overlay
from pipeline.visualization.terminal_grid import grid


def show(
    table: str,
    image: str,
    output: str | Path | None = None,
    *,
    scale: float | None = None,
    fused: bool = False,
    key: str = "",
    root: str | None = None,
    width: int = 100,
) -> RenderableType:
    """Reads a map and draws it.

    Args:
        table: The table.
        image: An image of the table, by address, path or own id.
        output: The picture to write; `<name>-map.png` in the current folder by default.
        scale: The scale of the map, where the image has several.
        fused: Whether to draw the mean of the image's maps at all scales.
        key: The beginning of the map's key, where the scale does not name one map.
        root: Where the images of a table with relative addresses are; None: where the table's last run found them.
        width: The width of the terminal, in characters.

    Returns:
        What to print: the table of class names, and where the picture is or why there is none.

    Raises:
        JobError: A fused map is asked for, and also a scale or a key.
        TableError: There is no such table or image, the image was rejected or deleted, or it has several maps.
        MapError: The map's rows contradict each other.
        StorageError: The picture cannot be written.
    """
    if fused and (scale is not None or key):
        raise JobError("a fused map covers all scales", remedy="leave out either `fused` or the scale and the key")
    maps = MapTable(table, image_root=root)
    shown = maps.fused(image) if fused else maps.read(image, scale=scale, key=key)
    target = Path(output) if output is not None else Path(f"{Path(shown.uri).stem}-map.png")
    return Group(grid(shown, width=width), _draw(shown, target, maps.image_root, TableRoot(table).options))


def _draw(shown: ClassificationMap, target: Path, root: str, options: StorageOptions) -> Text:
    try:
        with Reader(options=options) as reader, IsolatedDecoder() as decoder:
            image: DecodedImage = decoder.call(reader.read(locate(shown.uri, options, root)).data, DecodeLimits())
            pixels = image.pixels
    except Rejected as error:
        return Text(f"no picture: {printable(shown.uri)} can no longer be read ({error})")
    if pixels.shape[:2] != shown.image_size:
        return Text(f"no picture: {printable(shown.uri)} is not the image that was scored")
    save_picture(shown, pixels, target)
    return Text(f"picture: {printable(str(target))}")  # not markup: a name may hold brackets


def save_picture(shown: ClassificationMap, pixels: NDArray[np.uint8], target: Path) -> None:
    """Writes a map over its image as PNG.

    Raises:
        StorageError: The file cannot be written.
    """
    buffer = io.BytesIO()
    overlay(pixels, shown).save(buffer, format="PNG")
    LocalStore().write_atomically(str(target), buffer.getvalue())
