"""Cuts a large image into tiles whose maps together are the map of the whole image. Pure arithmetic.

A cell of a tile's map equals the same cell of the untiled map under three conditions:

- The tile starts at a multiple of the *alignment*, so that the cells of every blob in the network fall on the same
  pixels in the tile and in the image.
- The receptive field of the cell lies within the tile. At a border of the tile that is also a border of the image, the
  field may reach beyond it: the padding there is the same as in the untiled map.
- The length of a tile that ends at the end of the image differs from the image's by a multiple of the alignment. So
  Caffe's rounding (up in poolings, whose last windows are clipped; down in convolutions) adds or drops the same pixels.

All tiles have one length, which is congruent to the image's modulo the alignment. This meets the third condition: the
last tile ends where the image ends, and all tiles start at multiples of the alignment. The engine sees a single shape.
"""

import dataclasses
import math
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from conversion import AxisGeometry, Number, ReceptiveField
from pipeline.errors import JobError, SettingError
from pipeline.maps.classification_map import Cells, MapError

# The strides of upsampling networks are stored as floats. No network has a stride with a larger denominator.
_LARGEST_DENOMINATOR = 4096
_TOLERANCE = 1e-9
# The tile heights that are tried, relative to a square tile: eight per octave, up to half an octave in each direction.
_SHARES = [2 ** (step / 8) for step in range(-4, 5)]


