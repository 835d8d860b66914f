"""The classes of a map as people read them: short names, and how much of the map each has."""

import re
from typing import NamedTuple

import numpy as np

from pipeline.maps.classification_map import ClassificationMap

BACKGROUND = "background"


class Share(NamedTuple):
    """A class that is the best one of some cells.

    Attributes:
        number: The class.
        name: Its short name.
        share: Of the cells, 0 to 1.
    """

    number: int
    name: str
    share: float


def short_name(label: str) -> str:
    """The first of a label's names, without WordNet's number and anything that would upset a terminal.

    >>> short_name("n02123045 tabby, tabby cat")
    'tabby'
    """
    label = printable(label)
    return re.sub(r"^n\d{8}\s+", "", label).split(",")[0].strip() or label.strip()


def printable(text: str) -> str:
    """`text` without characters that have no form of their own: labels and file names may hold escape sequences."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)


def is_background(name: str) -> bool:
    """Whether a class stands for nothing in particular: it is shown without a colour."""
    return short_name(name).casefold() == BACKGROUND


def shares(map_: ClassificationMap) -> list[Share]:
    """The best classes of all cells, by how many cells they are best in; background comes last."""
    numbers, counts = np.unique(map_.classes[..., 0], return_counts=True)
    found = [
        Share(int(number), short_name(map_.label_of(int(number))), float(count) / map_.residual.size)
        for number, count in zip(numbers, counts, strict=True)
    ]
    return sorted(found, key=lambda item: (is_background(item.name), -item.share, item.number))
