"""The tiles of an image with their pixels, cut from its rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.images.row_reader import Rows
from pipeline.images.samples import Pixels
from pipeline.maps.tiling import Tile


def tiles_of(reader: Rows, grid: Iterable[Tile]) -> Iterator[tuple[Tile, Pixels]]:
    """Yields the tiles of an image with their pixels, row by row; holds the pixels of one row of tiles.

    Yields:
        The tile and a copy of its pixels, uint8 [h, w, 3], C-contiguous.

    Raises:
        Rejected: See `RowReader.rows`.
    """
    band, band_rows = np.empty((0, 0, 3), np.uint8), (-1, -1)
    for tile in grid:
        if (tile.top, tile.bottom) != band_rows:
            band_rows = tile.top, tile.bottom
            band = reader.rows(*band_rows)
        yield tile, np.array(band[:, tile.left : tile.right], order="C")
