"""One colour per class: perceptually well separated, and the same in every picture, run and process."""

from collections.abc import Mapping
from functools import lru_cache
from math import cos, dist, radians, sin
from types import MappingProxyType

import numpy as np

Color = tuple[int, int, int]

# Hue, lightness and chroma each advance by an irrational part of their range, so that neighbours in the list of classes
# differ most (breeds of dog, for example, which occur in one picture). The numbers come from a search: the steps that
# keep any six of forty successive classes furthest apart, and the start that does so for the first eleven.
_STEPS = (0.3027756377, 0.4142135624, 0.7320508076)
_START = (0.79, 0.19, 0.80)
_LIGHTNESS = (0.46, 0.82)
_CHROMA = (0.14, 0.25)
_DISTINCT = 16  # classes of one picture whose colours are told apart
_CLEAR = 0.11  # distance in OKLab of colours that are easily told apart
_CANDIDATES = 32
_FAR = 1009  # between the classes whose colours are tried: more than a model has, so that it takes none of another's


@lru_cache(maxsize=4096)
def class_color(number: int) -> Color:
    """Returns the colour of a class as sRGB, 0 to 255: neither too dark nor too light over a photograph.

    Args:
        number: The class, counted from 0.
    """
    hue, light, colorful = ((start + number * step) % 1 for start, step in zip(_START, _STEPS, strict=True))
    lightness = _LIGHTNESS[0] + light * (_LIGHTNESS[1] - _LIGHTNESS[0])
    chroma = _CHROMA[0] + colorful * (_CHROMA[1] - _CHROMA[0])
    return from_oklch(lightness, chroma, 360 * hue)


@lru_cache(maxsize=256)
def distinct_colors(numbers: tuple[int, ...]) -> Mapping[int, Color]:
    """Returns the colours of the classes of one picture; the first ones can be told apart.

    A class has its own colour, unless that is too near to the colour of a class before it. It then takes the colour of
    a class of far away, which need not be the same one in another picture.

    Args:
        numbers: The classes, counted from 0, the most important first.
    """
    colors: dict[int, Color] = {}
    for number in numbers:
        colors[number] = class_color(number)
        if 0 < len(colors) - 1 < _DISTINCT:
            others = [_oklab(color) for other, color in colors.items() if other != number]
            # The farthest so far is kept, until one is clearly apart.
            farthest = -1.0
            for step in range(_CANDIDATES):
                color = class_color(number + step * _FAR)
                nearest = min(dist(_oklab(color), other) for other in others)
                if nearest > farthest:
                    colors[number], farthest = color, nearest
                if nearest >= _CLEAR:
                    break
    return MappingProxyType(colors)


@lru_cache(maxsize=4096)
def _oklab(color: Color) -> tuple[float, ...]:
    """Returns a colour of sRGB in the perceptual space OKLab."""
    rgb = np.array(color) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(np.linalg.solve(np.array(_FROM_LMS), linear))
    return tuple(float(value) for value in np.linalg.solve(np.array(_FROM_OKLAB), lms))


def from_oklch(lightness: float, chroma: float, hue: float) -> Color:
    """Returns a colour of the perceptual space OKLCH as sRGB; its chroma is reduced until sRGB contains it.

    Args:
        lightness: 0 (black) to 1 (white).
        chroma: 0 (gray) to about 0.3.
        hue: 0 to 360 degrees.
    """
    while True:
        a, b = chroma * cos(radians(hue)), chroma * sin(radians(hue))
        lms = (np.array(_FROM_OKLAB) @ np.array([lightness, a, b])) ** 3
        rgb = np.array(_FROM_LMS) @ lms
        if chroma <= 0 or bool(np.all((rgb >= 0) & (rgb <= 1))):
            break
        chroma -= 0.005
    rgb = np.clip(rgb, 0, 1)
    encoded = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    red, green, blue = (int(value) for value in np.round(encoded * 255))
    return red, green, blue


def ink_on(color: Color) -> Color:
    """Returns black or white, whichever is easier to read on a colour."""
    red, green, blue = (value / 255 for value in color)
    return (20, 20, 24) if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 > 0.30 else (255, 255, 255)


# The matrices of Björn Ottosson's OKLab: to the cube roots of cone responses, and from cone responses to linear sRGB.
_FROM_OKLAB = (
    (1.0, 0.3963377774, 0.2158037573),
    (1.0, -0.1055613458, -0.0638541728),
    (1.0, -0.0894841775, -1.2914855480),
)
_FROM_LMS = (
    (4.0767416621, -3.3077115913, 0.2309699292),
    (-1.2684380046, 2.6097574011, -0.3413193965),
    (-0.0041960863, -0.7034186147, 1.7076147010),
)