@dataclasses.dataclass(frozen=True, slots=True)
class Tile:
    """A piece of an image, and the part of its map that is kept.

    Attributes:
        index: Number of the tile, counted row by row from 0.
        top: The first row of pixels.
        left: The first column of pixels.
        bottom: The row of pixels after the last.
        right: The column of pixels after the last.
        cell_y: Row, in the image's map, of the first cell that is kept.
        cell_x: Column of that cell.
        skip_y: Rows of the tile's own map before the first row that is kept.
        skip_x: Columns likewise.
        rows: Number of rows of cells that are kept; None, in the last row of tiles, for all rows to the end.
        columns: Number of columns likewise.
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

    def kept(self, cells: NDArray[Cells]) -> NDArray[Cells]:
        """Returns the kept part of an array of the tile's own map, as a view.

        Args:
            cells: The array, [h, w, ...].

        Returns:
            [rows, columns, ...].

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
        down: The tiles of a column.
        across: The tiles of a row.
    """

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


def cut(height: int, width: int, geometry: ReceptiveField, *, tile_pixels: int, alignment: tuple[int, int]) -> TileGrid:
    """Cuts an image into tiles of one shape, nearly square, so that few pixels are read twice.

    Args:
        height: Rows of pixels of the image as it is scored.
        width: Columns of pixels of the same.
        geometry: The geometry of the map, in the same pixels.
        tile_pixels: The largest area of a tile in pixels, halo included. A smaller image is one tile.
        alignment: (vertical, horizontal) step of the tiles' first pixels; see `ModelMetadata.alignment`.

    Raises:
        JobError: The geometry is not finite, the alignment is not a multiple of its stride, or `tile_pixels` is less
            than the smallest tile: the receptive field and one alignment, and at least the nominal window.
    """
    if min(height, width, tile_pixels) < 1:
        raise JobError(f"an image of {height} x {width} pixels in tiles of {tile_pixels}")
    axes = (geometry.y, geometry.x)
    y, x = (_Axis.of(*values) for values in zip((height, width), axes, alignment, strict=True))
    if height * width <= tile_pixels:
        return TileGrid(y.pieces(height), x.pieces(width))
    if y.least * x.least > tile_pixels:
        raise SettingError(
            f"tiles of {tile_pixels} pixels are too small for this model",
            why=f"a tile of a {height} x {width} image needs its receptive field: {y.least} x {x.least} pixels",
            remedy=f"allow tiles of {y.least * x.least} pixels at least",
        )
    # The height of a square tile; more if the image is too narrow for a square.
    square = max(math.isqrt(tile_pixels), tile_pixels // width)
    heights = {y.longest(min(int(square * share), tile_pixels // x.least)) for share in _SHARES}
    shapes = {(y.shortest(high), x.shortest(x.longest(tile_pixels // y.shortest(high)))) for high in heights}

    def cost(shape: tuple[int, int]) -> tuple[int, float]:
        return y.tiles(shape[0]) * x.tiles(shape[1]) * math.prod(shape), max(shape) / min(shape)

    high, wide = min(sorted(shapes), key=cost)
    return TileGrid(y.pieces(high), x.pieces(wide))


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Tiles of one length that cover one axis.

    A length is always the axis's own length minus a multiple of the alignment. The cells of a tile from `skip` to
    `last(length)` do not see a border of the tile. All numbers are integers: possible fractions are counted in units.

    Attributes:
        size: Length of the axis in pixels.
        alignment: Step of the tiles' first pixels, in pixels.
        unit: Units per pixel.
        stride: Stride of the cells, in units.
        end: End of the receptive field of cell 0, in units.
        skip: Cells at the start of a tile that see its border.
        least: The smallest length of a tile, in pixels.
    """

    size: int
    alignment: int
    unit: int
    stride: int
    end: int
    skip: int
    least: int

    @classmethod
    def of(cls, size: int, geometry: AxisGeometry, alignment: int) -> "_Axis":
        stride, window, field = (_exact(v) for v in (geometry.stride, geometry.window, geometry.receptive_field))
        first = _exact(geometry.offset) + _exact(geometry.shift) - (field - 1) / 2  # negative in padding
        if min(stride, window, field) <= 0:
            raise JobError(f"a map of stride {stride}, window {window} and receptive field {field} cannot be tiled")
        if alignment < 1 or alignment % stride:
            raise JobError(f"alignment {alignment} is not a multiple of the map's stride, {stride}")
        skip = max(0, math.ceil(-first / stride))
        # Tiles meet if the last interior cell lies one alignment, less one cell, after the first.
        needed = max(math.ceil(first + field + stride * (skip - 1) + alignment), math.ceil(window), 1)
        least = size - max(0, size - needed) // alignment * alignment
        unit = math.lcm(stride.denominator, (first + field).denominator)
        return cls(size, alignment, unit, int(stride * unit), int((first + field) * unit), skip, least)

    def last(self, length: int) -> int:
        return (length * self.unit - self.end) // self.stride

    def longest(self, limit: int) -> int:
        """Returns the greatest length up to `limit`, or `least`."""
        return max(self.least, self.size - max(0, -(-(self.size - limit) // self.alignment)) * self.alignment)

    def tiles(self, length: int) -> int:
        """Returns the number of tiles of a length that cover the axis."""
        if length >= self.size:
            return 1
        # A tile advances by a multiple of the alignment.
        advance = (self.last(length) + 1 - self.skip) * self.stride // (self.alignment * self.unit) * self.alignment
        return -(-(self.size - length) // advance) + 1

    def shortest(self, length: int) -> int:
        """Returns the smallest length that needs no more tiles than `length`."""
        wanted = self.tiles(length)
        low, high = 0, (length - self.least) // self.alignment  # alignments to subtract
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
    """Returns the exact fraction that a float of `densecast.json` stands for."""
    if not math.isfinite(number):
        raise JobError(
            f"{number} in the map's geometry", why="a network whose cells see the whole image cannot be tiled"
        )
    value = Fraction(number).limit_denominator(_LARGEST_DENOMINATOR)
    if abs(value - Fraction(number)) > _TOLERANCE:
        raise JobError(
            f"{number} in the map's geometry is not a simple fraction", remedy="tile in the model's own pixels"
        )
    return value


def place(parts: Iterable[tuple[int, int, NDArray[Cells]]]) -> NDArray[Cells]:
    """Puts the kept parts of tiles together.

    Args:
        parts: Row and column, in the image's map, of a part's first cell, and the part, [rows, columns, ...]; in any
            order.

    Returns:
        The map, [h, w, ...].

    Raises:
        MapError: Parts overlap or leave a gap, differ in their type or in the axes after rows and columns, or there is
            no part.
    """
    placed = list(parts)
    if not placed:
        raise MapError("a map without tiles")
    like = placed[0][2]
    for y, x, part in placed:
        if min(y, x) < 0 or part.ndim < 2 or 0 in part.shape[:2]:
            raise MapError(f"a tile of shape {list(part.shape)} at cell ({y}, {x})")
        if part.shape[2:] != like.shape[2:] or part.dtype != like.dtype:
            raise MapError(
                f"a tile at cell ({y}, {x}) is {part.dtype} {list(part.shape)}",
                why=f"the first tile is {like.dtype} {list(like.shape)}",
            )
    size = max(y + part.shape[0] for y, _, part in placed), max(x + part.shape[1] for _, x, part in placed)
    # Checked before anything is allocated: a wrong position makes a huge map that is mostly gaps.
    if sum(part.shape[0] * part.shape[1] for _, _, part in placed) < size[0] * size[1]:
        raise MapError(f"the tiles leave gaps in a map of {size[0]} x {size[1]} cells", why="a tile is missing")
    result = np.empty((*size, *like.shape[2:]), like.dtype)
    covered = np.zeros(size, bool)
    for y, x, part in placed:
        region = slice(y, y + part.shape[0]), slice(x, x + part.shape[1])
        if covered[region].any():
            raise MapError(f"the tile at cell ({y}, {x}) overlaps another", why="every cell comes from one tile")
        covered[region] = True
        result[region] = part
    return result
