"""The table that `python -m tests.faults` prints."""

from __future__ import annotations

from tests.faults.__main__ import Rows


def test_a_row_is_one_line_however_long_it_is():
    rows = Rows()
    rows.rows[0, 0, "a test", 0] = ["a fault " * 20, "an outcome " * 20, *"12345"]
    assert len(rows.text().splitlines()) == 3
