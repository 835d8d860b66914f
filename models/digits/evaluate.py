"""Measures the digits model on pages of held-out digits: `python -m models.digits.evaluate`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conversion import (
    ReceptiveField,
    cast,
    convert,
    load_network,
    load_savedmodel,
    receptive_field,
)
from models.catalog import entry
from models.digits.pages import Labels, Page, Pixels, compose_page, held_out
from models.fetch import fetch

BACKGROUND = 10
# A cell whose distance from the middle of every digit is larger than this, in pixels, must be background.
FAR = 20.0

# Takes a page's pixels, uint8 RGB [H, W, 3], and returns its map, float [h, w, 11].
Scorer = Callable[[Pixels], NDArray[np.floating]]


@dataclasses.dataclass(frozen=True, slots=True)
class Accuracy:
    """How often maps are right.

    Attributes:
        digits: The number of digits.
        digits_right: Of these, the number whose nearest cell names them.
        background: The number of cells farther than `FAR` from every digit.
        background_right: Of these, the number classified as background.
    """

    digits: int = 0
    digits_right: int = 0
    background: int = 0
    background_right: int = 0

    def __add__(self, other: Accuracy) -> Accuracy:
        return Accuracy(*(a + b for a, b in zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))

    def __str__(self) -> str:
        return (
            f"digits: {self.digits_right} of {self.digits} right "
            f"({self.digits_right / max(self.digits, 1):.2%}); "
            f"background: {self.background_right} of {self.background} cells right "
            f"({self.background_right / max(self.background, 1):.3%})"
        )


def measure(score: Scorer, geometry: ReceptiveField, pages: Iterable[Page]) -> Accuracy:
    """Scores pages and compares the maps with the digits on them."""
    return sum((judge(page, score(page.pixels), geometry) for page in pages), Accuracy())


def judge(page: Page, probabilities: NDArray[np.floating], geometry: ReceptiveField) -> Accuracy:
    """Compares the map of one page with the digits on it."""
    classes = probabilities.argmax(axis=-1)
    rows, columns = classes.shape
    right = 0
    for digit in page.digits:
        row = min(max(geometry.y.cell_at(digit.y), 0), rows - 1)
        column = min(max(geometry.x.cell_at(digit.x), 0), columns - 1)
        right += int(classes[row, column] == digit.label)
    far = classes[distances(page, classes.shape, geometry) > FAR]
    return Accuracy(len(page.digits), right, far.size, int((far == BACKGROUND).sum()))


def distances(page: Page, cells: tuple[int, ...], geometry: ReceptiveField) -> NDArray[np.float64]:
    """Returns the distance from the middle of every cell to that of the nearest digit, in pixels: [h, w]."""
    y = np.array([float(geometry.y.center(i)) for i in range(cells[0])])
    x = np.array([float(geometry.x.center(i)) for i in range(cells[1])])
    result = np.full((len(y), len(x)), np.inf)
    for digit in page.digits:
        np.minimum(result, np.hypot((y - digit.y)[:, None], (x - digit.x)[None, :]), out=result)
    return result


def pages_of(images: Pixels, labels: Labels, digits: int, seed: int) -> Iterator[Page]:
    """Yields pages with that many digits in total, or a few more."""
    rng = np.random.default_rng(seed)
    while digits > 0:
        page = compose_page(rng, images, labels)
        digits -= len(page.digits)
        yield page


def main(arguments: list[str] | None = None) -> None:
    """Converts the model and prints its accuracy for each seed and in total."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", type=int, default=1000, help="held-out digits to place for each seed")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    options = parser.parse_args(arguments)
    model = entry("digits")
    geometry = receptive_field(cast(load_network(model.definition)))
    images, labels = held_out()
    total = Accuracy()
    with tempfile.TemporaryDirectory() as directory:
        output = Path(directory) / "digits"
        convert(model.definition, fetch(model), output, mean=model.mean, scale=model.scale, labels=model.labels)
        signature = load_savedmodel(output).signatures["serving_default"]

        def score(pixels: Pixels) -> NDArray[np.floating]:
            return np.asarray(signature(images=pixels[None])["probabilities"][0])

        for seed in options.seeds:
            accuracy = measure(score, geometry, pages_of(images, labels, options.digits, seed))
            sys.stdout.write(f"seed {seed}: {accuracy}\n")
            total += accuracy
    sys.stdout.write(f"all: {total}\n")


if __name__ == "__main__":
    main()
