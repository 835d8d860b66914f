"""Counts the maps of a table that were made under older decoding rules than today's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from pipeline.images.decoding_rules import Currency, Decoding, Rules, currency, type_by_name
from pipeline.maps.recipe import Recipe
from pipeline.table.schema import Status, strings

_COLUMNS = ("recipe", "uri", "status", "tile_index")
UNCERTAIN = "unknown"
"""Counts maps of images whose type neither the table nor their name tells."""


class OutdatedMaps:
    """Counts maps by file type.

    Attributes:
        counts: The number of maps that another run with the same settings makes again, by file type, or `UNCERTAIN`.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._made_by: dict[str, tuple[Decoding, Mapping[str, Rules]]] = {}

    def add_run(self, summary: Mapping[str, Any], model: Mapping[str, Any]) -> None:
        """Learns the recipe of a run.

        Args:
            summary: The summary of the run.
            model: The metadata of its model; empty if it is missing.
        """
        recipe = Recipe.from_json(summary.get("recipe"), model)
        if recipe is not None:
            self._made_by |= {digest: (decoding, recipe.rules) for digest, decoding in recipe.decodings().items()}

    def add_rows(self, batch: pa.RecordBatch) -> None:
        """Counts the maps among rows. A row whose recipe is not known, of a run without summary, is left out."""
        columns = (strings(batch.column(name)) for name in _COLUMNS[:3])
        tiles = batch.column("tile_index").to_pylist()
        for digest, uri, status, tile in zip(*columns, tiles, strict=True):
            if status != Status.SCORED or tile != 0 or digest not in self._made_by:
                continue
            decoding, rules = self._made_by[digest]
            state = currency(decoding, uri, rules, rejected=False)
            if state is not Currency.CURRENT:
                self.counts[decoding.format or type_by_name(uri) or UNCERTAIN] += 1

    def notes(self) -> list[str]:
        """Returns the counts as notes of a check."""
        notes = []
        by_type = ", ".join(f"{name} {count:,}" for name, count in sorted(self.counts.items()) if name != UNCERTAIN)
        if by_type:
            total = self.counts.total() - self.counts[UNCERTAIN]
            notes.append(
                f"{total:,} maps were made under older decoding rules ({by_type}): the next run that lists their images"
                " scores them again"
            )
        if uncertain := self.counts[UNCERTAIN]:
            notes.append(
                f"{uncertain:,} maps may have been made under older decoding rules, since the table does not tell the"
                " file types: the next run reads these images, and scores again what has changed"
            )
        return notes
