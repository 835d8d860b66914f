"""Cutting a large image into tiles whose maps, put together, are the map of the whole image. Pure arithmetic.

Three things make a tile's cell equal to the same cell of the untiled map:

- The tile begins at a multiple of the *alignment*, so that the cells of every blob in the net fall on the same pixels
  in the tile and in the image.
- The cell's receptive field lies within the tile. Where the tile's border is the image's own, the field may reach over
  it: the padding that it sees there is the padding of the untiled map.
- A tile that ends where the image ends differs from it in length by a multiple of the alignment. So Caffe's rounding
  (up in poolings, whose last windows are clipped; down in convolutions) adds or drops the same pixels at the end.

The third is had for nothing where all tiles have one length that is congruent to the image's: the last tile ends at the
image's end, all begin at multiples of the alignment, and the engine sees a single shape.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from conversion import AxisGeometry, Number
from pipeline.errors import JobError
from pipeline.maps.classification_map import MapError

# Strides of upsampling nets come as floats; no net has a stride with more parts than this.
_LARGEST_DENOMINATOR = 4096
_TOLERANCE = 1e-9
# Heights of tiles that are tried, as shares of the square's: an eighth of an octave apart, half an octave either way.
_SHARES = [2 ** (step / 8) for step in range(-4, 5)]


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """A piece of an image, and the part of its map that is kept.

    Attributes:
        index: Counted row by row from 0.
        top: The first row of pixels to read.
        left: The first column.
        bottom: The row behind the last.
        right: The column behind the last.
        cell_y: Row, in the image's map, of the first cell that is kept.
        cell_x: Its column.
        skip_y: Rows of the tile's own map before the first that is kept.
        skip_x: Columns likewise.
        rows: Rows of cells that are kept; None for all to the end, in the last row of tiles.
        columns: Columns likewise.
    """

    index: int
    top: int
    left: int
    bottom: int
    right: int
    cell_y: int
    cell_x: int
    skip_y: int
    skip_x: int
    rows: int | None
    columns: int | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.bottom - self.top, self.right - self.left

    def kept(self, cells: NDArray[Any]) -> NDArray[Any]:
        """The kept part, [rows, columns, ...], a view, of an array of the tile's own map, [h, w, ...].

        Raises:
            MapError: The map has fewer cells than the tile needs.
        """
        part = cells[self.skip_y :, self.skip_x :][: self.rows, : self.columns]
        wanted = (self.rows or max(1, part.shape[0]), self.columns or max(1, part.shape[1]))
        if part.shape[:2] != wanted:
            raise MapError(
                f"the map of a tile has {cells.shape[0]} x {cells.shape[1]} cells",
                where=f"tile {self.index}",
                why=f"{wanted[0]} x {wanted[1]} are needed from cell ({self.skip_y}, {self.skip_x}) on",
            )
        return part


class _Piece(NamedTuple):
    """A tile along one axis."""

    start: int
    end: int
    cell: int
    skip: int
    cells: int | None


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """The tiles of an image, all of one shape, row by row.

    Attributes:
        height: Of the image in pixels.
        width: Of the image.
        down: The tiles of a column.
        across: The tiles of a row.
    """

    height: int
    width: int
    down: tuple[_Piece, ...]
    across: tuple[_Piece, ...]

    def __len__(self) -> int:
        return len(self.down) * len(self.across)

    def __getitem__(self, index: int) -> Tile:
        if not 0 <= index < len(self):
            raise IndexError(f"tile {index} of {len(self)}")
        y, x = self.down[index // len(self.across)], self.across[index % len(self.across)]
        return Tile(index, y.start, x.start, y.end, x.end, y.cell, x.cell, y.skip, x.skip, y.cells, x.cells)

    def __iter__(self) -> Iterator[Tile]:
        return (self[index] for index in range(len(self)))

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of every tile in pixels."""
        return self[0].size

    @property
    def overhead(self) -> float:
        """Pixels that are read more than once, as a share of the image's: 0 for a single tile."""
        return len(self) * math.prod(self.tile_size) / (self.height * self.width) - 1


