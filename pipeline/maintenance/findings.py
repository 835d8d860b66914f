"""The findings of a check: kinds of findings, and a list that stays short however much damage there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

LISTED = 100
"""The number of findings of each kind that are kept; all are counted."""


class Damage(StrEnum):
    """Kinds of damage; programs may rely on the values.

    Attributes:
        MISSING_FILE: The log names a part that is missing.
        WRONG_SIZE: A part has another size than the log says.
        WRONG_CONTENT: A part has another digest than its run has recorded.
        UNREADABLE: A part or one of its row groups cannot be read: it is not Parquet, or a page fails its checksum.
        COLUMNS: A part lacks columns, or has columns with other types, or with nulls that are not allowed.
        STATISTICS: The log's statistics of a part are wrong; readers skip parts by them.
        ROW: A row contradicts itself: status, reason, arrays, sizes, values.
        MAP_DIGEST: A map differs from its digest, so is not the one that was stored.
        DUPLICATE: An image has more than one row for a scale and tile.
        INCOMPLETE: Tiles of an image are missing.
        MIXED: The rows of an image are of different runs, recipes, contents or tilings.
        COUNTS: A run has published another number of maps or rejections than its summary says.
        RECORD: A run's summary, or a model's metadata, is missing or damaged.
        FOREIGN_ROWS: Another program has appended rows that are not densecast's. This alone is not damage: readers
            leave them out, and the maps are what they were.
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
    FOREIGN_ROWS = "foreign-rows"


HARMLESS = frozenset({Damage.FOREIGN_ROWS})
"""The kinds of findings that are not damage."""


class Finding(NamedTuple):
    """One finding about a table.

    Attributes:
        kind: The kind.
        where: The file, image or run.
        what: The expected and the actual state.
    """

    kind: Damage
    where: str
    what: str


class Findings:
    """Collects findings: counts all of them, and keeps the first `LISTED` of each kind."""

    def __init__(self) -> None:
        self._counts: Counter[Damage] = Counter()
        self._listed: list[Finding] = []

    def add(self, findings: Iterable[Finding]) -> None:
        """Adds findings."""
        for finding in findings:
            self._counts[finding.kind] += 1
            if self._counts[finding.kind] <= LISTED:
                self._listed.append(finding)

    def count(self, kind: Damage) -> int:
        """Returns the number of findings of a kind."""
        return self._counts[kind]

    def counts(self) -> dict[str, int]:
        """Returns the number of findings by kind of damage; kinds without findings are left out."""
        return {kind.value: self._counts[kind] for kind in Damage if self._counts[kind] and kind not in HARMLESS}

    def listed(self) -> tuple[Finding, ...]:
        """Returns the findings that are kept, in the order in which they were added."""
        return tuple(self._listed)
