"""The reports that the stages of a run send to the last stage."""

from __future__ import annotations

from typing import NamedTuple

from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.windowed_value import WindowedValue


class Base(NamedTuple):
    """The version of the table that a run began with; -1 where there was none."""

    version: int


class StageCounts(NamedTuple):
    """Counts and seconds of a stage, by name, for the summary of the run."""

    counts: dict[str, float]


class Removed(NamedTuple):
    """A part whose rows are replaced."""

    path: str


class Adopted(NamedTuple):
    """A part of a dead run from which rows were adopted."""

    path: str


def in_global_window(value: object) -> WindowedValue:
    """Returns an element as `DoFn.finish_bundle` has to yield it."""
    return WindowedValue(value, GlobalWindow().max_timestamp(), [GlobalWindow()])
