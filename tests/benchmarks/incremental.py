"""What a second run over an unchanged collection costs, as a share of the first; and that it opens no file.

The engine does nothing and the files are photographs of 451 pixels: with a real model the share is far smaller.
"""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path

from rich.console import Console

from tests.benchmarks.engines import idle_model
from tests.benchmarks.files import photographs
from tests.benchmarks.one_run import measure

IMAGES, AGAIN = 10_000, 3


def report(folder: Path, console: Console) -> None:
    model, images, output = idle_model(folder / "idle"), photographs(folder, IMAGES), folder / "incremental"
    shutil.rmtree(output, ignore_errors=True)
    first = measure(images, output, model, idle="idle")
    later = [measure(images, output, model, idle="idle") for _ in range(AGAIN)]
    wall, cpu = (statistics.median(getattr(run, name) for run in later) for name in ("wall_s", "cpu_s"))
    console.print(
        f"{IMAGES:,} images: first run {first.wall_s:.1f} s (CPU {first.cpu_s:.1f}), the next {wall:.2f} s "
        f"(CPU {cpu:.2f}), median of {AGAIN}: {wall / first.wall_s:.1%} (CPU {cpu / first.cpu_s:.1%}); "
        f"files read by them: {sum(run.summary['images'].get('read', 0) for run in later)}"
    )
