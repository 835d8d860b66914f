"""What the stages of a run report to the last one."""

from __future__ import annotations

from typing import Any, NamedTuple

from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue


class Base(NamedTuple):
    """The version of the table that a run began with; -1 where there was none."""

    version: int


class Tally(NamedTuple):
    """Counts, or seconds, by name: what a stage has to say to the summary of its run."""

    counts: dict[str, float]


class Removed(NamedTuple):
    """A part whose rows are replaced."""

    path: str


class Adopted(NamedTuple):
    """A dead run's part from which rows were taken."""

    path: str


def globally(value: Any) -> WindowedValue:
    """What a DoFn gives at the end of a bundle."""
    return WindowedValue(value, GlobalWindow().max_timestamp(), [GlobalWindow()])
