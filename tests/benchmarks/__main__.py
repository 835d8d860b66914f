"""Measures, and prints what it found: `python -m tests.benchmarks [NAME ...] [--all] [--json FOLDER] [--plot FILE]`."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from pipeline.cli.console import quiet_libraries
from tests.benchmarks import (
    engine,
    growth,
    incremental,
    memory,
    overhead,
    pipelines,
    settings,
    throughput,
    tiles,
)
from tests.benchmarks.ruler import nets
from tests.benchmarks.ruler import report as ruler

KEPT = Path("build/bench")
"""Where the ruler's nets are made unless a folder is named: to convert them takes longer than to measure them."""

_WIDE = 180

_DAILY = ("ruler", "pipelines")
"""What is measured if nothing is named."""

_PRINTED: Mapping[str, Callable[[Path, Console], None]] = {
    "engine": engine.report,
    "throughput": throughput.report,
    "memory": memory.report,
    "overhead": overhead.report,
    "incremental": incremental.report,
    "tiles": tiles.report,
    "settings": settings.report,
    "huge": tiles.huge,
}
"""They take long, and answer what is not asked every day."""

_FIGURES: Mapping[str, Callable[..., Mapping[str, object]]] = {"pipelines": pipelines.report, "growth": growth.report}
"""They return figures, and measure more where `everything` is asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    known = ["ruler", *_FIGURES, *_PRINTED]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; else {', '.join(_DAILY)}")
    parser.add_argument("--folder", type=Path, help="where files and models are made, and kept for the next time")
    parser.add_argument("--all", action="store_true", help="measure more: every net at every size, larger collections")
    parser.add_argument("--json", type=Path, metavar="FOLDER", help="write ruler.json, pipelines.json, growth.json")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="ruler: draw the times, as .svg")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    quiet_libraries(debug=False)
    # Into a file as wide as the tables are: rich would cut them to 80 columns.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
    cells, budget_s = (nets.EVERYTHING, math.inf) if arguments.all else (nets.DAILY, ruler.BUDGET_S)
    kept = arguments.json
    if kept:
        kept.mkdir(parents=True, exist_ok=True)
    wanted = ruler.Wanted(cells, budget_s=budget_s, json=kept and kept / "ruler.json", plot=arguments.plot)
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.names or _DAILY:
            console.rule(name)
            if name == "ruler":
                ruler.report(arguments.folder or KEPT, console, wanted)
            elif name in _FIGURES:
                figures = _FIGURES[name](folder, console, everything=arguments.all)
                if kept:
                    (kept / f"{name}.json").write_text(json.dumps(figures, indent=1) + "\n")
            else:
                _PRINTED[name](folder, console)


if __name__ == "__main__":
    main()
