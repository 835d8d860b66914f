"""The dates of a nightly job, as people write them; `today` is that of the local clock (the variable `TZ`)."""

from __future__ import annotations

import re
from datetime import date, timedelta

_LONGEST_BACKFILL = 3660  # days
_RELATIVE_DAYS = {"today": 0, "yesterday": 1}


def parse_day(text: str) -> date:
    """Returns the date that a text names: `2026-11-23`, `today` or `yesterday`, by the local clock.

    Raises:
        ValueError: The text is not a date.

    >>> parse_day("2026-11-23")
    datetime.date(2026, 11, 23)
    """
    if text in _RELATIVE_DAYS:
        return date.today() - timedelta(days=_RELATIVE_DAYS[text])
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text) is None:
        raise ValueError(f"{text!r} is not a date: write 2026-11-23, today or yesterday")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a date: {error}") from error


def parse_dates(text: str) -> list[date]:
    """Returns the dates of `FROM..TO`, both included.

    Raises:
        ValueError: The text is not a range of dates, or has too many.

    >>> [str(day) for day in parse_dates("2026-02-28..2026-03-01")]
    ['2026-02-28', '2026-03-01']
    """
    match = re.fullmatch(r"(\d{4}-\d{2}-\d{2})\.\.(\d{4}-\d{2}-\d{2})", text)
    if match is None:
        raise ValueError(f"{text!r} is not a range of dates: write 2026-11-01..2026-11-05")
    first, last = (date.fromisoformat(part) for part in match.groups())
    count = (last - first).days + 1
    if not 1 <= count <= _LONGEST_BACKFILL:
        raise ValueError(f"{text!r} is {count:,} days; from 1 to {_LONGEST_BACKFILL:,} are allowed")
    return [first + timedelta(days=number) for number in range(count)]
