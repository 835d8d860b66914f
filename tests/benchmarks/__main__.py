"""Measures, and prints what it found: `python -m tests.benchmarks [NAME ...]`."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from pipeline.cli.console import quiet_libraries
from pipeline.engines.load_tensorflow import load_tensorflow
from tests.benchmarks import devices, engine, incremental, memory, overhead, settings, throughput, tiles
from tests.benchmarks.ruler import nets
from tests.benchmarks.ruler import report as ruler

KEPT = Path("build/bench")
"""Where the ruler's nets are made unless a folder is named: to convert them takes longer than to measure them."""

_DAILY = ("ruler",)
"""What is measured if nothing is named."""

_ON_DEMAND: dict[str, Callable[[Path, Console], None]] = {
    "engine": engine.report,
    "throughput": throughput.report,
    "memory": memory.report,
    "overhead": overhead.report,
    "incremental": incremental.report,
    "tiles": tiles.report,
    "settings": settings.report,
    "devices": devices.report,
    "huge": tiles.huge,
}
"""They take long, and answer what is not asked every day."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    known = [*_DAILY, *_ON_DEMAND]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(known)}; else {', '.join(_DAILY)}")
    parser.add_argument("--folder", type=Path, help="where files and models are made, and kept for the next time")
    parser.add_argument("--all", action="store_true", help="ruler: every net at every size")
    parser.add_argument("--json", type=Path, metavar="FILE", help="ruler: writes all figures")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="ruler: draws the times, as .svg")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(known)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    quiet_libraries(debug=False)
    load_tensorflow(debug=False)
    console = Console(soft_wrap=True)
    wanted = ruler.Wanted(nets.EVERYTHING if arguments.all else nets.DAILY, json=arguments.json, plot=arguments.plot)
    daily = {"ruler": lambda folder, console: ruler.report(arguments.folder or KEPT, console, wanted)}
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.names or _DAILY:
            console.rule(name)
            {**daily, **_ON_DEMAND}[name](folder, console)


if __name__ == "__main__":
    main()
