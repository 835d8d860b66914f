"""Names beside a picture, each with a line to what it names, so that no name covers the map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw

from pipeline.visualization.lettering import font
from pipeline.visualization.palette import Color, ink_on

HEIGHT = 20
"""Pixels of a tag."""
GAP = 4
"""Pixels between tags."""
PAPER = (250, 250, 248)
"""The colour around a picture."""

_LEADER = 18  # pixels between a tag and the picture
_EDGE = 6  # pixels beyond a tag


class Tag(NamedTuple):
    """A name beside the picture.

    Attributes:
        name: The class.
        color: Its colour.
        x: The pixel of the picture that it names.
        y: As `x`, downwards.
    """

    name: str
    color: Color
    x: float
    y: float

    @property
    def width(self) -> int:
        """The width of the tag, in pixels."""
        return int(font(14).getlength(self.name)) + 11


def _tops(tags: Sequence[Tag], height: int) -> list[float]:
    """Returns where tags begin, downwards, sorted by what they name: as near to it as there is room, none overlap."""
    tops: list[float] = []
    for y in sorted(tag.y for tag in tags):
        wanted = max(y - HEIGHT / 2, 0)
        tops.append(max(wanted, tops[-1] + HEIGHT + GAP) if tops else wanted)
    below = float(height)
    for index in range(len(tops) - 1, -1, -1):
        tops[index] = max(min(tops[index], below - HEIGHT), 0)
        below = tops[index] - GAP
    return tops


def draw_dot(draw: ImageDraw.ImageDraw, place: tuple[float, float], color: Color) -> None:
    """Draws a dot at (x, y)."""
    x, y = place
    draw.ellipse((x - 4, y - 4, x + 4, y + 4), fill=color, outline="white")


def with_tags(photo: Image.Image, left: list[Tag], right: list[Tag]) -> Image.Image:
    """Returns a picture with tags on both sides, and a line from each to what it names."""
    margins = [max((tag.width + _LEADER + _EDGE for tag in tags), default=0) for tags in (left, right)]
    picture = Image.new("RGB", (margins[0] + photo.width + margins[1], photo.height), PAPER)
    picture.paste(photo, (margins[0], 0))
    draw = ImageDraw.Draw(picture)
    edge = margins[0] + photo.width + _LEADER
    placed: list[tuple[Tag, int, int, float]] = []
    for tags, inner in ((left, margins[0] - _LEADER), (right, edge)):
        for tag, top in zip(sorted(tags, key=lambda tag: tag.y), _tops(tags, picture.height), strict=True):
            start = inner - tag.width if tags is left else inner
            placed.append((tag, start, inner, top))
    for tag, _, inner, top in placed:
        line: list[tuple[float, float]] = [(inner, top + HEIGHT / 2), (margins[0] + tag.x, tag.y)]
        draw.line(line, fill="white", width=3)
        draw.line(line, fill=tag.color, width=1)
    for tag, start, _, top in placed:
        draw_dot(draw, (margins[0] + tag.x, tag.y), tag.color)
        draw.rounded_rectangle((start, top, start + tag.width, top + HEIGHT), radius=3, fill=tag.color)
        middle = top + HEIGHT / 2
        draw.text((start + 5, middle), tag.name, font=font(14), anchor="lm", fill=ink_on(tag.color))
    return picture
