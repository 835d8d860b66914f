"""Pages of handwritten digits, for training, measuring and demonstrating the digits model.

A page is warm paper with a little grain, sometimes ruled, with single digits and numbers in one or two dark inks.
Between them are marks that no classifier should take for a digit: long strokes, ticks, crosses, loops, blots, specks,
the ring of a cup. It needs only Pillow and NumPy; equal generators compose equal pages.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from models.digits.strokes import (
    SUPERSAMPLING,
    Floats,
    arc,
    blot,
    coil,
    cropped,
    cross,
    dash,
    drawn,
    hatching,
    long_stroke,
    reduced,
    tick,
    wave,
)

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]
_Color = tuple[int, int, int]

# Side of the model's window; the middle of a digit is at least `EDGE` from the first and the last pixel.
WINDOW = 32
EDGE = 15
# Height of a digit before it is turned, sheared and scaled a little.
DIGIT_HEIGHT = 24
# Pixels free of ink between the boxes of two digits, or of a digit and clutter; and between the middles of two digits.
GAP = 4
PITCH = 18

_HELD_OUT = Path(__file__).parent / "held_out.npz"
_SIDES = (160, 480)
_SHARPENED = 12  # pixels per cell of an enlarged 8x8 image, before its outline is sharpened

_PAPERS: tuple[_Color, ...] = (
    (250, 243, 226),
    (247, 238, 216),
    (244, 236, 222),
    (251, 246, 235),
    (241, 230, 206),
    (245, 240, 230),
)
_INKS: tuple[_Color, ...] = (
    (24, 34, 78),
    (34, 32, 36),
    (28, 52, 112),
    (66, 40, 28),
    (18, 66, 62),
    (104, 26, 34),
    (66, 30, 84),
    (44, 56, 36),
)
_RULES: tuple[_Color, ...] = ((120, 150, 190), (150, 160, 170), (130, 165, 150))
_MARGIN: _Color = (205, 110, 110)
_COFFEE: _Color = (128, 84, 44)


@dataclasses.dataclass(frozen=True, slots=True)
class Placed:
    """A digit on a page.

    Attributes:
        label: 0 to 9.
        y, x: The middle of its ink's bounding box, in pixels; the middle of the first pixel is 0.
        height, width: The size of that box.
    """

    label: int
    y: float
    x: float
    height: int
    width: int

    @property
    def top(self) -> int:
        """The first row of its box."""
        return round(self.y - (self.height - 1) / 2)

    @property
    def left(self) -> int:
        """The first column of its box."""
        return round(self.x - (self.width - 1) / 2)


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Page:
    """A page and the digits on it.

    Attributes:
        pixels: RGB, uint8 [H, W, 3].
        digits: In the order in which they were written.
    """

    pixels: Pixels
    digits: tuple[Placed, ...]


@functools.cache
def held_out() -> tuple[Pixels, Labels]:
    """Returns the digits kept out of training: images uint8 [n, 8, 8] with values 0 to 16, and their labels [n].

    They are a part of E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0
    (https://creativecommons.org/licenses/by/4.0/); unchanged except for the type of the numbers.
    """
    with np.load(_HELD_OUT, allow_pickle=False) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    for array in (images, labels):
        array.setflags(write=False)
    return images, labels


def compose_page(
    rng: np.random.Generator,
    images: Pixels,
    labels: Sequence[int] | NDArray[np.integer],
    *,
    size: tuple[int, int] | None = None,
    count: int | None = None,
    clutter: bool = True,
    variation: float = 1.0,
) -> Page:
    """Composes a page of digits drawn at random from those given.

    Args:
        rng: The source of all random choices.
        images: The digits, [n, 8, 8] with values 0 (paper) to 16 (ink).
        labels: Their labels.
        size: Height and width; by default each between 160 and 480.
        count: The number of digits; by default about half of what fits. A page without room for all has fewer.
        clutter: Whether there may be rules, stains, strokes and specks.
        variation: How much the digits are bent: 1 is a little.

    Raises:
        ValueError: The page is smaller than the model's window, or there are no images, or another number of labels.
    """
    height, width = (int(side) for side in rng.integers(_SIDES[0], _SIDES[1] + 1, size=2)) if size is None else size
    if min(height, width) < WINDOW:
        raise ValueError(f"a page of {height}x{width} pixels: the model's window is {WINDOW}x{WINDOW}")
    if len(images) != len(labels) or len(images) == 0:
        raise ValueError(f"{len(images)} images with {len(labels)} labels")
    if count is None:
        count = max(1, round(height * width / 1764 * rng.uniform(0.35, 0.65)))
    sheet = _Sheet(rng, height, width)
    if clutter:
        sheet.stain()
        sheet.rule()
    digits = _write(sheet, images, labels, count=count, variation=variation)
    if clutter:
        for _ in range(rng.poisson(height * width / 9000)):
            sheet.doodle()
        sheet.speckle()
    return Page(sheet.finished(), tuple(digits))


def _write(
    sheet: _Sheet, images: Pixels, labels: Sequence[int] | NDArray[np.integer], *, count: int, variation: float
) -> list[Placed]:
    """Writes numbers of one to four digits wherever there is room, on slightly uneven lines."""
    rng = sheet.rng
    digits: list[Placed] = []

    def has_room(y: float, x: float) -> bool:
        return sheet.has_window(y, x) and all(math.hypot(y - other.y, x - other.x) >= PITCH for other in digits)

    for _ in range(20 * count):
        y, x = sheet.somewhere()
        ink, pen, slope = sheet.ink(), rng.uniform(0.12, 0.2), rng.normal(0, 0.04)
        for _ in range(min(int(rng.integers(1, 5)), count - len(digits))):
            if not has_room(y, x):
                break  # most attempts end here once a page is full
            index = int(rng.integers(len(images)))
            glyph = _glyph(rng, images[index], pen, variation)
            height, width = glyph.shape
            top, left = round(y - (height - 1) / 2), round(x - (width - 1) / 2)
            placed = Placed(int(labels[index]), top + (height - 1) / 2, left + (width - 1) / 2, height, width)
            if not has_room(placed.y, placed.x) or not sheet.is_free(top, left, height, width):
                break
            sheet.take(top, left, height, width)
            sheet.draw(glyph, top, left, color=ink)
            digits.append(placed)
            step = max(PITCH + 1.0, width / 2 + DIGIT_HEIGHT / 3 + rng.uniform(GAP, 10))
            x, y = x + step, y + slope * step + rng.normal(0, 1.2)
        if len(digits) >= count:
            break
    return digits


def _glyph(rng: np.random.Generator, image: Pixels, pen: float, variation: float) -> Floats:
    """Returns a digit as ink coverage 0 to 1, cropped to its ink: enlarged smoothly, made sharp, then bent a little.

    Args:
        rng: The source of the bends.
        image: [8, 8], 0 to 16.
        pen: How much darker than its surroundings the outline is, 0 to 1; a lower value makes broader strokes.
        variation: Scale of the bends: scale, rotation, shear and warp.
    """
    padded = np.pad(image.astype(np.float64) / max(int(image.max()), 1) * 255, 1).astype(np.uint8)
    side = padded.shape[0] * _SHARPENED
    smooth = Image.fromarray(padded).resize((side, side), Image.Resampling.BICUBIC)
    around = smooth.filter(ImageFilter.GaussianBlur(1.1 * _SHARPENED))
    # Relative to its surroundings, not to a fixed grey: strokes become even, and the loops of 6, 8 and 9 stay open.
    contrast = np.asarray(smooth, dtype=np.float32) / 255 - np.asarray(around, dtype=np.float32) / 255 * 0.85
    sharp = np.clip((contrast - pen) / 0.16 + 0.5, 0, 1)
    # Nodes of a grid over the supersampled result, and their positions in the enlarged image.
    bends = np.clip(rng.standard_normal(4), -2, 2) * variation
    angle, shear, aspect, scale = bends * (math.radians(4), 0.07, 0.05, 0.035)
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    bend = turn @ np.array([[1 + aspect, shear], [0, 1]]) * (1 + scale)
    enlarged = DIGIT_HEIGHT / (8 * _SHARPENED) * SUPERSAMPLING
    target = 44 * SUPERSAMPLING
    edges = np.linspace(0, target, 5).astype(int)
    nodes = np.stack(np.meshgrid(edges, edges), axis=-1)
    source = (nodes - target / 2) @ np.linalg.inv(bend).T / enlarged + side / 2
    source += rng.normal(0, 0.15 * variation * _SHARPENED, source.shape)
    mesh = [
        (
            (int(edges[j]), int(edges[i]), int(edges[j + 1]), int(edges[i + 1])),
            tuple(source[[i, i + 1, i + 1, i], [j, j, j + 1, j + 1]].ravel().tolist()),
        )
        for i in range(4)
        for j in range(4)
    ]
    picture = Image.fromarray(np.rint(sharp * 255).astype(np.uint8))
    bent = picture.transform((target, target), Image.Transform.MESH, mesh, Image.Resampling.BILINEAR)
    return cropped(reduced(bent))


class _Sheet:
    """A sheet of paper that is being written on: its pixels, its inks, its lines and the boxes that are taken."""

    def __init__(self, rng: np.random.Generator, height: int, width: int) -> None:
        self.rng, self.height, self.width = rng, height, width
        self._inks = rng.choice(len(_INKS), size=2, replace=False)
        self._taken: list[tuple[int, int, int, int]] = []
        self._lines: tuple[float, float] | None = None  # where the first line is, and how far apart they are
        color = np.array(_PAPERS[int(rng.integers(len(_PAPERS)))], dtype=np.float32)
        clouds = self._noise(90) * 3.0 + self._noise(24) * 1.6
        grain = rng.standard_normal((height, width), dtype=np.float32) * 1.7
        y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j].astype(np.float32)
        shade = (clouds + grain - 5.0 * (y**2 + x**2))[..., None]
        # Shadows on paper are warm: blue loses most.
        self._canvas: Floats = color + shade * np.array([0.9, 1.0, 1.2], dtype=np.float32)

    def finished(self) -> Pixels:
        """Returns the sheet as RGB, uint8."""
        return np.clip(np.rint(self._canvas), 0, 255).astype(np.uint8)

    def ink(self) -> _Color:
        """Returns one of the page's two inks, mostly the first."""
        return _INKS[int(self._inks[0 if self.rng.random() < 0.75 else 1])]

    # Room.

    def somewhere(self) -> tuple[float, float]:
        """Returns a position (y, x) whose window lies on the page; on ruled pages mostly just above a line."""
        rng = self.rng
        y, x = (rng.uniform(EDGE, side - 1 - EDGE) for side in (self.height, self.width))
        if self._lines is not None and rng.random() < 0.85:
            first, spacing = self._lines
            y = first + spacing * round((y + DIGIT_HEIGHT / 2 - first) / spacing) - DIGIT_HEIGHT / 2 - rng.uniform(0, 3)
        return y, x

    def has_window(self, y: float, x: float) -> bool:
        """Returns whether a digit's middle is far enough from the edges."""
        return EDGE <= y <= self.height - 1 - EDGE and EDGE <= x <= self.width - 1 - EDGE

    def is_free(self, top: int, left: int, height: int, width: int) -> bool:
        """Returns whether a box lies on the page and at least `GAP` from all taken boxes."""
        if top < 0 or left < 0 or top + height > self.height or left + width > self.width:
            return False
        return all(
            top + height + GAP <= t or t + h + GAP <= top or left + width + GAP <= x or x + w + GAP <= left
            for t, x, h, w in self._taken
        )

    def take(self, top: int, left: int, height: int, width: int) -> None:
        """Marks a box as taken."""
        self._taken.append((top, left, height, width))

    # Ink.

    def draw(self, coverage: Floats, top: int, left: int, *, color: _Color, opacity: float = 0.93) -> None:
        """Lays ink over a box of the sheet, a little unevenly."""
        height, width = coverage.shape
        flow = 1 - 0.12 * np.abs(self._noise(5, (height, width)))
        self._blend(coverage * flow * opacity, top, left, color)

    def stain(self) -> None:
        """Draws the ring that a cup leaves, on some pages."""
        rng = self.rng
        if rng.random() > 0.3:
            return
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        middle = rng.uniform(-0.1, 1.1) * self.height, rng.uniform(-0.1, 1.1) * self.width
        radius, breadth = rng.uniform(38, 75), rng.uniform(1.5, 3.5)
        distance = np.hypot(y - middle[0], x - middle[1]) + self._noise(16) * 0.5
        turn = np.arctan2(y - middle[0], x - middle[1]) + rng.uniform(0, 2 * math.pi)
        rim = np.exp(-(((distance - radius) / breadth) ** 2)) * (0.55 + 0.45 * np.sin(turn))
        inside = 0.05 * np.clip((radius - distance) / 3 + 0.5, 0, 1)
        self._blend((rim * 0.4 + inside).astype(np.float32), 0, 0, _COFFEE)

    def rule(self) -> None:
        """Draws lines on many pages, with or without a margin, or squares; faint, and not quite level."""
        rng = self.rng
        kind = rng.choice(3, p=(0.4, 0.4, 0.2))
        if kind == 0:
            return
        color = _RULES[int(rng.integers(len(_RULES)))]
        spacing = rng.uniform(31, 40) if kind == 1 else rng.uniform(15, 20)
        first, tilt = rng.uniform(0.4, 1) * spacing, rng.normal(0, 0.004)
        y, x = np.mgrid[: self.height, : self.width].astype(np.float32)
        opacity, breadth = rng.uniform(0.25, 0.55), rng.uniform(0.8, 1.4)

        def line(distance: Floats) -> Floats:
            return np.clip(breadth / 2 + 0.5 - np.abs(distance), 0, 1) * opacity

        def lines(along: Floats) -> Floats:
            return line((along - first + spacing / 2) % spacing - spacing / 2)

        self._blend(lines(y - tilt * x), 0, 0, color)
        if kind == 2:
            self._blend(lines(x + tilt * y), 0, 0, color)
        elif rng.random() < 0.6:
            self._blend(line(x + tilt * y - rng.uniform(0.06, 0.16) * self.width), 0, 0, _MARGIN)
        if kind == 1:
            self._lines = (first, spacing)

    def doodle(self) -> None:
        """Draws a mark of the pen that is not a digit, where there is room for it."""
        rng = self.rng
        kinds = (long_stroke, tick, cross, coil, dash, blot, wave, hatching)
        weights = np.array((3, 2, 2, 2, 3, 2, 2, 1))
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        breadth = rng.uniform(1.3, 2.6)
        coverage = drawn(kind(rng), breadth)
        height, width = coverage.shape
        if height >= self.height or width >= self.width:
            return
        ink = self.ink()
        for _ in range(12):
            top, left = int(rng.integers(self.height - height)), int(rng.integers(self.width - width))
            if self.is_free(top, left, height, width):
                self.take(top, left, height, width)
                self.draw(coverage, top, left, color=ink)
                return

    def speckle(self) -> None:
        """Draws dust and fibres of the paper, over everything."""
        rng = self.rng
        for _ in range(rng.poisson(self.height * self.width / 6000)):
            if rng.random() < 0.6:
                coverage = drawn([[(0.0, 0.0), (0.1, 0.1)]], rng.uniform(0.8, 1.8))
            else:
                coverage = drawn([arc(rng.uniform(3, 9), rng.uniform(-0.1, 0.1), rng.uniform(0, math.pi))], 0.8)
            height, width = coverage.shape
            top, left = int(rng.integers(self.height - height)), int(rng.integers(self.width - width))
            self._blend(coverage * rng.uniform(0.15, 0.5), top, left, (110, 90, 66))

    def _blend(self, coverage: Floats, top: int, left: int, color: _Color) -> None:
        height, width = coverage.shape
        under = self._canvas[top : top + height, left : left + width]
        under += coverage[..., None] * (np.array(color, dtype=np.float32) - under)

    def _noise(self, grid: int, size: tuple[int, int] | None = None) -> Floats:
        """Returns smooth noise with one independent value about every `grid` pixels, mostly within -2 to 2."""
        height, width = size or (self.height, self.width)
        values = self.rng.standard_normal((height // grid + 2, width // grid + 2), dtype=np.float32)
        coarse = Image.fromarray(np.clip(np.rint(values * 40 + 128), 0, 255).astype(np.uint8))
        smooth = coarse.resize((width, height), Image.Resampling.BICUBIC)
        return (np.asarray(smooth, dtype=np.float32) - 128) / 40
