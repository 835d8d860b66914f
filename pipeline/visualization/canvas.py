"""Draws a map over its image: tints, lines, names, and the legend below."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from conversion import AxisGeometry
from pipeline.maps.classification_map import ClassificationMap
from pipeline.maps.labels import Share, is_background, shares
from pipeline.units import format_share
from pipeline.visualization.lettering import drawable_name, font
from pipeline.visualization.palette import Color, distinct_colors
from pipeline.visualization.tags import GAP, HEIGHT, PAPER, Tag, draw_dot, with_tags

Values = TypeVar("Values", bound=np.generic)

_LARGEST_SIDE = 2400  # pixels; a larger image is reduced
_ENLARGED_SIDE = 1600  # pixels; a small image is enlarged to this at most
_WANTED_CELL = 96  # pixels per cell, at which most short names are legible; small images are enlarged to it
_LINED_CELL = 40  # pixels per cell, below which no lines are drawn between cells
_CERTAIN = 0.25  # a region is named if a cell of it has this probability
_MOST_TAGS = 24  # names beside a picture
_LISTED_SHARE = 0.005  # of the map, below which a class is not in the legend of a map with many classes
_ALL_LISTED = 16  # a legend lists all classes up to this number
_LEGEND_LINES = 4
_INK = (32, 34, 38)
_FAINT = (112, 115, 122)


class Canvas:
    """The picture while it is drawn, and the positions of the cells in it."""

    def __init__(self, pixels: NDArray[np.uint8], map_: ClassificationMap) -> None:
        self._map = map_
        g, (height, width), (rows, columns) = map_.geometry, map_.image_size, map_.size
        wanted = np.ceil(_WANTED_CELL / min(g.stride_y, g.stride_x))
        enlarged = max(1.0, min(wanted, _ENLARGED_SIDE // max(height, width)))
        self._zoom = min(enlarged, _LARGEST_SIDE / max(height, width))
        size = max(1, round(height * self._zoom)), max(1, round(width * self._zoom))
        self._cell_height, self._cell_width = g.stride_y * self._zoom, g.stride_x * self._zoom
        self._y = _cells_along(height, size[0], g.y, rows)
        self._x = _cells_along(width, size[1], g.x, columns)
        numbers = map_.classes[..., 0]
        self._colors = colors_of(map_)
        hidden = [int(n) for n in np.unique(numbers) if is_background(map_.label_of(int(n)))]
        self._shown = np.where(np.isin(numbers, hidden), -1, numbers)
        resized = Image.fromarray(pixels).resize((size[1], size[0]), Image.Resampling.LANCZOS)
        self.picture = self._tinted(np.asarray(resized, dtype=np.float32))

    def _spread(self, cells: NDArray[Values], outside: float) -> NDArray[Values]:
        """Returns an array of the cells, [h, w, ...], with one value per pixel."""
        spread = cells[self._y][:, self._x]
        spread[self._y < 0] = outside
        spread[:, self._x < 0] = outside
        return spread

    def _place(self, y: float, x: float) -> tuple[float, float]:
        """Returns the (x, y) in the picture of a point of the map, in cells; .5 is between two cells."""
        g = self._map.geometry
        pixel_y, pixel_x = g.offset_y + g.stride_y * y, g.offset_x + g.stride_x * x
        return (pixel_x + 0.5) * self._zoom, (pixel_y + 0.5) * self._zoom

    def _tinted(self, photo: NDArray[np.float32]) -> Image.Image:
        # Most colour of the photograph is removed, because it would mix with the colours of the classes.
        gray = photo @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
        photo = np.float32(0.45) * photo + np.float32(0.55) * gray[..., None]
        scores = np.where(self._shown >= 0, np.clip(self._map.scores[..., 0], 0, 1), -1).astype(np.float32)
        score = self._spread(scores, -1)
        tinted = score >= 0
        strength = np.where(tinted, 0.12 + 0.58 * score, 0)
        # Lines: faint ones between the cells of a region, clear ones in the region's colour around it.
        if min(self._cell_height, self._cell_width) >= _LINED_CELL:
            strength[tinted & _edges(np.add.outer(self._y * self._map.size[1], self._x), 1)] *= 0.55
        border = tinted & _edges(self._spread(self._shown, -1), 1 if self._cell_width < 10 else 2)
        strength = np.where(border, np.minimum(0.25 + score, 0.95), strength)[..., None]
        colors = np.array([[self._colors.get(int(n), (0, 0, 0)) for n in row] for row in self._shown], np.float32)
        blended = photo + (self._spread(colors, 0) - photo) * strength
        return Image.fromarray(np.clip(blended + 0.5, 0, 255).astype(np.uint8))

    def outline_window(self, row: int, column: int) -> None:
        """Outlines the nominal window of a cell, the pixels that it stands for, and marks the cell's middle.

        Raises:
            CellError: The map has no such cell.
        """
        top, left, bottom, right = (side * self._zoom for side in self._map.window(row, column))
        x, y = self._place(row, column)
        draw = ImageDraw.Draw(self.picture)
        box = (max(left, 1), max(top, 1), min(right, self.picture.width - 2), min(bottom, self.picture.height - 2))
        color = self._colors[int(self._map.classes[row, column, 0])]
        for fill, width in (("white", 5), (color, 3)):
            draw.rectangle(box, outline=fill, width=width)
        draw_dot(draw, (x, y), color)

    def write_names(self) -> None:
        """Writes the names of the certain regions beside the picture, with a line to each: nothing covers the map."""
        scores = self._map.scores[..., 0]
        certain = [(ys, xs) for ys, xs in regions(self._shown) if scores[ys, xs].max() >= _CERTAIN]
        certain.sort(key=lambda cells: -float(scores[cells].sum()))
        room = max(self.picture.height // (HEIGHT + GAP), 1)
        tags: tuple[list[Tag], list[Tag]] = ([], [])
        for ys, xs in certain:
            # The cell nearest to the region's middle: the middle itself may lie outside.
            middle_y, middle_x = (np.average(cells, weights=scores[ys, xs]) for cells in (ys, xs))
            near = int(np.argmin((ys - middle_y) ** 2 + (xs - middle_x) ** 2))
            x, y = self._place(float(ys[near]), float(xs[near]))
            side = tags[0 if x < self.picture.width / 2 else 1]
            if len(side) < min(room, _MOST_TAGS // 2):
                number = int(self._shown[ys[0], xs[0]])
                side.append(Tag(drawable_name(self._map, number), self._colors[number], x, y))
        self.picture = with_tags(self.picture, *tags)


def colors_of(map_: ClassificationMap) -> Mapping[int, Color]:
    """Returns the colours of the best classes of a map, by class."""
    return distinct_colors(tuple(item.number for item in shares(map_)))


def _cells_along(length: int, size: int, axis: AxisGeometry, cells: int) -> NDArray[np.int64]:
    """Returns the cell of each of the `size` pixels that show an axis of `length` pixels; -1 if it has none."""
    position = (np.arange(size) + 0.5) * (length / size)
    nearest = np.floor((position - (float(axis.offset) + 0.5)) / float(axis.stride) + 0.5).astype(np.int64)
    return np.where((nearest >= 0) & (nearest < cells), nearest, -1)


def _edges(values: NDArray[np.int64 | np.int32], width: int) -> NDArray[np.bool_]:
    """Returns where a value differs from one that is up to `width` pixels beside, above or below it."""
    edges = np.zeros(values.shape, dtype=np.bool_)
    for step in range(1, width + 1):
        rows, columns = values[step:] != values[:-step], values[:, step:] != values[:, :-step]
        edges[step:] |= rows
        edges[:-step] |= rows
        edges[:, step:] |= columns
        edges[:, :-step] |= columns
    return edges


def regions(numbers: NDArray[np.int64 | np.int32]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yields the rows and the columns of the cells of each connected area of one number that is not negative."""
    seen = numbers < 0
    height, width = numbers.shape
    for start_y, start_x in np.argwhere(~seen):
        if seen[start_y, start_x]:
            continue
        number = numbers[start_y, start_x]
        seen[start_y, start_x] = True
        cells = [(int(start_y), int(start_x))]
        waiting = deque(cells)
        while waiting:
            y, x = waiting.popleft()
            for near_y, near_x in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= near_y < height and 0 <= near_x < width
                if inside and not seen[near_y, near_x] and numbers[near_y, near_x] == number:
                    seen[near_y, near_x] = True
                    cells.append((near_y, near_x))
                    waiting.append((near_y, near_x))
        ys, xs = np.array(cells).T
        yield ys, xs


