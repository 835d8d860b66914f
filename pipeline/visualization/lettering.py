"""The letters of pictures: Pillow's own font, and names that it can write."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

from pipeline.maps.classification_map import ClassificationMap
from pipeline.maps.labels import short_name

_LONGEST_NAME = 28  # characters


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
