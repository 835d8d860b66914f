"""Drift: the differences in classes, confidence and rejections between two sets of maps. Pure.

The unit of area is the cell. The class of a cell is its best class, its confidence the probability of that class. All
sums are of integers, so they do not depend on the order of the maps, and equal sets have a difference of exactly 0.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

BINS = 1 << 10
"""The number of bins of the histogram of confidence; quantiles are exact to half of 1 / BINS."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

_UNIT = 1 << 24  # probabilities are summed in units of 2**-24, the resolution of float32

Array = NDArray[Any]


@dataclass
class Tally:
    """Counts over a set of maps.

    Attributes:
        maps: The number of maps.
        reasons: Images without a map, by the reason of their rejection.
        cells: The number of cells by best class.
        units: The sum of the probability of the best class, by that class, in units of 2**-24.
        histogram: [BINS] int64, the number of cells by confidence.
    """

    maps: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    cells: Counter[str] = field(default_factory=Counter)
    units: Counter[str] = field(default_factory=Counter)
    histogram: Array = field(default_factory=lambda: np.zeros(BINS, np.int64))

    def add_cells(self, labels: Sequence[str], best: Array, scores: Array) -> None:
        """Adds cells.

        Args:
            labels: The names of the classes; a class without one is named by its number.
            best: [n] integers, the best class of each cell, at least 0.
            scores: [n] float32, its probability, 0 to 1.
        """
        units = np.rint(np.clip(scores, 0, 1).astype(np.float64) * _UNIT).astype(np.int64)
        cells = np.bincount(best)
        # Sums of integers below 2**53 are exact in float64.
        sums = np.bincount(best, weights=units.astype(np.float64))
        for index in np.flatnonzero(cells).tolist():
            name = labels[index] if index < len(labels) else f"class {index}"
            self.cells[name] += int(cells[index])
            self.units[name] += int(sums[index])
        self.histogram += np.bincount(np.minimum(units * BINS // _UNIT, BINS - 1), minlength=BINS)

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            self.maps + other.maps,
            self.reasons + other.reasons,
            self.cells + other.cells,
            # Counter's addition drops sums of zero, which a Counter returns for a missing class too.
            self.units + other.units,
            self.histogram + other.histogram,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tally):
            return NotImplemented
        mine, theirs = ((t.maps, +t.reasons, +t.cells, +t.units, t.histogram.tolist()) for t in (self, other))
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]  # it changes

    @property
    def area(self) -> int:
        """Returns the number of cells."""
        return self.cells.total()

    @property
    def rejection_rate(self) -> float | None:
        """Returns the share of images without a map, 0 to 1; None if there are no images."""
        rejected = self.reasons.total()
        return rejected / (self.maps + rejected) if self.maps + rejected else None

    @property
    def confidence(self) -> float | None:
        """Returns the mean confidence of all cells, 0 to 1; None if there are no cells."""
        return self.units.total() / _UNIT / self.area if self.area else None

    def quantile(self, share: float) -> float | None:
        """Returns the confidence that `share` of the cells do not exceed: the middle of its bin; None if no cells."""
        if not self.area:
            return None
        index = int(np.searchsorted(np.cumsum(self.histogram), max(1, math.ceil(share * self.area))))
        return (index + 0.5) / BINS

    def side(self) -> Side:
        """Returns the summary of the counts."""
        return Side(
            maps=self.maps,
            rejected=self.reasons.total(),
            rejection_rate=self.rejection_rate,
            reasons=dict(sorted(self.reasons.items())),
            cells=self.area,
            confidence=self.confidence,
            quantiles={f"{share:g}": value for share in QUANTILES if (value := self.quantile(share)) is not None},
        )


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Frozen):
    """One of two sets of maps.

    Attributes:
        maps: The number of maps.
        rejected: The number of images (at a scale) without a map.
        rejection_rate: Their share, 0 to 1; None if there are no images.
        reasons: Their number by reason.
        cells: The number of cells of the maps.
        confidence: The mean probability of the cells' best classes, 0 to 1; None if there are no cells.
        quantiles: The quantiles of that probability, by share.
    """

    maps: int
    rejected: int
    rejection_rate: float | None
    reasons: dict[str, int]
    cells: int
    confidence: float | None
    quantiles: dict[str, float]


class ClassChange(_Frozen):
    """A class in two sets of maps.

    Attributes:
        name: Its label.
        before: The share of cells in the first set whose best class it is, 0 to 1.
        after: The share in the second set.
        change: `after - before`.
        probability_before: Its mean probability in these cells of the first set; None if there are none.
        probability_after: Its mean probability in these cells of the second set.
    """

    name: str
    before: float
    after: float
    change: float
    probability_before: float | None
    probability_after: float | None


class Change(_Frozen):
    """The differences between two sets of maps; None if one of the sets is empty.

    Attributes:
        before: The first set.
        after: The second set.
        distance: The Jensen-Shannon distance of their areas by class, 0 (equal) to 1 (no class in common).
        confidence: The change of the mean confidence.
        rejection_rate: The change of the rejection rate.
        classes: The classes that occur, the largest change first.
    """

    before: Side
    after: Side
    distance: float | None
    confidence: float | None
    rejection_rate: float | None
    classes: tuple[ClassChange, ...]

    @property
    def largest(self) -> ClassChange | None:
        """Returns the class whose area changed most."""
        return self.classes[0] if self.classes else None


