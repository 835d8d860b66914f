"""`densecast show`: one image's map as a table of class names and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.errors import JobError
from pipeline.images.decode import DecodeLimits, decode
from pipeline.maps.classification_map import ClassificationMap
from pipeline.rejection import Rejected
from pipeline.sources import Reader, locate
from pipeline.storage.local import LocalStore
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
    width: int = 100,
) -> RenderableType:
    """Reads a map and draws it.

    Args:
        table: The table.
        image: An image of it, by address, path or own id.
        output: The picture to write; `<name>-map.png` in the present folder by default.
        scale: Which of its maps, where it has several.
        fused: Draw the mean of its maps at all scales instead.
        key: How the map's key begins, where that is not enough.
        width: Of the terminal, in characters.

    Returns:
        What to print; if the image is gone, the table of class names alone, saying so.

    Raises:
        JobError: A fused map is asked for, and a single scale or key as well.
        TableError: There is no such table or image, the image was rejected or deleted, or it has several maps.
        MapError: The map's rows contradict each other.
        StorageError: The picture cannot be written.
    """
    if fused and (scale is not None or key):
        raise JobError("a fused map is of all scales", remedy="leave out either `fused` or the scale and the key")
    maps = MapTable(table)
    found = maps.fused(image) if fused else maps.read(image, scale=scale, key=key)
    target = Path(output) if output is not None else Path(f"{Path(found.uri).stem}-map.png")
    return Group(grid(found, width=width), _draw(found, target))


def _draw(found: ClassificationMap, target: Path) -> Text:
    try:
        with Reader() as reader:
            pixels = decode(reader.read(locate(found.uri)).data, DecodeLimits()).pixels
    except Rejected as error:
        return Text(f"no picture: {found.uri} cannot be read any more ({error})")
    if pixels.shape[:2] != found.image_size:
        return Text(f"no picture: {found.uri} is another image now than the one that was scored")
    save_picture(found, pixels, target)
    return Text(f"picture: {target}")  # not markup: a name may hold brackets


def save_picture(found: ClassificationMap, pixels: NDArray[np.uint8], target: Path) -> None:
    """Writes the map over its image as PNG; raises StorageError."""
    buffer = io.BytesIO()
    overlay(pixels, found).save(buffer, format="PNG")
    LocalStore().write_atomically(str(target), buffer.getvalue())
