"""Types of arguments: what people write on the command line, and the values that it stands for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import click

from conversion.errors import DensecastError
from pipeline.units import parse_duration, parse_share, parse_size

T = TypeVar("T")

_HOUR_S = 3600


class Parsed(click.ParamType[T]):
    """A type that a function parses.

    Args:
        name: What help calls the value, in capital letters.
        parse: Makes the value of a text; raises ValueError or DensecastError.
    """

    def __init__(self, name: str, parse: Callable[[str], T]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> T:
        """Returns the value of a text; any other object is a value already."""
        if not isinstance(value, str):
            return cast(T, value)
        try:
            return self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        except DensecastError as error:
            self.fail(f"{error.what}: {error.remedy}" if error.remedy else error.what, param, ctx)


def parse_image_size(text: str) -> tuple[int, int]:
    """Returns (height, width) in pixels of `HEIGHTxWIDTH`, or of one number for a square.

    >>> parse_image_size("227x300"), parse_image_size("451")
    ((227, 300), (451, 451))
    """
    parts = text.lower().split("x")
    if len(parts) not in (1, 2) or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"{text!r} is not a size: write 451x451 (height x width) or 451")
    return int(parts[0]), int(parts[-1])


def _parse_resize(text: str) -> int | tuple[int, int]:
    """Returns the length of an image's shorter side in pixels, or (height, width)."""
    size = parse_image_size(text)
    return size if "x" in text.lower() else size[0]


def _parse_numbers(text: str) -> tuple[float, ...]:
    if text.strip().lower() == "none":
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"{text!r} is not numbers with commas between them, such as 1,0.7,0.5, and not none") from None


def _parse_whole_numbers(text: str) -> list[int]:
    """Returns counts, each from 1."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not all(part.isdecimal() and 0 < int(part) < 1 << 31 for part in parts):
        raise ValueError(f"{text!r} is not whole numbers from 1 with commas between them, such as 1,8")
    return [int(part) for part in parts]


def _parse_file_size(text: str) -> int:
    size = parse_size(text)
    if size == 0:
        raise ValueError(f"{text!r} is not a size: write 128MB or 1GB")
    return size


def _parse_retention(text: str) -> int:
    """Returns hours."""
    hours, rest = divmod(parse_duration(text), _HOUR_S)
    if rest:
        raise ValueError(f"{text!r} is not a whole number of hours: write 12h, 7d or 2w")
    return int(hours)


def _parse_cell(text: str) -> tuple[int, int]:
    """Returns (row, column), counted from 0."""
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() and part.isascii() for part in parts):
        raise ValueError(f"{text!r} is not a cell: write its row and column, counted from 0, as 3,5")
    return int(parts[0]), int(parts[1])


IMAGE_SIZE = Parsed("size", parse_image_size)
RESIZE = Parsed("pixels", _parse_resize)
NUMBERS = Parsed("numbers", _parse_numbers)
WHOLE_NUMBERS = Parsed("numbers", _parse_whole_numbers)
SHARE = Parsed("share", parse_share)
FILE_SIZE = Parsed("size", _parse_file_size)
RETENTION = Parsed("retention", _parse_retention)
CELL = Parsed("row,column", _parse_cell)
