"""Names of files and of members that would have one address in the table: each is an image of its own, and none ends a
run."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from PIL import Image

from pipeline import MapTable, ScoreImages
from pipeline.maps.recipe import Recipe
from pipeline.runners.registry import open_runner
from pipeline.sources import ImageReference, Reader, locate
from pipeline.transforms.list_images import ListImages
from tests.support.fakes import FakeEngine, write_model

BYTE, TEXT = "a\udcff.png", r"a\udcff.png"


def image(value: int) -> bytes:
    """Returns a PNG of one colour, whose map tells it from the others."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (value, 0, 0)).save(buffer, format="PNG")
    return buffer.getvalue()


def red(data: bytes) -> int:
    """Returns the red of an image of one colour."""
    return int(np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0])


@pytest.fixture
def names(tmp_path: Path) -> Path:
    """Two names that have one spelling if nothing is done, in a folder and in an archive; and a file named as a member
    of that archive."""
    folder = tmp_path / "images"
    folder.mkdir()
    for value, name in ((10, BYTE), (20, TEXT), (30, "\\\udcff.png"), (40, r"\\udcff.png"), (50, f"x.tar#{TEXT}")):
        (folder / name).write_bytes(image(value))
    with tarfile.open(folder / "x.tar", "w", errors="surrogateescape") as archive:
        for value, name in ((60, BYTE), (70, TEXT), (80, "plain.png")):
            member = tarfile.TarInfo(name)
            member.size = len(image(value))
            archive.addfile(member, io.BytesIO(image(value)))
    return folder


def test_names_of_one_spelling_are_images_of_their_own(tmp_path: Path, names: Path):
    model, maps = write_model(tmp_path / "model"), tmp_path / "maps"
    for run_id in ("one", "two"):
        with beam.Pipeline(runner=open_runner("local"), options=PipelineOptions([])) as pipeline:
            _ = (
                pipeline
                | ListImages([str(names), str(names / "x.tar")])
                | ScoreImages(model, maps, Recipe(k=4), run_id=run_id, open_engine=FakeEngine)
            )
    table = MapTable(maps)
    assert list(table.rejections()) == []
    assert {name: table.runs()[-1]["images"][name] for name in ("keep", "listed")} == {"keep": 8, "listed": 8}
    with Reader() as reader:
        reds = {found.uri.removeprefix(f"{names}/"): red(reader.read(locate(found.uri)).data) for found in table}
    assert reds == {
        r"a\udcff.png": 10,
        r"a\\udcff.png": 20,
        r"\\\udcff.png": 30,
        r"\\\\udcff.png": 40,
        r"x.tar\#a\\udcff.png": 50,
        r"x.tar#a\udcff.png": 60,
        r"x.tar#a\\udcff.png": 70,
        "x.tar#plain.png": 80,
    }
    for typed, uri in ((BYTE, r"a\udcff.png"), (TEXT, TEXT), ("x.tar#plain.png", "x.tar#plain.png")):
        assert table.read(str(names / typed)).uri == f"{names}/{uri}"


def test_a_pipeline_of_the_users_own_may_give_one_address_to_two_files(tmp_path: Path, names: Path):
    references = [
        ImageReference("a.png", location=str(names / BYTE)),
        ImageReference("a.png", location=str(names / TEXT)),
        ImageReference(str(names / BYTE)),
    ]
    with beam.Pipeline(runner=open_runner("local"), options=PipelineOptions([])) as pipeline:
        _ = (
            pipeline
            | beam.Create(references)
            | ScoreImages(write_model(tmp_path / "model"), tmp_path / "maps", open_engine=FakeEngine)
        )
    table = MapTable(tmp_path / "maps")
    assert [(one.uri, one.detail) for one in table.rejections()] == [("a.png", "several files have this address")]
    assert [found.uri for found in table] == [rf"{names}/a\udcff.png"]
