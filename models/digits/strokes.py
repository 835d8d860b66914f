"""Marks of a pen that are not digits, as coverage masks: strokes, ticks, coils, blots.

Each function of a mark returns the pen's paths as points (x, y) in pixels. No mark has the size and form of a digit:
straight ones are far longer or far shorter, closed ones far smaller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Floats = NDArray[np.floating]
Points = list[tuple[float, float]]

SUPERSAMPLING = 4


def drawn(paths: Sequence[Points], breadth: float) -> Floats:
    """Returns the coverage, 0 to 1, of paths drawn with a round pen, cropped to the ink."""
    s = SUPERSAMPLING
    points = np.array([point for path in paths for point in path])
    low = points.min(axis=0) - breadth
    width, height = (int(side) + 2 for side in np.ceil(points.max(axis=0) + breadth - low))
    image = Image.new("L", (width * s, height * s))
    pen = ImageDraw.Draw(image)
    radius = breadth * s / 2
    for path in paths:
        moved = [((x - low[0]) * s, (y - low[1]) * s) for x, y in path]
        pen.line(moved, fill=255, width=max(1, round(breadth * s)), joint="curve")
        for x, y in (moved[0], moved[-1]):
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=255)
    return cropped(reduced(image))


def arc(length: float, bend: float, angle: float) -> Points:
    """Returns a stroke that bends by `bend` radians for each of its ten steps."""
    points, x, y, step = [(0.0, 0.0)], 0.0, 0.0, length / 10
    for _ in range(10):
        x, y, angle = x + step * math.cos(angle), y + step * math.sin(angle), angle + bend
        points.append((x, y))
    return points


def long_stroke(rng: np.random.Generator) -> list[Points]:
    """Returns an underline or a long sweep of the pen in any direction."""
    level = rng.random() < 0.5
    angle = rng.normal(0, 0.08) if level else rng.uniform(0, math.pi)
    return [arc(rng.uniform(48, 130), rng.normal(0, 0.04), angle)]


def tick(rng: np.random.Generator) -> list[Points]:
    """Returns a check mark."""
    size = rng.uniform(9, 13)
    return [[(0.0, 0.0), (size * 0.35, size * 0.45), (size * 1.2, -size * rng.uniform(0.6, 0.9))]]


def cross(rng: np.random.Generator) -> list[Points]:
    """Returns two or three short strokes through one point: a cross, a plus, an asterisk."""
    half, count, turn = rng.uniform(4, 8), int(rng.integers(2, 4)), rng.uniform(0, math.pi)
    angles = [turn + math.pi * i / count + rng.normal(0, 0.1) for i in range(count)]
    return [[(-half * math.cos(a), -half * math.sin(a)), (half * math.cos(a), half * math.sin(a))] for a in angles]


def coil(rng: np.random.Generator) -> list[Points]:
    """Returns small loops in a row, as one tries a pen."""
    radius, advance, turns = rng.uniform(3, 5.5), rng.uniform(0.7, 1.4), int(rng.integers(3, 9))
    slant = rng.normal(0, 0.1)
    t = np.linspace(0, 2 * math.pi * turns, 16 * turns)
    x, y = radius * np.cos(t) + advance * t, radius * np.sin(t) + slant * advance * t
    return [list(zip(x.tolist(), y.tolist(), strict=True))]


def dash(rng: np.random.Generator) -> list[Points]:
    """Returns a hyphen, an equals sign, an apostrophe, quotation marks."""
    level = rng.random() < 0.6
    angle = (0.0 if level else math.pi / 2 + 0.4) + rng.normal(0, 0.15)
    stroke = arc(rng.uniform(4, 9), rng.normal(0, 0.04), angle)
    if rng.random() < 0.6:
        return [stroke]
    return [stroke, [(x, y + 5) if level else (x + 5, y) for x, y in stroke]]


def blot(rng: np.random.Generator) -> list[Points]:
    """Returns a drop of ink, filled by going round and round."""
    t = np.linspace(0, 2 * math.pi * 6, 120)
    wobble = 1 + 0.25 * np.sin(t % (2 * math.pi) * rng.integers(1, 4) + rng.uniform(0, 6))
    radius = np.linspace(0, rng.uniform(2, 6), 120) * wobble
    return [list(zip((radius * np.cos(t)).tolist(), (radius * np.sin(t)).tolist(), strict=True))]


def wave(rng: np.random.Generator) -> list[Points]:
    """Returns a wavy line, as words look from afar."""
    steps = int(rng.integers(120, 360))
    phase = np.cumsum(rng.uniform(0.1, 0.45, steps))
    swing = 3.2 + np.convolve(rng.normal(0, 6, steps), np.ones(16) / 16, mode="same")
    x = np.arange(steps) * 0.32 + 1.6 * np.cos(phase)
    return [list(zip(x.tolist(), (swing * np.sin(phase)).tolist(), strict=True))]


def hatching(rng: np.random.Generator) -> list[Points]:
    """Returns parallel strokes close together."""
    count, length, apart = int(rng.integers(5, 10)), rng.uniform(14, 26), rng.uniform(4, 6)
    lean = rng.uniform(0.2, 0.9)
    return [
        [(i * apart + rng.normal(0, 0.5), 0.0), (i * apart + lean * length * 0.6 + rng.normal(0, 0.5), -length)]
        for i in range(count)
    ]


def reduced(image: Image.Image) -> Floats:
    """Returns a supersampled drawing as coverage 0 to 1."""
    return np.asarray(image.reduce(SUPERSAMPLING), dtype=np.float32) / 255


def cropped(coverage: Floats) -> Floats:
    """Returns the part with ink."""
    rows, columns = (np.flatnonzero((coverage > 0.15).any(axis=axis)) for axis in (1, 0))
    if not rows.size:
        return coverage[:1, :1]
    return coverage[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
