"""The versions of the decoding rules of each file type: which maps of older versions of densecast are still right.

A table names neither the type of an image nor the version of densecast that decoded it. So the recipe of a row contains
both (`pipeline.maps.recipe`), and a change of the rules of one type leaves the maps of all other types alone.

Raise `Rules.version` of a type in the same change that alters what is accepted, and `Rules.pixels` as well where the
pixels of accepted files differ.
"""

import posixpath
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

UNKNOWN = ""
"""The type of a file that densecast does not decode."""

ENDINGS = {
    **dict.fromkeys((".jpg", ".jpeg", ".jpe", ".jfif"), "JPEG"),
    **dict.fromkeys((".png", ".apng"), "PNG"),
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".gif": "GIF",
    **dict.fromkeys((".tif", ".tiff"), "TIFF"),
    **dict.fromkeys((".ppm", ".pgm", ".pbm", ".pnm"), "PPM"),
}
"""The type of a file by the ending of its name, in lower case. Decoding goes by the content, not by the name."""


class Rules(NamedTuple):
    """The decoding rules of a file type.

    Attributes:
        version: The version of the rules, from 1. Images that an older version rejected are tried again.
        pixels: The first version whose pixels are those of today. Maps of older versions are made again.
    """

    version: int = 1
    pixels: int = 1


_RULES = {
    "JPEG": Rules(version=2),  # 2: accepted without the end marker
    "PNG": Rules(),
    "WEBP": Rules(),
    "BMP": Rules(version=2, pixels=2),  # 2: run lengths
    "GIF": Rules(version=2, pixels=2),  # 2: the background colour around an image that is smaller than its screen
    "TIFF": Rules(version=2, pixels=2),  # 2: planes of 16 bits, associated alpha, signed samples; more kinds accepted
    "PPM": Rules(),
    UNKNOWN: Rules(),
}


class Decoding(NamedTuple):
    """How an image was decoded.

    Attributes:
        format: Its file type, a key of `rules`; None if it was not recorded (by densecast before these versions).
        version: The version of the rules of that type; 1 if it was not recorded.
    """

    format: str | None = None
    version: int = 1


class Currency(StrEnum):
    """Whether the rules of today give what was made under older ones."""

    CURRENT = "current"
    OUTDATED = "outdated"
    UNCERTAIN = "uncertain"  # the content has to be read, because neither the row nor the name tells the type


_GREY_RULES = {**_RULES, "JPEG": Rules(version=2, pixels=2)}  # 2: the luma that is stored
"""The rules for nets that take grey images."""


def rules(*, grey: bool = False) -> Mapping[str, Rules]:
    """Returns the rules of today by file type, for nets that take colour or grey images."""
    return _GREY_RULES if grey else _RULES


def type_by_name(uri: str) -> str | None:
    """Returns the file type that the ending of a name stands for; None if it stands for none.

    >>> type_by_name("shard.tar#cats/1.JPG"), type_by_name("data.parquet#17")
    ('JPEG', None)
    """
    return ENDINGS.get(posixpath.splitext(uri)[1].lower())


def currency(decoding: Decoding, uri: str, today: Mapping[str, Rules], *, rejected: bool) -> Currency:
    """Returns whether what was made of an image is what the rules of today would make.

    If the type was not recorded, the ending of the name is trusted: a file whose name lies keeps its old map.

    Args:
        decoding: How the image was decoded.
        uri: The image.
        today: The rules of today.
        rejected: Whether the image was rejected (at any scale), so that a change of what is accepted matters too.
    """

    def needed(of: Rules) -> int:
        return of.version if rejected else of.pixels

    if decoding.format is None and all(needed(of) <= decoding.version for of in today.values()):
        return Currency.CURRENT
    file_type = type_by_name(uri) if decoding.format is None else decoding.format
    if file_type is None:
        return Currency.UNCERTAIN
    return Currency.CURRENT if needed(today[file_type]) <= decoding.version else Currency.OUTDATED