class Thresholds(_Frozen):
    """Limits on drift; None means no limit.

    Attributes:
        max_area: Limit on the change of a class's share of the area, 0 to 1.
        max_distance: Limit on the distance of the areas, see `jensen_shannon`, 0 to 1.
        max_confidence: Limit on the change of the mean confidence, 0 to 1.
        max_rejections: Limit on the rise of the rejection rate, 0 to 1.
        min_maps: Groups with fewer images before or after are not judged, except the group `all`.
    """

    max_area: float | None = Field(default=None, ge=0, le=1)
    max_distance: float | None = Field(default=None, ge=0, le=1)
    max_confidence: float | None = Field(default=None, ge=0, le=1)
    max_rejections: float | None = Field(default=None, ge=0, le=1)
    min_maps: int = Field(default=100, ge=0)

    @property
    def any(self) -> bool:
        """Returns whether there is a limit."""
        limits = self.max_area, self.max_distance, self.max_confidence, self.max_rejections
        return any(limit is not None for limit in limits)


class Exceeded(_Frozen):
    """A limit that was exceeded.

    Attributes:
        group: The group of images.
        measure: `area`, `distance`, `confidence` or `rejections`.
        value: The value.
        limit: The limit.
        detail: The class, for `area`.
    """

    group: str
    measure: str
    value: float
    limit: float
    detail: str = ""

    def __str__(self) -> str:
        of_class = f" of {self.detail}" if self.detail else ""
        return f"{self.measure}{of_class} of {self.group} images changed by {self.value:.4f}, more than {self.limit:g}"


JUDGED = ("all", "model", "new")
"""The groups that thresholds apply to. Edited and deleted images are expected to differ."""


def compare(before: Tally, after: Tally) -> Change:
    """Returns the differences between two sets of maps."""
    names = sorted(before.cells.keys() | after.cells.keys())
    both = before.area > 0 and after.area > 0
    classes = [_class_change(name, before, after) for name in names] if both else []
    distance = None
    if both:
        distance = jensen_shannon(*(np.array([tally.cells[name] for name in names]) for tally in (before, after)))
    return Change(
        before=before.side(),
        after=after.side(),
        distance=distance,
        confidence=_difference(before.confidence, after.confidence),
        rejection_rate=_difference(before.rejection_rate, after.rejection_rate),
        classes=tuple(sorted(classes, key=lambda change: (-abs(change.change), change.name))),
    )


def jensen_shannon(p: Array, q: Array) -> float:
    """Returns the distance of two distributions: the root of their Jensen-Shannon divergence, base 2.

    sqrt((KL(p, m) + KL(q, m)) / 2) with m = (p + q) / 2 and KL(p, m) = sum p log2(p / m); a metric, 0 to 1.
    Lin, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory 37, 1991; that the root is a metric:
    Endres and Schindelin, A new metric for probability distributions, IEEE Trans. Inf. Theory 49, 2003.

    Args:
        p: [C], the first distribution: not negative, not all zero; need not sum to 1.
        q: [C], the second distribution.

    >>> jensen_shannon(np.array([1, 0]), np.array([0, 5])), jensen_shannon(np.array([1, 3]), np.array([2, 6]))
    (1.0, 0.0)
    """
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    divergence = (_relative_entropy(p, middle) + _relative_entropy(q, middle)) / 2
    # Rounding may make it slightly less than 0 or more than 1.
    return math.sqrt(min(max(divergence, 0.0), 1.0))


def judge(groups: Mapping[str, Change], thresholds: Thresholds) -> tuple[Exceeded, ...]:
    """Returns the limits that groups of images exceed (see `JUDGED`)."""
    exceeded = []
    for name in JUDGED:
        change = groups[name]
        if name == "all" or min(_images(change.before), _images(change.after)) >= thresholds.min_maps:
            exceeded += _exceeded(name, change, thresholds)
    return tuple(exceeded)


def _exceeded(group: str, change: Change, thresholds: Thresholds) -> list[Exceeded]:
    largest = change.largest
    measured: list[tuple[str, float | None, float | None, str]] = [
        ("area", abs(largest.change) if largest else None, thresholds.max_area, largest.name if largest else ""),
        ("distance", change.distance, thresholds.max_distance, ""),
        ("confidence", change.confidence and abs(change.confidence), thresholds.max_confidence, ""),
        ("rejections", change.rejection_rate, thresholds.max_rejections, ""),
    ]
    return [
        Exceeded(group=group, measure=measure, value=value, limit=limit, detail=detail)
        for measure, value, limit, detail in measured
        if value is not None and limit is not None and value > limit
    ]


def _images(side: Side) -> int:
    return side.maps + side.rejected


def _class_change(name: str, before: Tally, after: Tally) -> ClassChange:
    shares = [tally.cells[name] / tally.area for tally in (before, after)]
    means = [tally.units[name] / _UNIT / tally.cells[name] if tally.cells[name] else None for tally in (before, after)]
    return ClassChange(
        name=name,
        before=shares[0],
        after=shares[1],
        change=shares[1] - shares[0],
        probability_before=means[0],
        probability_after=means[1],
    )


def _relative_entropy(p: Array, q: Array) -> float:
    positive = p > 0
    return float(np.sum(p[positive] * np.log2(p[positive] / q[positive])))


def _difference(before: float | None, after: float | None) -> float | None:
    return None if before is None or after is None else after - before
