"""The figures as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from tests.benchmarks.ruler.figures import Outcome

NOT_MEASURED = "-"


def cell_table(outcome: Outcome) -> Table:
    """Returns what was measured of one cell, the fastest first."""
    peak = outcome.peak
    title = outcome.cell if peak is None else f"{outcome.cell}; matrix product {peak:.0f} GFLOP/s"
    table = Table(title=title, title_justify="left")
    table.add_column("engine", no_wrap=True)
    for column in ("ms a batch", "times the fastest peer", "of the peak", "ready, s", "peak, MB", "off by"):
        table.add_column(column, justify="right")
    for each in sorted(outcome.engines, key=lambda engine: engine.milliseconds):
        ratio = outcome.ratio(each)
        table.add_row(
            each.version,
            f"{each.milliseconds:.1f}",
            NOT_MEASURED if ratio is None else f"{ratio:.2f}",
            NOT_MEASURED if peak is None else f"{outcome.gflops(each) / peak:.0%}",
            f"{each.ready_s:.1f}",
            f"{each.peak_mb:.0f}",
            NOT_MEASURED if each.difference is None else f"{each.difference:.1e}",
        )
    return table


def summary(outcomes: Sequence[Outcome]) -> Table:
    """Returns milliseconds of all engines by cell, and ours by the fastest peer."""
    labels = list(dict.fromkeys(each.label for outcome in outcomes for each in outcome.engines))
    ours = list(dict.fromkeys(each.label for outcome in outcomes for each in outcome.engines if each.kind == "ours"))
    table = Table(title="ms a batch, medians", title_justify="left")
    table.add_column("net, size")
    for label in labels:
        table.add_column(label, justify="right")
    for label in ours:
        table.add_column(f"{label} by the fastest peer", justify="right")
    for outcome in outcomes:
        found = {each.label: each for each in outcome.engines}
        times = [f"{found[label].milliseconds:.1f}" if label in found else NOT_MEASURED for label in labels]
        ratios = [outcome.ratio(found[label]) if label in found else None for label in ours]
        table.add_row(outcome.cell, *times, *(NOT_MEASURED if r is None else f"{r:.2f}" for r in ratios))
    return table
