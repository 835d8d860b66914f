"""A map laid over its image."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipeline.maps.classification_map import ClassificationMap, MapError
from pipeline.visualization.canvas import Canvas, with_legend


def overlay(pixels: NDArray[np.uint8], map_: ClassificationMap, *, cell_labels: bool = True) -> Image.Image:
    """The image under its map: cells in the colour of their best class, the stronger the more probable, and a legend.

    A class labelled `background` leaves its cells as they are. A small image is enlarged so that names are legible.

    Args:
        pixels: uint8 [H, W, 3], the image as RGB.
        map_: Its map.
        cell_labels: Write the short names of classes into the cells where they fit.

    Returns:
        An RGB image: the overlay, and a strip below it with class names and their shares of the cells.

    Raises:
        MapError: `pixels` are not the image of the map.
    """
    if pixels.dtype != np.uint8 or pixels.shape != (*map_.image_size, 3):
        height, width = map_.image_size
        raise MapError(
            f"the image is {pixels.dtype} {list(pixels.shape)} where uint8 [{height}, {width}, 3] is needed",
            where=map_.uri,
            remedy="give the image that the map was made of, as RGB",
        )
    canvas = Canvas(pixels, map_)
    if cell_labels:
        canvas.write_names()
    return with_legend(canvas.picture, map_)
