"""What an image costs besides inference: 100,000 small files, half JPEG, half PNG, and an engine that does nothing.

CPU: user and system time of the process and of those that decode for it, from the making of the pipeline to its end,
divided by the images; nothing is taken off. Memory: what the process that runs it all (driver and worker at once)
holds at the end, after many images less after few, divided by the difference; and the same of its peak.
"""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from tests.benchmarks.engines import idle_model
from tests.benchmarks.files import thumbnails
from tests.benchmarks.one_run import Measured, measure

FEW, MANY = 10_000, 100_000


def report(folder: Path, console: Console) -> None:
    model = idle_model(folder / "idle")
    few, many = (
        measure(thumbnails(folder, count), folder / f"overhead-{count}", model, idle="idle") for count in (FEW, MANY)
    )
    for found in (few, many):
        console.print(
            f"{found.images:,} files of 32 x 32: CPU {found.cpu_s / found.images * 1e3:.2f} ms an image, of it "
            f"{found.cpu_children_s / found.images * 1e3:.2f} ms in the processes that decode "
            f"({found.process_cpu_s / found.images * 1e3:.2f} ms with the start of Python), wall {found.wall_s:.1f} s; "
            f"{found.end_mb:.0f} MB at the end, {found.peak_mb:.0f} MB at most"
        )
    console.print(
        f"one image more takes {_bytes(many.end_mb - few.end_mb, few, many):.0f} bytes at the end, "
        f"{_bytes(many.peak_mb - few.peak_mb, few, many):.0f} at the peak"
    )


def _bytes(megabytes: float, few: Measured, many: Measured) -> float:
    return megabytes * 2**20 / (many.images - few.images)
