"""A small collection, runs of the real job over it without TensorFlow, and what is counted in a table."""

from __future__ import annotations

import functools
import io
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from deltalake import DeltaTable
from PIL import Image

from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import describe_job
from pipeline.maintenance.check import check
from pipeline.table.diff import compare
from pipeline.table.log import active_parts
from pipeline.table.reader import MapTable
from pipeline.table.schema import IDENTITY
from pipeline.transforms.score_fn import ScoreFn
from pipeline.transforms.score_images import ScoreImages
from tests.support.fakes import FakeEngine, write_model

FLUSH_BYTES = 2500
"""A few rows fill a part, so that every run writes several."""

Settle = Callable[..., None]
"""Of the fixture `settle`: takes fault, outcome, table, images and, if it is to be compared, an undisturbed table."""

SIZES = [(24, 32), (32, 24), (40, 40), (24, 24), (16, 48)]
GOOD = 20


class Images:
    """A folder of images and a model."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        self.folder = root / "images"
        self.folder.mkdir()
        self.model = write_model(root / "model")

    def fill(self) -> Images:
        """Good ones and bad ones: 20 that get a map, 4 that do not."""
        for number in range(GOOD):
            self.put(f"{number:02}.{'jpg' if number % 3 else 'png'}", number)
        self.write("bad-format.jpg", b"no image")
        self.write("bad-half.jpg", (self.folder / "01.jpg").read_bytes()[:300])
        self.write("bad-empty.png", b"")
        self.put("bad-small.png", 99, (8, 8))
        return self

    def put(self, name: str, seed: int, size: tuple[int, int] | None = None, mark: int | None = None) -> None:
        """An image of noise; `mark`: the red value of its first pixel, which survives in a PNG."""
        height, width = size or SIZES[seed % len(SIZES)]
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        pixels[0, 0, 0] = seed if mark is None else mark
        stream = io.BytesIO()
        Image.fromarray(pixels).save(stream, "PNG" if name.endswith("png") else "JPEG")
        self.write(name, stream.getvalue())

    def write(self, name: str, data: bytes) -> None:
        (self.folder / name).write_bytes(data)

    def change(self) -> None:
        """The second night: changed, touched, removed, new, mended and broken images."""
        for number in (1, 6, 11):
            self.put(f"{number:02}.{'jpg' if number % 3 else 'png'}", number + 100)
        os.utime(self.folder / "02.jpg", ns=(1, 1))
        (self.folder / "03.png").unlink()
        self.put("new-a.png", 50)
        self.put("new-b.jpg", 51)
        self.put("bad-small.png", 52)
        self.write("04.jpg", b"broken now")

    def listed(self) -> set[str]:
        return {str(path) for path in self.folder.iterdir()}

    def undisturbed(self, output: Path, **options: Any) -> Any:
        """The rows of a run into another table that nothing disturbs."""
        self.run(output, **options)
        return rows_of(output)

    def values(self, output: Path, **options: Any) -> dict[str, Any]:
        """The description of a job."""
        return {"model": str(self.model), "images": (str(self.folder),), "output": str(output), "top_k": 2, **options}

    def run(self, output: Path, **options: Any) -> JobResult:
        """The real job, but for TensorFlow."""
        with without_tensorflow():
            return run_job(describe_job(**self.values(output, **options)))


@contextmanager
def without_tensorflow(
    engine: Callable[[], Any] = FakeEngine, score_fn: Callable[..., Any] = ScoreFn, flush_bytes: int = FLUSH_BYTES
) -> Iterator[None]:
    """Jobs run with another engine, and with small parts."""
    transform = functools.partial(ScoreImages, open_engine=engine, flush_bytes=flush_bytes)
    with (
        mock.patch("pipeline.jobs.submit.ScoreImages", transform),
        mock.patch("pipeline.transforms.score_images.ScoreFn", score_fn),
    ):
        yield


class Night(NamedTuple):
    """A collection, the table before the run, and the table after an undisturbed one.

    Attributes:
        images: The collection.
        before: A table to copy; None where the run makes it.
        after: The rows of an undisturbed run.
        options: Of the job.
    """

    images: Images
    before: Path | None
    after: Any
    options: dict[str, Any]

    def start(self, output: Path) -> Path:
        """The table as the disturbed run finds it."""
        if self.before is not None:
            shutil.copytree(self.before, output)
        return output

    def run(self, output: Path, **options: Any) -> JobResult:
        return self.images.run(output, **{**self.options, **options})

    def check_readable(self, output: Path) -> str:
        """Which version is readable right after a fault: none, the old, or the new one, and never anything else."""
        found = rows_of(output)
        if found is None:
            assert self.before is None
            return "no table"
        report = check(str(output))
        assert report.clean, report.findings
        if self.before is not None and same(found, rows_of(self.before)):
            return "old version"
        assert same(found, self.after)
        return "new version"


def rows_of(output: Path) -> Any:
    """All rows of a table in one order; None where there is no table."""
    if not DeltaTable.is_deltatable(str(output)):
        return None
    assert not [path for path in DeltaTable(str(output)).file_uris() if ".partial" in path]
    return MapTable(output).to_arrow().sort_by([(name, "ascending") for name in IDENTITY])


def same(left: Any, right: Any) -> bool:
    """Whether two tables are equal, row for row, but for when and by which run a row was made."""
    return compare(pads.dataset(left), pads.dataset(right)).equal


class Count(NamedTuple):
    """What became of the images of a collection.

    Attributes:
        images: How many there are.
        maps: How many have one.
        rejections: How many have a reason instead.
        lost: How many have neither, or not all of it.
        duplicated: How many rows there are beyond one for each image, scale and tile.
    """

    images: int
    maps: int
    rejections: int
    lost: int
    duplicated: int


def count(output: Path, listed: Collection[str]) -> Count:
    """Counts in the table as any Delta reader sees it, by none of densecast's code."""
    names = [*IDENTITY, "tile_count", "status"]
    files = DeltaTable(str(output)).file_uris()
    rows = [row for file in files for row in pq.read_table(file, columns=names, partitioning=None).to_pylist()]
    slots = Counter(tuple(row[name] for name in IDENTITY) for row in rows)
    statuses: defaultdict[str, Counter[str]] = defaultdict(Counter)
    tiles: Counter[str] = Counter()
    for row in rows:
        statuses[row["uri"]][row["status"]] += 1
        tiles[row["uri"]] = row["tile_count"]
    maps = {uri for uri in listed if statuses[uri] == {"scored": tiles[uri]}}
    rejections = {uri for uri in listed if statuses[uri] == {"rejected": 1}}
    lost = set(listed) - {uri for uri in listed if statuses[uri].keys() & {"scored", "rejected"}}
    return Count(len(listed), len(maps), len(rejections), len(lost), sum(slots.values()) - len(slots))


def maps_left_behind(output: Path) -> set[str]:
    """The images of which a complete part that the table does not read holds a map."""
    return {uri for uri, _ in _maps(output, active=False)}


def maps_to_adopt(output: Path) -> set[str]:
    """Those of which the table has no map of that version."""
    return {uri for uri, _ in _maps(output, active=False) - _maps(output, active=True)}


def _maps(output: Path, *, active: bool) -> set[tuple[str, str]]:
    """The images, and their versions, with maps in parts that the table reads, or in others."""
    known: set[str] = set()
    if output.exists() and DeltaTable.is_deltatable(str(output)):
        known = active_parts(DeltaTable(str(output)))
    columns = ["uri", "image_version", "status"]
    parts = [path for path in output.glob("part-*.parquet") if (path.name in known) == active]
    rows = [row for part in parts for row in pq.read_table(part, columns=columns, partitioning=None).to_pylist()]
    return {(row["uri"], row["image_version"]) for row in rows if row["status"] == "scored"}