def with_legend(picture: Image.Image, map_: ClassificationMap) -> Image.Image:
    """Returns the picture with a strip below it that explains the colours."""
    width = max(picture.width, 560)
    margin, line, gap, swatch = 16, 26, 22, 14
    text, small = font(15), font(13)
    classes, colors = shares(map_), colors_of(map_)
    listed = [item for item in classes if item.share >= _LISTED_SHARE] or classes[:1]
    # The entries are placed in lines until there is no room.
    placed: list[tuple[int, float, str, Share]] = []
    row, left = 0, float(margin)
    for item in classes if len(classes) <= _ALL_LISTED else listed:
        name = drawable_name(map_, item.number)
        size = swatch + 7 + text.getlength(name) + 6 + small.getlength(format_share(item.share))
        if left + size > width - margin and left > margin:
            row, left = row + 1, float(margin)
        if row == _LEGEND_LINES:
            break
        placed.append((row, left, name, item))
        left += size + gap
    notes = _notes(map_)
    if rest := len(classes) - len(placed):
        share = 1 - sum(item.share for *_, item in placed)
        notes.insert(0, f"and {rest} more {'class' if rest == 1 else 'classes'}, {format_share(share)} of the map")
    top = picture.height + margin
    below = top + (placed[-1][0] + 1) * line + 4

    canvas = Image.new("RGB", (width, below + len(notes) * 20 + margin - 4), PAPER)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for row, left, name, item in placed:
        middle = top + row * line + line / 2 - 2
        box = (left, middle - swatch / 2, left + swatch, middle + swatch / 2)
        if is_background(item.name):
            draw.rounded_rectangle(box, radius=3, outline=_FAINT)
        else:
            draw.rounded_rectangle(box, radius=3, fill=colors[item.number])
        left += swatch + 7
        draw.text((left, middle), name, font=text, anchor="lm", fill=_INK)
        left += text.getlength(name) + 6
        draw.text((left, middle), format_share(item.share), font=small, anchor="lm", fill=_FAINT)
    for index, note in enumerate(notes):
        draw.text((margin, below + index * 20 + 10), note, font=small, anchor="lm", fill=_FAINT)
    return canvas


def _notes(map_: ClassificationMap) -> list[str]:
    g, (rows, columns) = map_.geometry, map_.size

    def pair(y: float, x: float) -> str:
        return f"{y:g}" if y == x else f"{y:g} x {x:g}"

    drawn, window = pair(g.stride_y, g.stride_x), pair(g.window_y, g.window_x)
    return [
        f"{rows} x {columns} cells. The stronger the colour, the more probable the class.",
        f"A cell is drawn {drawn} pixels wide, and stands for a window of {window} pixels around it.",
    ]
