"""`densecast show`: one image's map as a table of class names and as a picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Group, RenderableType
from rich.text import Text

from pipeline import storage
from pipeline.decoding import DecodeLimits, decode
from pipeline.maps import ClassificationMap
from pipeline.rejection import Rejected
from pipeline.rendering import grid, overlay
from pipeline.table import MapTable


def show(table: str, image: str, output: str | Path | None = None, *, width: int = 100) -> RenderableType:
    """Reads a map and draws it.

    Args:
        table: The table.
        image: An image of it, by address, path or own id.
        output: The picture to write; `<name>-map.png` in the present folder by default.
        width: Of the terminal, in characters.

    Returns:
        What to print; if the image is gone, the table of class names alone, saying so.

    Raises:
        TableError: There is no such table or image, or the image was rejected.
        StorageError: The picture cannot be written.
    """
    found = MapTable(table).read(image)
    target = Path(output) if output is not None else Path(f"{Path(found.uri).stem}-map.png")
    return Group(grid(found, width=width), _draw(found, target))


def _draw(found: ClassificationMap, target: Path) -> Text:
    try:
        pixels = decode(storage.read_bytes(found.uri), DecodeLimits()).pixels
    except (storage.StorageError, Rejected) as error:
        return Text(f"no picture: {found.uri} cannot be read any more ({error})")
    if pixels.shape[:2] != found.image_size:
        return Text(f"no picture: {found.uri} is another image now than the one that was scored")
    save_picture(found, pixels, target)
    return Text(f"picture: {target}")  # not markup: a name may hold brackets


def save_picture(found: ClassificationMap, pixels: NDArray[np.uint8], target: Path) -> None:
    """Writes the map over its image as PNG; raises StorageError."""
    buffer = io.BytesIO()
    overlay(pixels, found).save(buffer, format="PNG")
    storage.write_atomically(str(target), buffer.getvalue())
