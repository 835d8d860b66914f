"""The classes of a map for people: short names, and the share of the cells that each class has."""

import re
from typing import NamedTuple

import numpy as np

from conversion.errors import printable
from pipeline.maps.classification_map import ClassificationMap

BACKGROUND = "background"


class Share(NamedTuple):
    """A class that is the best class of some cells.

    Attributes:
        number: The class.
        name: Its short name.
        share: Its share of the cells, 0 to 1.
    """

    number: int
    name: str
    share: float


def short_name(label: str) -> str:
    """Returns the first of a label's names, printable and without WordNet's number.

    >>> short_name("n02123045 tabby, tabby cat")
    'tabby'
    """
    label = " ".join(printable(label).split())
    return re.sub(r"^n\d{8}\s+", "", label).split(",")[0].strip() or label.strip()


def is_background(name: str) -> bool:
    """Returns whether a class is the background, which is shown without a colour."""
    return short_name(name).casefold() == BACKGROUND


def shares(map_: ClassificationMap) -> list[Share]:
    """Returns the best classes of the cells, the most frequent first and the background last."""
    numbers, counts = np.unique(map_.classes[..., 0], return_counts=True)
    classes = [
        Share(int(number), short_name(map_.label_of(int(number))), float(count) / map_.residual.size)
        for number, count in zip(numbers, counts, strict=True)
    ]
    return sorted(classes, key=lambda item: (is_background(item.name), -item.share, item.number))