def cut(
    height: int,
    width: int,
    geometry: tuple[AxisGeometry, AxisGeometry],
    tile_pixels: int,
    alignment: tuple[int, int],
) -> TileGrid:
    """Cuts an image into tiles of one shape, nearly square, with as few pixels read twice as that allows.

    Args:
        height: Of the image in pixels, as it is scored.
        width: Of the same.
        geometry: Of the map, vertical and horizontal, in the same pixels.
        tile_pixels: The largest area of a tile, halo included. An image that is no larger is one tile.
        alignment: See `conversion.export.alignment`; vertical and horizontal.

    Raises:
        JobError: The geometry is not finite, the alignment is no multiple of its stride, or `tile_pixels` is less than
            the smallest tile: the receptive field and one alignment, and at least the nominal window.
    """
    if min(height, width, tile_pixels) < 1:
        raise JobError(f"an image of {height} x {width} pixels in tiles of {tile_pixels}")
    y, x = (_Axis.of(*each) for each in zip((height, width), geometry, alignment, strict=True))
    if height * width <= tile_pixels:
        return TileGrid(height, width, y.pieces(height), x.pieces(width))
    if y.least * x.least > tile_pixels:
        raise JobError(
            f"tiles of {tile_pixels} pixels are too small for this model",
            why=f"a tile of a {height} x {width} image needs its receptive field: {y.least} x {x.least} pixels",
            remedy=f"allow tiles of {y.least * x.least} pixels at least",
        )
    # The square's height; more where the image is too narrow for the square.
    square = max(math.isqrt(tile_pixels), tile_pixels // width)
    heights = {y.longest(min(int(square * share), tile_pixels // x.least)) for share in _SHARES}
    shapes = {(y.shortest(high), x.shortest(x.longest(tile_pixels // y.shortest(high)))) for high in heights}

    def cost(shape: tuple[int, int]) -> tuple[int, float]:
        return y.tiles(shape[0]) * x.tiles(shape[1]) * math.prod(shape), max(shape) / min(shape)

    high, wide = min(sorted(shapes), key=cost)
    return TileGrid(height, width, y.pieces(high), x.pieces(wide))


@dataclasses.dataclass(frozen=True)
class _Axis:
    """The cover of one axis by tiles of one length.

    A length is always the axis's own less a multiple of the alignment. Of a tile's own cells, those from `skip` to
    `last(length)` see no border of the tile. Integers throughout: what may be a fraction is counted in `unit`s.
    """

    size: int
    alignment: int
    unit: int  # parts of a pixel
    stride: int  # in units
    end: int  # of the receptive field of cell 0, in units
    skip: int
    least: int  # length

    @classmethod
    def of(cls, size: int, geometry: AxisGeometry, alignment: int) -> "_Axis":
        stride, window, field = (_exact(v) for v in (geometry.stride, geometry.window, geometry.receptive_field))
        first = _exact(geometry.offset) + _exact(geometry.shift) - (field - 1) / 2  # negative in padding
        if min(stride, window, field) <= 0:
            raise JobError(f"a map of stride {stride}, window {window} and receptive field {field} cannot be tiled")
        if alignment < 1 or alignment % stride:
            raise JobError(f"alignment {alignment} is no multiple of the map's stride, {stride}")
        skip = max(0, math.ceil(-first / stride))
        # The last interior cell must lie one alignment behind the first, less one cell, for tiles to meet.
        needed = max(math.ceil(first + field + stride * (skip - 1) + alignment), math.ceil(window), 1)
        least = size - max(0, size - needed) // alignment * alignment
        unit = math.lcm(stride.denominator, (first + field).denominator)
        return cls(size, alignment, unit, int(stride * unit), int((first + field) * unit), skip, least)

    def last(self, length: int) -> int:
        return (length * self.unit - self.end) // self.stride

    def longest(self, limit: int) -> int:
        """The greatest length up to `limit`, or `least`."""
        return max(self.least, self.size - max(0, -(-(self.size - limit) // self.alignment)) * self.alignment)

    def tiles(self, length: int) -> int:
        """The number of tiles of a length that cover the axis."""
        if length >= self.size:
            return 1
        # Whole alignments of cells.
        advance = (self.last(length) + 1 - self.skip) * self.stride // (self.alignment * self.unit) * self.alignment
        return -(-(self.size - length) // advance) + 1

    def shortest(self, length: int) -> int:
        """The least length of which no more tiles are needed."""
        wanted = self.tiles(length)
        low, high = 0, (length - self.least) // self.alignment  # alignments to take away
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if self.tiles(length - middle * self.alignment) == wanted else (low, middle - 1)
        return length - low * self.alignment

    def pieces(self, length: int) -> tuple[_Piece, ...]:
        count, steps = self.tiles(length), (self.size - length) // self.alignment
        starts = [self.alignment * (k * steps // (count - 1)) if k else 0 for k in range(count)]
        cells = [start * self.unit // self.stride + (self.skip if start else 0) for start in starts]
        ends = [*cells[1:], None]
        return tuple(
            _Piece(start, start + length, cell, self.skip if start else 0, None if end is None else end - cell)
            for start, cell, end in zip(starts, cells, ends, strict=True)
        )


def _exact(number: Number) -> Fraction:
    """The fraction that a float of `densecast.json` was."""
    if not math.isfinite(number):
        raise JobError(f"{number} in the map's geometry", why="a net whose cells see the whole image cannot be tiled")
    value = Fraction(number).limit_denominator(_LARGEST_DENOMINATOR)
    if abs(value - Fraction(number)) > _TOLERANCE:
        raise JobError(f"{number} in the map's geometry is no simple fraction", remedy="tile in the model's own pixels")
    return value


def place(parts: Iterable[tuple[int, int, NDArray[Any]]]) -> NDArray[Any]:
    """Puts the kept parts of tiles together.

    Args:
        parts: Row and column, in the image's map, of a part's first cell; and the part, [rows, columns, ...]. In any
            order.

    Returns:
        The map, [h, w, ...].

    Raises:
        MapError: Parts overlap, leave a gap, or differ in type or in what follows rows and columns; or there are none.
    """
    given = list(parts)
    if not given:
        raise MapError("a map of no tiles")
    like = given[0][2]
    for y, x, part in given:
        if min(y, x) < 0 or part.ndim < 2 or 0 in part.shape[:2]:
            raise MapError(f"a tile of shape {list(part.shape)} at cell ({y}, {x})")
        if part.shape[2:] != like.shape[2:] or part.dtype != like.dtype:
            raise MapError(
                f"a tile at cell ({y}, {x}) is {part.dtype} {list(part.shape)}",
                why=f"the first tile is {like.dtype} {list(like.shape)}",
            )
    size = max(y + part.shape[0] for y, _, part in given), max(x + part.shape[1] for _, x, part in given)
    # Before anything is allocated: a wrong place asks for a map that is mostly gap.
    if sum(part.shape[0] * part.shape[1] for _, _, part in given) < size[0] * size[1]:
        raise MapError(f"the tiles leave gaps in a map of {size[0]} x {size[1]} cells", why="a tile is missing")
    result = np.empty((*size, *like.shape[2:]), like.dtype)
    covered = np.zeros(size, bool)
    for y, x, part in given:
        region = slice(y, y + part.shape[0]), slice(x, x + part.shape[1])
        if covered[region].any():
            raise MapError(f"the tile at cell ({y}, {x}) lies on another", why="every cell comes from one tile")
        covered[region] = True
        result[region] = part
    return result
