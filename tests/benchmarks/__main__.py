"""`python -m tests.benchmarks [NAME ...] [--folder FOLDER]`: measures, and prints what it found."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from pipeline.cli.console import quiet_libraries
from pipeline.engines.load_tensorflow import load_tensorflow
from tests.benchmarks import engine, incremental, memory, overhead, settings, throughput, tiles

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
    "huge": tiles.huge,
}
"""They take long, and answer what is not asked every day."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join([*_ALL, *_ON_DEMAND])}; else the first 6")
    parser.add_argument("--folder", type=Path, help="where files and models are made, and kept for the next time")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - _ALL.keys() - _ON_DEMAND.keys()
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    quiet_libraries(debug=False)
    load_tensorflow(debug=False)
    console = Console(soft_wrap=True)
    with tempfile.TemporaryDirectory() as name:
        folder = arguments.folder or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        for name in arguments.names or _ALL:
            console.rule(name)
            {**_ALL, **_ON_DEMAND}[name](folder, console)


if __name__ == "__main__":
    main()
