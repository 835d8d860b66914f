"""`python -m tests.benchmarks [NAME ...] [--folder FOLDER] [--all] [--json FILE]`: measures, and prints figures."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.cli.console import quiet_libraries
from pipeline.engines.load_tensorflow import load_tensorflow
from tests.benchmarks import (
    devices,
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

Figures = Mapping[str, object]
"""What is written as JSON."""

_ALL: dict[str, Callable[[Path, Console], None]] = {
    "engine": engine.report,
    "throughput": throughput.report,
    "memory": memory.report,
    "overhead": overhead.report,
    "incremental": incremental.report,
    "tiles": tiles.report,
}
_ON_DEMAND: dict[str, Callable[[Path, Console], None]] = {
    "settings": settings.report,
    "devices": devices.report,
    "huge": tiles.huge,
}
"""They take long, and answer what is not asked every day."""
_FIGURES: dict[str, Callable[..., Figures]] = {"pipelines": pipelines.report}
_FIGURES_ON_DEMAND: dict[str, Callable[..., Figures]] = {"growth": growth.report}
"""They return figures, and measure more where `everything` is asked for."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    usual = [*_ALL, *_FIGURES]
    known: dict[str, Callable[..., Any]] = {**_ALL, **_ON_DEMAND, **_FIGURES, **_FIGURES_ON_DEMAND}
    rest = [name for name in known if name not in usual]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(usual)} (the default); {', '.join(rest)}")
    parser.add_argument("--folder", type=Path, help="where files and models are made, and kept for the next time")
    parser.add_argument("--all", action="store_true", help="measure more: larger collections, more rounds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures of pipelines and growth")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - known.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    quiet_libraries(debug=False)
    load_tensorflow(debug=False)
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        figures: dict[str, Figures] = {}
        for name in arguments.names or usual:
            console.rule(name)
            if name in (*_FIGURES, *_FIGURES_ON_DEMAND):
                figures[name] = known[name](folder, console, everything=arguments.all)
            else:
                known[name](folder, console)
        if arguments.json:
            arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
