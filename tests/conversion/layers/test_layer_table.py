"""The documentation's table of layers is the registry's."""

from __future__ import annotations

from pathlib import Path

import pytest

from conversion.layers import registered
from tests.support.layer_table import support_table, with_table

PAGE = Path(__file__).parents[3] / "docs" / "layers.md"


def test_page_holds_the_table_of_the_registry():
    text = PAGE.read_text(encoding="utf-8")
    assert with_table(text) == text, "run: python -m tests.support.layer_table docs/layers.md"


def test_table_has_a_row_with_words_for_every_layer():
    rows = support_table().splitlines()[2:]
    assert len(rows) == len(registered())
    assert all(len(row.split(" | ", 1)[1]) > 8 for row in rows)


def test_text_without_markers_is_refused():
    with pytest.raises(ValueError, match="must hold"):
        with_table("no markers")
