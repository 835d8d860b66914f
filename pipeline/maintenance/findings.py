"""What a check of a table finds: kinds of damage, and a list of them that stays short however much there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

LISTED = 100
"""Findings of a kind that are kept; all are counted."""


class Damage(StrEnum):
    """Kinds of damage; programs may rely on the values.

    Attributes:
        MISSING_FILE: The log names a part that is not there.
        WRONG_SIZE: A part has another size than the log says.
        WRONG_CONTENT: A part has another digest than the run that wrote it has recorded.
        UNREADABLE: A part, or a group of its rows, cannot be read: no Parquet, or a page fails its checksum.
        COLUMNS: A part lacks columns, has them with other types, or with nulls where none may be.
        STATISTICS: What the log says of a part's rows is not so; readers skip parts by it.
        ROW: A row contradicts itself: status, reason, arrays, sizes, values.
        MAP_DIGEST: A map is not the one that was stored.
        DUPLICATE: An image has more than one row for a scale and tile.
        INCOMPLETE: Tiles of an image are missing.
        MIXED: The rows of an image are of different runs, recipes, contents or tilings.
        COUNTS: A run has published another number of maps or rejections than its summary says.
        RECORD: A run's summary, or a model's metadata, is missing or damaged.
    """

    MISSING_FILE = "missing-file"
    WRONG_SIZE = "wrong-size"
    WRONG_CONTENT = "wrong-content"
    UNREADABLE = "unreadable"
    COLUMNS = "columns"
    STATISTICS = "statistics"
    ROW = "row"
    MAP_DIGEST = "map-digest"
    DUPLICATE = "duplicate"
    INCOMPLETE = "incomplete"
    MIXED = "mixed"
    COUNTS = "counts"
    RECORD = "record"


class Finding(NamedTuple):
    """One thing that is wrong with a table.

    Attributes:
        kind: What kind of damage it is.
        where: The file, image or run.
        what: What was expected and what was found.
    """

    kind: Damage
    where: str
    what: str


class Findings:
    """Collects findings: all are counted, the first `LISTED` of each kind are kept."""

    def __init__(self) -> None:
        self._counts: Counter[Damage] = Counter()
        self._listed: list[Finding] = []

    def add(self, found: Iterable[Finding]) -> None:
        """Takes findings."""
        for finding in found:
            self._counts[finding.kind] += 1
            if self._counts[finding.kind] <= LISTED:
                self._listed.append(finding)

    def count(self, kind: Damage) -> int:
        """How many of a kind there are."""
        return self._counts[kind]

    def counts(self) -> dict[str, int]:
        """How many there are, by kind; kinds without any are left out."""
        return {kind.value: self._counts[kind] for kind in Damage if self._counts[kind]}

    def listed(self) -> tuple[Finding, ...]:
        """Those that are kept, in the order in which they came."""
        return tuple(self._listed)
