"""The classes of a map for people: short names, and the share of the cells that each class has."""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from conversion.errors import printable
from pipeline.maps.classification_map import ClassificationMap, Integers

BACKGROUND = "background"

BEST_LABELS = 5
"""The largest number of names that `best_labels` returns."""

LABEL_LENGTH = 80
"""The largest length of such a name, in characters."""


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


@functools.lru_cache(1 << 16)  # a run names the best classes of every map
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


def best_labels(classes: Integers, labels: Sequence[str]) -> list[str] | None:
    """Returns the short names of the classes that are best in most cells, the one with most cells first.

    Args:
        classes: [h, w, k] the best classes of each cell, the best first; from 0.
        labels: The names of all classes, by number; empty where the model has none.

    Returns:
        At most `BEST_LABELS` names of at most `LABEL_LENGTH` characters; of classes with as many cells the one with the
        lower number comes first. None where the model has no labels.

    >>> best_labels(np.array([[[1], [2], [1]]]), ["n02123045 tabby, tabby cat", "dog", "bird"])
    ['dog', 'bird']
    """
    if not labels:
        return None
    counts = np.bincount(classes[..., 0].reshape(-1))
    numbers = np.flatnonzero(counts)
    largest = numbers[np.argsort(-counts[numbers], kind="stable")[:BEST_LABELS]]
    return [_name_of(number, labels)[:LABEL_LENGTH] for number in largest.tolist()]


def _name_of(number: int, labels: Sequence[str]) -> str:
    return (short_name(labels[number]) if number < len(labels) else "") or f"class {number}"
