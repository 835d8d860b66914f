"""Whether memory stays flat: the peak after 10,000 photographs against that after 1,000, each in its own process.

The files are real JPEG of 451 pixels, decoded and scored by an engine that does nothing, rows written and published.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tests.benchmarks.engines import idle_model
from tests.benchmarks.files import photographs
from tests.benchmarks.one_run import Measured, measure

FEW, MANY = 1_000, 10_000


def report(folder: Path, console: Console) -> None:
    model = idle_model(folder / "idle")
    few, many = (
        measure(photographs(folder, count), folder / f"memory-{count}", model, idle="idle") for count in (FEW, MANY)
    )
    for found in (few, many):
        console.print(
            f"{found.images:,} JPEG of 451 x 451: peak {_peak(found):.0f} MB ({found.peak_mb:.0f} MB here and "
            f"{found.peak_children_mb:.0f} MB in the processes that decode)"
        )
    console.print(f"ten times the images take {_peak(many) / _peak(few) - 1:+.1%} memory")


def _peak(found: Measured) -> float:
    return found.peak_mb + found.peak_children_mb
