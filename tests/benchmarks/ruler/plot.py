"""The figures as a picture: the time of each engine by that of the fastest peer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.ruler.figures import Outcome

MARKS = "osD^v<>PX*"
_TICKS = (1, 2, 4, 8, 16, 32, 64, 0.5, 0.25, 1.5, 3, 6, 12, 0.75, 1.25, 1.75)
"""The most wanted first. Powers alone would leave one tick where all are less than twice as slow as the fastest."""
_APART = 0.09  # of the axis: a label's width
_INCHES_A_ROW = 0.45


def plot(outcomes: Sequence[Outcome], path: Path, title: str) -> None:
    """Writes one row for each cell, one mark for each engine; an SVG or what else the ending says.

    Cells without a peer are left out: there is nothing to compare with.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    shown = [outcome for outcome in outcomes if outcome.fastest is not None]
    labels = list(dict.fromkeys(each.label for outcome in shown for each in outcome.engines))
    figure = Figure(figsize=(9, 1.6 + _INCHES_A_ROW * len(shown)), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    axes.axvline(1, color="0.7")
    for number, label in enumerate(labels):
        points = [
            (ratio, row)
            for row, outcome in enumerate(shown)
            for each in outcome.engines
            if each.label == label and (ratio := outcome.ratio(each)) is not None
        ]
        filled = any(each.kind == "ours" for outcome in shown for each in outcome.engines if each.label == label)
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker=MARKS[number % len(MARKS)],
            linestyle="none",
            fillstyle="full" if filled else "none",
            label=label,
        )
    axes.set_xscale("log", base=2)
    least, most = axes.get_xlim()
    axes.set_xticks(ticks(least, most))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(axis="x", color="0.9")
    axes.set_xlabel("time, as multiple of the fastest peer's (left is faster)")
    axes.set_yticks(range(len(shown)), [outcome.cell for outcome in shown])
    axes.set_ylim(len(shown) - 0.5, -0.5)  # from the top
    axes.set_title(title, fontsize="small")
    axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1, 0.5))
    figure.savefig(path)


def ticks(least: float, most: float) -> list[float]:
    """Returns the ticks of a logarithmic axis from `least` to `most` whose labels do not meet, in ascending order."""
    kept: list[float] = []
    for tick in _TICKS:
        gaps = (abs(math.log(tick / other)) for other in kept)
        if least <= tick <= most and all(gap >= _APART * math.log(most / least) for gap in gaps):
            kept.append(tick)
    return sorted(kept)
