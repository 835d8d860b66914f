"""Makes a fixture: a model, images, a job file and a table, all by one version of densecast.

`before_rooms/` was made by commit 782d769, the last before the packages of `pipeline` and `conversion` were split:

    git worktree add /tmp/old 782d769 && (cd /tmp/old && make .venv/.installed)
    mkdir /tmp/photos && cd /tmp/photos
    /tmp/old/.venv/bin/python /path/to/tests/compatibility/make_fixture.py pipeline.inference.publish

The folder is then moved here. Run it with the Python of the version that is to make the fixture, in an empty folder;
the argument is what publishes a run in that version, which one run is kept from.

`before_format/` has only the table that commit 969f1a6 made so, the last before tables had a format: model, images and
job are those of `before_rooms/`.

A table holds the absolute addresses of its images. All addresses here begin with `/proc/self/cwd`, so the folder can be
copied anywhere, and is used by a process that works in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

NET = Path(__file__).parents[1] / "golden" / "nets" / "lenet_small"
HERE = "/proc/self/cwd"
TIME = 1_760_000_000
"""When all images were changed, in seconds since 1970: the table knows it, and a copy has to have it."""

JOB = f"""\
model = "{HERE}/model"
images = ["{HERE}/photos/"]
output = "{HERE}/maps"
top-k = 3
scales = [1.0, 0.75]
features = ["ip1:float16"]
tile-pixels = 4096
prune = true
max-rejected = "50%"
device = "cpu"

[nightly]
name = "before-rooms"
lease-minutes = 2

[nightly.drift]
max-distance = 0.9
"""

# In a process of its own: maps as this version reads them.
KEEP_MAPS = """
import numpy as np
from pipeline import MapTable
arrays = {}
for cells in MapTable("maps"):
    for name in ("classes", "scores", "residual"):
        arrays[f"{cells.key}/{name}"] = getattr(cells, name)
    for name, values in cells.features.items():
        arrays[f"{cells.key}/features/{name}"] = values
np.savez_compressed("maps.npz", **arrays)
"""

# A run that dies when its parts are written and nothing is published.
DIE = """
import importlib, sys
from pipeline.cli import main
main = getattr(main, "main", main)  # later versions have a module of that name
module, _, name = "{target}".rpartition(".")
def die(*_, **__):
    raise SystemExit("the power fails")
setattr(importlib.import_module(module), name, die)
main(["nightly", "photos.toml", "--date=2026-11-03"])
"""


def main(publishes: str) -> None:
    """Makes the fixture in the current folder, which must be empty."""
    if any(Path.cwd().iterdir()):
        raise SystemExit("the current folder is not empty")
    densecast = str(Path(sys.executable).with_name("densecast"))
    Path("labels.txt").write_text("".join(f"digit {number}\n" for number in range(10)))
    weights = (NET / "net.prototxt", NET / "net.caffemodel")
    subprocess.run([densecast, "convert", *weights, "--output=model", "--labels=labels.txt"], check=True)
    Path("labels.txt").unlink()
    Path("photos.toml").write_text(JOB)
    Path("photos").mkdir()
    for seed, (name, height, width) in enumerate(
        (("tall.png", 60, 40), ("wide.png", 40, 56), ("leaves.png", 48, 48), ("huge.png", 100, 96))
    ):
        put_image(name, height, width, seed)
    broken = Path("photos/broken.png")
    broken.write_bytes(Path("photos/tall.png").read_bytes()[:100])
    os.utime(broken, (TIME, TIME))
    subprocess.run([densecast, "nightly", "photos.toml", "--date=2026-11-01"], check=True)
    Path("photos/leaves.png").unlink()
    put_image("second.png", 40, 40, 4)
    subprocess.run([densecast, "nightly", "photos.toml", "--date=2026-11-02"], check=True)
    # What the second run has replaced would be noted by a check.
    subprocess.run([densecast, "vacuum", "maps", "--retention=0h", "--force"], check=True)
    subprocess.run([sys.executable, "-c", KEEP_MAPS], check=True)
    checked = subprocess.run([densecast, "check", "maps", "--json"], check=True, capture_output=True, text=True)
    runs = subprocess.run([densecast, "runs", "maps", "--json"], check=True, capture_output=True, text=True)
    answers = {"check": json.loads(checked.stdout), "runs": json.loads(runs.stdout)}
    Path("answers.json").write_text(json.dumps(answers, indent=1) + "\n")
    put_image("late.png", 44, 44, 5)
    before = set(Path("maps").glob("*.parquet"))
    subprocess.run([sys.executable, "-c", DIE.format(target=publishes)], check=False)
    # Aside, so that the table itself is as a run leaves it.
    Path("died").mkdir()
    for part in set(Path("maps").glob("*.parquet")) - before:
        part.rename(Path("died") / part.name)
    Path("photos/late.png").rename("died/late.png")
    # Not for others to read: the machine's name.
    lease = Path("maps/_densecast/lease.json")
    lease.write_text(json.dumps({**json.loads(lease.read_text()), "host": "elsewhere", "space": "elsewhere"}))
    lease.with_name(".lease.json.lock").unlink(missing_ok=True)


def put_image(name: str, height: int, width: int, seed: int) -> None:
    """Writes a gray image of stripes and noise, which compresses well."""
    random = np.random.default_rng(seed)
    stripes = (np.arange(height)[:, None] * (seed + 2) + np.arange(width) * 5) % 256
    blocks = random.integers(0, 100, (height // 4, width // 4)).repeat(4, 0).repeat(4, 1)
    path = Path("photos") / name
    Image.fromarray(((stripes + blocks) % 256).astype(np.uint8)).save(path)
    os.utime(path, (TIME, TIME))


if __name__ == "__main__":
    main(*sys.argv[1:])
