"""`densecast show`: one image's map as a table of class names and as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from conversion.errors import one_line
from pipeline.errors import JobError, SettingError
from pipeline.images.decode import DecodedImage, DecodeLimits
from pipeline.images.decoder_process import IsolatedDecoder
from pipeline.maps.classification_map import ClassificationMap
from pipeline.rejection import Rejected
from pipeline.sources import Reader, locate
from pipeline.storage.local import LocalStore
from pipeline.storage.options import StorageOptions
from pipeline.table.paths import TableRoot
from pipeline.table.reader import MapTable
from pipeline.table.summaries import read_model
from pipeline.visualization.overlay import overlay
from pipeline.visualization.terminal_grid import grid

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
"""The formats of pictures by extension, as Pillow names them."""

_LONGEST_STEM = 60  # characters; a name may have 255 bytes


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The picture to write.

    Attributes:
        path: The file; its extension names the format. None: `<name>-map.png` in the current folder.
        overwrite: Whether a file that exists is replaced.
        parents: Whether folders that are missing are made.
        windows: Cells (row, column) whose windows are outlined: the pixels that a cell stands for.
    """

    path: Path | None = None
    overwrite: bool = False
    parents: bool = False
    windows: Sequence[tuple[int, int]] = ()

    def problem(self, path: Path) -> JobError | None:
        """Returns why a file cannot be the picture; None if it can."""
        if path.suffix.lower() not in FORMATS:
            what = f"there is no format of pictures with the extension {path.suffix!r}"
            return SettingError(what, where=str(path), remedy=f"end the name in {', '.join(FORMATS)}")
        try:
            exists, folder_exists = path.exists(), path.parent.is_dir()
        except OSError as error:  # such as a name that is too long
            return JobError(f"cannot be a file: {error.strerror}", where=str(path), remedy="name another")
        if exists and not self.overwrite:
            return JobError("the picture exists", where=str(path), remedy="name another, or give --overwrite")
        if not folder_exists and not self.parents:
            what = f"there is no folder {str(path.parent)!r}"
            return JobError(what, where=str(path), remedy="make it, or give --parents")
        return None


@dataclass(frozen=True)
class Shown:
    """What `show` drew.

    Attributes:
        renderable: What to print: the table of class names, and where the picture is or why there is none.
        missing: Why there is no picture; empty if there is one.
    """

    renderable: RenderableType
    missing: str = ""


def show(
    table: str,
    image: str,
    picture: Picture = Picture(),
    *,
    scale: float | None = None,
    fused: bool = False,
    key: str = "",
    root: str | None = None,
    terminal: tuple[int, int | None] = (100, None),
) -> Shown:
    """Reads a map and draws it.

    Args:
        table: The table.
        image: An image of the table, by address, path, own id, or a name that only one image has.
        picture: The picture to write.
        scale: The scale of the map, where the image has several.
        fused: Whether to draw the mean of the image's maps at all scales.
        key: The beginning of the map's key, where the scale does not name one map.
        root: Where the images of a table with relative addresses are; None: where the table's last run found them.
        terminal: Columns and lines of the terminal; None where lines are not limited, since it is not a terminal.

    Raises:
        SettingError: The picture's format is unknown, or a fused map is asked for and also a scale or a key.
        JobError: The picture exists or its folder is missing. Both are found before the table is read.
        TableError: There is no such table or image, the image was rejected or deleted, or it has several maps.
        MapError: The map's rows contradict each other. CellError: It does not have a cell of `picture.windows`.
        StorageError: The picture cannot be written.
    """
    if fused and (scale is not None or key):
        raise SettingError("a fused map covers all scales", remedy="leave out either `fused` or the scale and the key")
    if picture.path is not None and (problem := picture.problem(picture.path)) is not None:
        raise problem
    maps = MapTable(table, image_root=root)
    shown = maps.fused(image) if fused else maps.read(image, scale=scale, key=key)
    for cell in picture.windows:
        shown.window(*cell)
    target = picture.path or _default_path(shown.uri)
    missing = _draw(shown, picture, target, TableRoot(table).options, root=maps.image_root)
    note = Text(f"no picture: {one_line(missing)}" if missing else f"picture: {one_line(str(target))}")
    notes = [note]
    if read_model(table, shown.model_digest).get("random_weights"):
        notes.insert(0, Text("the weights of the model are random: these classes mean nothing"))
    return Shown(Group(grid(shown, width=terminal[0], height=terminal[1]), *notes), missing)


def _default_path(uri: str) -> Path:
    """Returns a file in the current folder; the address comes from whoever named the image."""
    stem = "".join(letter if letter.isprintable() else "_" for letter in Path(uri).stem)
    return Path(f"{stem[:_LONGEST_STEM]}-map.png")


def _draw(shown: ClassificationMap, picture: Picture, target: Path, options: StorageOptions, *, root: str) -> str:
    """Writes the picture; returns why it cannot, or an empty text."""
    if (problem := picture.problem(target)) is not None:
        return f"{problem.where}: {problem.what}; {problem.remedy}"
    try:
        with Reader(options=options) as reader, IsolatedDecoder() as decoder:
            location = locate(shown.uri, options, root)
            image: DecodedImage = decoder.call(reader.read(location).data, DecodeLimits())
            pixels = image.pixels
    except Rejected as error:
        return f"{shown.uri} can no longer be read ({error})"
    if pixels.shape[:2] != shown.image_size:
        return f"{shown.uri} is not the image that was scored"
    save_picture(shown, pixels, target, picture.windows)
    return ""


def save_picture(
    shown: ClassificationMap, pixels: NDArray[np.uint8], target: Path, windows: Sequence[tuple[int, int]] = ()
) -> None:
    """Writes a map over its image, in the format that the file's extension names.

    Args:
        shown: The map.
        pixels: uint8 [H, W, 3], its image.
        target: The file; it is replaced, and its folder is made.
        windows: Cells (row, column) whose windows are outlined.

    Raises:
        StorageError: The file cannot be written.
        JobError: The format cannot hold a picture of that size.
    """
    drawn = overlay(pixels, shown, windows=windows)
    try:
        content = _encoded(drawn, FORMATS[target.suffix.lower()])
    except (OSError, ValueError) as error:
        raise JobError(
            f"a picture of {drawn.height} x {drawn.width} pixels cannot be written in this format: {error}",
            where=str(target),
            remedy="write a .png",
        ) from error
    LocalStore().write_atomically(str(target), content)


def _encoded(drawn: Image.Image, name: str) -> bytes:
    buffer = io.BytesIO()
    drawn.save(buffer, format=name)
    return buffer.getvalue()
