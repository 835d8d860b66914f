"""Images that are cut: what the size of the tiles costs in time and memory, with CaffeNet.

`strip` is 20,000 pixels wide, so that a row of tiles is as wide as in an image of 20,000 x 20,000, and just high enough
to be read by window. `huge` scores the whole square, as JPEG and as deflated TIFF.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console

from pipeline.scoring.scorer import Limits
from tests.benchmarks.caffenet import caffenet
from tests.benchmarks.files import scene
from tests.benchmarks.one_run import Measured, measure

WIDTH, STRIP = 20_000, 3_400
SIDES = (1024, 1448, 2048, 2896, 4096)
_PIECE = 2000


def report(folder: Path, console: Console) -> None:
    """The table of tile sizes."""
    model, images = caffenet(folder), picture(folder / "strip", STRIP, "jpg")
    for side in SIDES:
        output = _fresh(folder / f"tiles-{side}")
        found = measure(images, output, model, tile_pixels=side * side)
        console.print(f"tiles of at most {side * side / 2**20:.0f} Mpixel: {_told(found, output)}")


def huge(folder: Path, console: Console) -> None:
    """The whole square, twice; each takes several minutes."""
    for ending in ("jpg", "tif"):
        output = _fresh(folder / f"huge-{ending}")
        images = picture(folder / f"huge-{ending}-files", WIDTH, ending)
        found = measure(images, output, caffenet(folder), tile_pixels=Limits().tile_pixels)
        console.print(f"{WIDTH} x {WIDTH}, {ending}: {_told(found, output)}")


def picture(folder: Path, height: int, ending: str, width: int = WIDTH) -> Path:
    """A folder with one image of height x width pixels: JPEG, or TIFF in deflated strips."""
    if not folder.exists():
        piece = np.asarray(scene(5, _PIECE))
        pixels = np.tile(piece, (-(-height // _PIECE), -(-width // _PIECE), 1))[:height, :width]
        partial = folder.with_name(folder.name + ".partial")
        partial.mkdir(parents=True, exist_ok=True)
        options = {"quality": 85} if ending == "jpg" else {"compression": "tiff_deflate", "tiffinfo": {278: 64}}
        Image.fromarray(pixels).save(partial / f"image.{ending}", **options)
        partial.rename(folder)
    return folder


def _told(found: Measured, output: Path) -> str:
    rows = [
        row
        for part in output.glob("part-*.parquet")
        for row in pq.read_table(part, columns=["status", "map_height", "map_width"]).to_pylist()
        if row["status"] == "scored"
    ]
    cells = sum(row["map_height"] * row["map_width"] for row in rows)
    if not cells:
        return f"rejected: {found.summary['reasons']}"
    return (
        f"{len(rows)} tiles, {cells:,} cells, wall {found.wall_s:.0f} s, CPU {found.cpu_s:.0f} s "
        f"({found.cpu_s / cells * 1e6:.0f} us a cell), peak {found.peak_mb + found.peak_children_mb:.0f} MB "
        f"({found.peak_children_mb:.0f} MB of it in the processes that decode)"
    )


def _fresh(output: Path) -> Path:
    shutil.rmtree(output, ignore_errors=True)
    return output
