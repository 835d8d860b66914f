"""`python -m tests.benchmarks ruler`: measures cell by cell, prints tables, and writes JSON and a picture."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from pipeline.scoring.machine import processor_name
from tests.benchmarks.ruler.children import Entrant, entrants
from tests.benchmarks.ruler.figures import Outcome
from tests.benchmarks.ruler.measure import measure
from tests.benchmarks.ruler.nets import DAILY, Cell
from tests.benchmarks.ruler.plot import plot
from tests.benchmarks.ruler.table import cell_table, summary

ROUNDS = 5
BUDGET_S = 15.0
"""For the rounds of one cell, so that all cells of every day are measured in ten minutes."""


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What to measure, and what to write.

    Attributes:
        cells: Nets and sizes.
        rounds: How often each engine has its turn at most.
        json: The file to write all figures to; None for none.
        plot: The file to write the picture to; None for none.
        entrants: Who takes part, if it is installed.
        budget_s: Seconds for the rounds of one cell; see `play_rounds`.
    """

    cells: Sequence[Cell] = DAILY
    rounds: int = ROUNDS
    json: Path | None = None
    plot: Path | None = None
    entrants: Sequence[Entrant] = dataclasses.field(default_factory=entrants)
    budget_s: float = BUDGET_S


def report(folder: Path, console: Console, wanted: Wanted) -> list[Outcome]:
    """Measures, prints each cell as soon as it is there, and returns all.

    Args:
        folder: Where the nets are made, and kept for the next time.
        console: Prints.
        wanted: What to measure.
    """
    today = dt.datetime.now(dt.UTC).date()
    title = f"{processor_name()}, {today.day} {today:%B %Y}, median of at most {wanted.rounds} rounds in turns"
    console.print(title)
    outcomes = []
    for cell in wanted.cells:
        outcome = measure(cell, folder, wanted.entrants, wanted.rounds, wanted.budget_s)
        outcomes.append(outcome)
        console.print(cell_table(outcome))
        for label, reason in outcome.left_out.items():
            console.print(f"{label} is left out: {reason}", markup=False)
        _write(outcomes, title, wanted)  # whoever stops a long run keeps what was measured
    console.print(summary(outcomes))
    return outcomes


def _write(outcomes: Sequence[Outcome], title: str, wanted: Wanted) -> None:
    if wanted.json is not None:
        figures = {"title": title, "cells": [as_json(outcome) for outcome in outcomes]}
        wanted.json.write_text(json.dumps(figures, indent=1) + "\n")
    if wanted.plot is not None:
        plot(outcomes, wanted.plot, title)


def as_json(outcome: Outcome) -> dict[str, object]:
    """Returns what was measured of a cell and what follows from it."""
    peak = outcome.peak
    found = dataclasses.asdict(outcome)
    found["peak_gflops"] = peak
    for each, values in zip(outcome.contestants, found["contestants"], strict=True):
        values["median_ms"] = each.milliseconds
        values["ratio"] = outcome.ratio(each)
        if each.kind != "peak":
            values["share_of_peak"] = None if peak is None else outcome.gflops(each) / peak
    return found
