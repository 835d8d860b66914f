"""`densecast demo`: converts and scores what densecast ships; every figure in its report comes from the new table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from conversion import ModelMetadata, convert
from models import entry
from models.digits.pages import Page, compose_page, held_out
from models.fetch import fetch
from pipeline.errors import JobError
from pipeline.jobs.run import JobResult, run_job
from pipeline.jobs.spec import describe_job
from pipeline.maps.classification_map import ClassificationMap
from pipeline.table.reader import MapTable
from pipeline.tools.show import save_picture

MINIMUM_SHARE = 0.97  # of the digits; less means that something is broken


def run_demo(folder: Path, pages: int, seed: int, say: Callable[[str], None]) -> None:
    """Converts the digits model, composes pages of digits it never saw, scores them, and reports.

    Args:
        folder: The folder for `model`, `pages`, `maps` and `demo.png`; those of an earlier demo are replaced.
        pages: How many pages.
        seed: The seed of the pages.
        say: Prints a line of the report.

    Raises:
        JobError: The folder has other files, or fewer than 97 % of the digits are named right.
    """
    _clear(folder)
    model, images, table = folder / "model", folder / "pages", folder / "maps"
    say(f"1. converting the digits model to {model}")
    metadata = convert_digits(model)
    if metadata.verification:
        v = metadata.verification
        say(f"   verified: {v.blobs} blobs at {len(v.sizes)} sizes, worst {v.worst:.1e} of absmax")
    say(f"2. composing {pages} pages of digits that the model never saw in {images}")
    _compose(images, pages, seed)
    say(f"3. scoring them into {table}")
    result = run_job(describe_job(model=str(model), images=(str(images),), output=str(table), max_rejected=0))
    _report(folder, result, say)


def _clear(folder: Path) -> None:
    """Removes the files of an earlier demo, and nothing else."""
    marker = folder / ".densecast-demo"
    if folder.exists() and any(folder.iterdir()) and not marker.exists():
        raise JobError("the folder has other files", where=str(folder), remedy="name a new folder with --output")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    marker.touch()


def convert_digits(model: Path) -> ModelMetadata:
    """Converts the digits model, which densecast ships, into a new directory."""
    digits = entry("digits")
    return convert(
        digits.definition,
        fetch(digits),
        model,
        mean=digits.mean,
        scale=digits.scale,
        channel_order=digits.channel_order,
        labels=digits.labels,
        name=digits.name,
    )


def compose_pages(pages: int, seed: int) -> Iterator[Page]:
    """Yields pages of digits that the model never saw; the same seed gives the same pages."""
    glyphs, labels = held_out()
    rng = np.random.default_rng(seed)
    for _ in range(pages):
        yield compose_page(rng, glyphs, labels)


def _compose(images: Path, pages: int, seed: int) -> None:
    images.mkdir()
    for number, page in enumerate(compose_pages(pages, seed)):
        Image.fromarray(page.pixels).save(images / f"page-{number:03d}.png")
        truth = [{"label": d.label, "y": d.y, "x": d.x} for d in page.digits]
        (images / f"page-{number:03d}.json").write_text(json.dumps(truth), encoding="utf-8")


def _report(folder: Path, result: JobResult, say: Callable[[str], None]) -> None:
    """Compares the table with the true digits, and draws the page with the most digits."""
    right = total = cells = 0
    best: tuple[int, ClassificationMap] | None = None
    for page_map in MapTable(str(folder / "maps")):
        truth = json.loads(Path(page_map.uri).with_suffix(".json").read_text(encoding="utf-8"))
        named = sum(page_map.label(*page_map.at(digit["y"], digit["x"])) == str(digit["label"]) for digit in truth)
        right, total, cells = right + named, total + len(truth), cells + page_map.residual.size
        if best is None or len(truth) > best[0]:
            best = (len(truth), page_map)
    if best is None or not total:
        raise JobError("the demo's table has no maps", where=str(folder), remedy="please report this")
    picture = folder / "demo.png"
    with Image.open(best[1].uri) as page:
        save_picture(best[1], np.asarray(page.convert("RGB")), picture)
    summary = result.summary
    say(
        f"   {summary.images['listed']} images, {summary.scored} maps, {summary.rejected} rejected, {cells:,} cells "
        f"in {result.seconds:.1f} s"
    )
    say(f"4. {right} of {total} digits ({right / total:.1%}) are named right by the cell at their centre")
    say(f"   picture: {picture}")
    say(f"   next: densecast show {folder / 'maps'} {best[1].uri}")
    if right / total < MINIMUM_SHARE:
        raise JobError(
            f"only {right / total:.1%} of the digits are named right", why=f"at least {MINIMUM_SHARE:.0%} should be"
        )
