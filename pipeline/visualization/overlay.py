"""Draws a map over its image."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.maps.classification_map import ClassificationMap, MapError
from pipeline.visualization.canvas import Canvas, with_legend


def overlay(
    pixels: NDArray[np.uint8],
    map_: ClassificationMap,
    *,
    cell_labels: bool = True,
    windows: Sequence[tuple[int, int]] = (),
) -> Image.Image:
    """Returns the image with its map over it, and a legend.

    A cell has the colour of its best class, stronger for a higher probability. The cells of a class with the label
    `background` are not tinted. A small image is enlarged so that names are legible.

    Args:
        pixels: uint8 [H, W, 3], the image as RGB.
        map_: The map of the image.
        cell_labels: Whether the short names of classes stand beside the picture, with a line to their cells.
        windows: Cells (row, column) whose nominal windows are outlined.

    Returns:
        An RGB image: the overlay, and below it a strip with class names and their shares of the cells.

    Raises:
        MapError: `pixels` are not the image of the map. CellError: it does not have a cell of `windows`.
    """
    if pixels.dtype != np.uint8 or pixels.shape != (*map_.image_size, 3):
        height, width = map_.image_size
        raise MapError(
            f"the image is {pixels.dtype} {list(pixels.shape)} where uint8 [{height}, {width}, 3] is needed",
            where=map_.uri,
            remedy="give the image that the map was made of, as RGB",
        )
    canvas = Canvas(pixels, map_)
    for cell in windows:
        canvas.outline_window(*cell)
    if cell_labels:
        canvas.write_names()
    return with_legend(canvas.picture, map_)
