"""The tiles of an image with their pixels, cut from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.images.row_reader import Rows
from pipeline.images.samples import Pixels
from pipeline.maps.tiling import Tile


def tiles_of(reader: Rows, grid: Iterable[Tile]) -> Iterator[tuple[Tile, Pixels]]:
    """Yields the tiles of an image with their pixels, row by row.

    Holds the pixels of one tile besides those that were taken.

    Yields:
        The tile and a copy of its pixels, uint8 [h, w, 3], C-contiguous.

    Raises:
        Rejected: See `RowReader.rows`.
    """
    for tile in grid:
        yield tile, np.array(reader.rows(tile.top, tile.bottom, tile.left, tile.right), order="C")
