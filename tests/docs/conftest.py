"""The folder in which the examples of README and docs/ run: files and folders of the names that they use."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conversion import convert
from models import entry
from models.digits.pages import compose_page, held_out
from models.fetch import fetch
from tests.docs.commands import run_densecast

_SIZE = 160  # pixels: a map of 33 x 33 cells


@dataclass(frozen=True)
class Workplace:
    """A folder that can be put back as it was.

    Attributes:
        folder: Where the examples run; always the same, for a table holds the addresses of its images.
        pristine: A copy of its first state.
    """

    folder: Path
    pristine: Path

    def reset(self) -> None:
        """Removes what earlier examples left."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.pristine, self.folder)  # with the times of the files, which tell what has changed


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """The digits classifier as Caffe files and converted, pictures of digits, and a table of their maps."""
    root = tmp_path_factory.mktemp("docs")
    place = Workplace(root / "work", root / "pristine")
    place.folder.mkdir()
    digits = entry("digits")
    shutil.copy(digits.definition, place.folder / "deploy.prototxt")
    shutil.copy(fetch(digits), place.folder / "net.caffemodel")
    (place.folder / "synset_words.txt").write_text("\n".join(digits.labels), encoding="utf-8")
    _write_images(place.folder)
    convert(
        place.folder / "deploy.prototxt",
        place.folder / "net.caffemodel",
        place.folder / "my-model",
        mean=digits.mean,
        scale=digits.scale,
        labels=digits.labels,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        # A table of two versions, with a map, a rejection and a deletion.
        for images in (["photos/", "broken/", "@list.csv"], ["photos/", "broken/", "--prune"]):
            outcome = run_densecast(["score", "my-model", *images, "--output", "maps", "--max-rejected", "50%"])
            assert outcome.code == 0, outcome.stderr
    shutil.copytree(place.folder, place.pristine)
    return place


def _write_images(folder: Path) -> None:
    glyphs, labels = held_out()
    generator = np.random.default_rng(0)
    pixels = compose_page(generator, glyphs, labels).pixels
    places = ("photos/cat.jpg", "photos/dog.png", "photos/2026/11/28/boat.jpg", "more/2026/bird.jpg", "listed/tree.png")
    for number, name in enumerate(places):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        corner = 40 * number
        Image.fromarray(pixels[corner : corner + _SIZE, corner : corner + _SIZE]).save(path)
    demo = folder / "demo-output"  # as `densecast demo` leaves it
    (demo / "pages").mkdir(parents=True)
    (demo / ".densecast-demo").touch()
    Image.fromarray(pixels[:_SIZE, :_SIZE]).save(demo / "pages" / "page-000.png")
    (folder / "broken").mkdir()
    (folder / "broken" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 not an image")
    (folder / "list.csv").write_text("uri,id\nlisted/tree.png,tree\n", encoding="utf-8")
