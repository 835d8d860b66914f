"""Draws a map over its image: tints, lines, names, and the legend below."""

import unicodedata
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from conversion import AxisGeometry
from pipeline.maps.classification_map import ClassificationMap
from pipeline.maps.labels import Share, is_background, shares, short_name
from pipeline.units import format_share
from pipeline.visualization.palette import class_color, ink_on

Values = TypeVar("Values", bound=np.generic)

_LARGEST_SIDE = 2400  # pixels; a larger image is reduced
_ENLARGED_SIDE = 1600  # pixels; a small image is enlarged to this at most
_WANTED_CELL = 96  # pixels per cell, at which most short names are legible; small images are enlarged to it
_NAMED_CELL = 80  # pixels per cell, below which there is one name per region instead of one per cell
_LINED_CELL = 40  # pixels per cell, below which no lines are drawn between cells
_CERTAIN = 0.25  # a region is named if a cell of it has this probability
_ROOMY = 50  # a region with this many times the area of its tag has the tag inside
_LISTED_SHARE = 0.005  # of the map, below which a class is not in the legend of a map with many classes
_ALL_LISTED = 16  # a legend lists all classes up to this number
_LEGEND_LINES = 4
_LONGEST_NAME = 28  # characters
_SPACING = 3  # pixels between lines of text
_STRIP = (250, 250, 248)
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
        colors = np.array([[class_color(int(n)) for n in row] for row in self._shown], dtype=np.float32)
        blended = photo + (self._spread(colors, 0) - photo) * strength
        return Image.fromarray(np.clip(blended + 0.5, 0, 255).astype(np.uint8))

    def write_names(self) -> None:
        """Writes names into the cells; if the cells are too small, one name on every region."""
        if min(self._cell_height, self._cell_width) >= _NAMED_CELL:
            self._name_cells()
        else:
            self._name_regions()

    def _name_cells(self) -> None:
        texts: list[tuple[tuple[float, float], str, int]] = []
        for y, x in np.argwhere(self._shown >= 0):
            name = drawable_name(self._map, int(self._shown[y, x]))
            share = f"{self._map.scores[y, x, 0]:.0%}"
            fitted = _fit(name, share, self._cell_width - 10, self._cell_height - 10)
            if fitted is not None:
                texts.append((self._place(y, x), *fitted))
        # All shadows are drawn first: they keep white letters legible on white cells without hard outlines.
        shadow = Image.new("L", self.picture.size)
        for layer, fill, stroke in ((shadow, 255, 2), (self.picture, "white", 0)):
            draw = ImageDraw.Draw(layer)
            for place, text, size in texts:
                draw.multiline_text(
                    place,
                    text,
                    font=font(size),
                    fill=fill,
                    anchor="mm",
                    align="center",
                    spacing=_SPACING,
                    stroke_width=stroke,
                )
            if layer is shadow:
                mask = shadow.filter(ImageFilter.GaussianBlur(1.6)).point([int(0.72 * i) for i in range(256)])
                self.picture.paste(_INK, mask=mask)

    def _name_regions(self) -> None:
        """Tags every certain region: inside a large region, above a small one. Of overlapping tags one is drawn."""
        draw = ImageDraw.Draw(self.picture)
        scores = self._map.scores[..., 0]
        certain = [(ys, xs) for ys, xs in regions(self._shown) if scores[ys, xs].max() >= _CERTAIN]
        taken: list[tuple[float, float, float, float]] = []
        for ys, xs in sorted(certain, key=lambda cells: -float(scores[cells].sum())):
            number = int(self._shown[ys[0], xs[0]])
            name = drawable_name(self._map, number)
            width, height = font(14).getlength(name) + 10, 18
            if ys.size * self._cell_height * self._cell_width > _ROOMY * width * height:
                middle_y, middle_x = (np.average(cells, weights=scores[ys, xs]) for cells in (ys, xs))
                near = int(np.argmin((ys - middle_y) ** 2 + (xs - middle_x) ** 2))
                left, top = self._place(ys[near], xs[near])
                left, top = left - width / 2, top - height / 2
            else:
                left, top = self._place(ys.min() - 0.5, xs[ys == ys.min()].min() - 0.5)
                top -= height
            left, top = max(min(left, self.picture.width - width), 0), max(top, 0)
            box = (left, top, left + width, top + height)
            if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                continue
            taken.append(box)
            color = class_color(number)
            draw.rounded_rectangle(box, radius=3, fill=color)
            draw.text((left + 5, top + height / 2), name, font=font(14), anchor="lm", fill=ink_on(color))


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


@lru_cache(maxsize=32)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Returns Pillow's own font, so that pictures look the same on every machine."""
    return ImageFont.load_default(size)


@lru_cache(maxsize=4096)
def _has_letter(letter: str) -> bool:
    missing = bytes(font(16).getmask("\U0010ffff"))
    return letter.isspace() or bytes(font(16).getmask(letter)) != missing


def drawable_name(map_: ClassificationMap, number: int) -> str:
    """Returns the short name of a class, cut to `_LONGEST_NAME` characters, if the font has its letters.

    Accents that the font lacks are omitted. A name in another script is replaced by the number of the class.
    """
    name = short_name(map_.label_of(number))
    if not all(map(_has_letter, name)):
        name = "".join(letter for letter in unicodedata.normalize("NFKD", name) if not unicodedata.combining(letter))
    if not all(map(_has_letter, name)):
        return f"class {number}"
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 3].rstrip()}..."


@lru_cache(maxsize=4096)
def _fit(name: str, share: str, width: float, height: float) -> tuple[str, int] | None:
    """Returns `name` and its font size: with line breaks if necessary, and with `share` below it if there is room."""
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    lines = name.replace(" ", "\n")
    for texts in ((f"{name}\n{share}", f"{lines}\n{share}"), (name, lines)):
        for size in (16, 15, 14, 13, 12, 11):
            for text in texts:
                left, top, right, bottom = ruler.multiline_textbbox((0, 0), text, font=font(size), spacing=_SPACING)
                if right - left <= width and bottom - top <= height:
                    return text, size
    return None


def with_legend(picture: Image.Image, map_: ClassificationMap) -> Image.Image:
    """Returns the picture with a strip below it that explains the colours."""
    width = max(picture.width, 560)
    margin, line, gap, swatch = 16, 26, 22, 14
    text, small = font(15), font(13)
    classes = shares(map_)
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
    notes = [_note(map_)]
    if rest := len(classes) - len(placed):
        share = 1 - sum(item.share for *_, item in placed)
        notes.insert(0, f"and {rest} more {'class' if rest == 1 else 'classes'}, {format_share(share)} of the map")
    top = picture.height + margin
    below = top + (placed[-1][0] + 1) * line + 4

    canvas = Image.new("RGB", (width, below + len(notes) * 20 + margin - 4), _STRIP)
    canvas.paste(picture, ((width - picture.width) // 2, 0))
    draw = ImageDraw.Draw(canvas)
    for row, left, name, item in placed:
        middle = top + row * line + line / 2 - 2
        box = (left, middle - swatch / 2, left + swatch, middle + swatch / 2)
        if is_background(item.name):
            draw.rounded_rectangle(box, radius=3, outline=_FAINT)
        else:
            draw.rounded_rectangle(box, radius=3, fill=class_color(item.number))
        left += swatch + 7
        draw.text((left, middle), name, font=text, anchor="lm", fill=_INK)
        left += text.getlength(name) + 6
        draw.text((left, middle), format_share(item.share), font=small, anchor="lm", fill=_FAINT)
    for index, note in enumerate(notes):
        draw.text((margin, below + index * 20 + 10), note, font=small, anchor="lm", fill=_FAINT)
    return canvas


def _note(map_: ClassificationMap) -> str:
    g, (rows, columns) = map_.geometry, map_.size
    stride = f"{g.stride_y:g}" if g.stride_y == g.stride_x else f"{g.stride_y:g} x {g.stride_x:g}"
    return f"{rows} x {columns} cells, one every {stride} pixels. The stronger the colour, the more probable the class."
